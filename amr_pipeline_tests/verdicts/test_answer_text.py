import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.answer_text import nesting, open_brackets, plain_answer, plain_words, split_outside


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("$\\dfrac{1}{2}.$", "\\frac{1}{2}"), ("\\(x\\)", "x"), ("$$ 9 $$", "9"), ("1{,}000", "1000"), ("1\\,000", "1000"), ("1,234,567.5", "1234567.5"),
        ("(1,234)", "(1,234)"), ("1, 234", "1, 234"), ("\\left( 2, 3 \\right]", "( 2, 3 ]"), ("5\\text{ cm}", "5 cm"), ("\\mathbf{v}", "v"),
        ("x \\leq 2", "x \\le 2"), ("x<=2", "x\\le 2"), ("185\\", "185"), ("50\\%", "50%"), ("\\$5", "5"), ("\\\\frac{1}{2}", "\\frac{1}{2}"),
    ],
)  # fmt: skip
def test_spellings(answer: str, plain: str):
    assert plain_answer(answer) == plain


@given(st.text(max_size=80))
def test_plain_answers_stay_as_they_are(text: str):
    once = plain_answer(text)
    assert once == once.strip()
    assert "$" not in once


def test_words_without_habit():
    assert plain_words("The  Hello, World!") == plain_words("hello world") == "hello world"


def test_separators_inside_brackets_do_not_separate():
    assert split_outside("(1,2),[3,4),5", ",") == ["(1,2)", "[3,4)", "5"]
    assert split_outside("", ",") == [""]


def test_nesting_and_open_brackets():
    assert nesting("f([x])") == 2
    assert open_brackets("(1,[2]") == 1
    assert open_brackets("1))") == -2
