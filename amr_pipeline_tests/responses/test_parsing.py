import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.responses.parsing import parse_response


@pytest.mark.parametrize(
    ("text", "think", "answer", "truncated"),
    [
        ("<think>2+2</think><answer>4</answer>", "2+2", "4", False),
        ("<think>2+2</think>\n4", "2+2", "4", False),
        ("4", None, "4", False),
        ("<think>the answer is 4", None, None, True),
        ("half a thought</think>4", "half a thought", "4", False),
        ("<think>a</think><answer>4", "a", "4", True),
        ("<think>a</think>", "a", None, False),
        ("<think>say </think> never</think><answer>4</answer>", "say </think> never", "4", False),
        ("<think>a</think><answer>1</answer><answer>2</answer>", "a", "2", False),
        ("", None, None, False),
    ],
)
def test_halves(text: str, think: str | None, answer: str | None, truncated: bool):
    parsed = parse_response(text)
    assert (parsed.think_content, parsed.answer_content, parsed.is_truncated) == (think, answer, truncated)


def test_only_the_exact_form_is_well_formed():
    assert parse_response("<think>a</think> <answer>b</answer>\n").is_well_formed
    assert not parse_response("<think>a</think>b").is_well_formed
    assert not parse_response("x<think>a</think><answer>b</answer>").is_well_formed


@given(st.text(alphabet="ab <>/", max_size=30), st.text(alphabet="ab 1", min_size=1, max_size=20).filter(str.strip))
def test_what_was_written_comes_back(think: str, answer: str):
    parsed = parse_response(f"<think>{think}</think><answer>{answer}</answer>")
    assert parsed.answer_content == answer.strip()
    assert parsed.think_content == think
    assert parsed.is_well_formed
    assert not parsed.is_truncated


@given(st.text(alphabet="ab <>/1\n", max_size=30).filter(str.strip))
def test_a_response_cut_inside_its_thinking_has_no_answer(text: str):
    parsed = parse_response(f"<think>{text}")
    assert (parsed.think_content, parsed.answer_content, parsed.is_truncated) == (None, None, True)


@given(st.text(alphabet="abc \n", max_size=60))
def test_every_prefix_of_a_response_that_has_an_answer_has_finished_thinking(think: str):
    whole = f"<think>{think}</think><answer>4</answer>"
    for end in range(7, len(whole)):
        parsed = parse_response(whole[:end])
        assert not parsed.is_well_formed
        if "</think>" not in whole[:end]:
            assert parsed.answer_content is None


@given(st.text())
def test_no_text_raises(text: str):
    parse_response(text)


def test_a_text_of_nothing_but_tags_is_read_at_once():
    parsed = parse_response("<think></think><answer></answer>" * 30_000)
    assert not parsed.is_well_formed
    assert parse_response(" <think>a</think>x<answer>b</answer>").is_well_formed is False
