from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.training.rendering import render

END = 0
Turns = tuple[tuple[str, str], ...]


def chat(turns: Turns) -> list[int]:
    return [ord(letter) for role, text in turns for letter in f"{role[0]}:{text}\n"]


def plain(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_the_prompt_is_context_and_the_response_with_its_end_is_learned():
    (example,) = render([((("user", "ab"),), "cd")], chat, plain, END)
    assert example.tokens == (*map(ord, "u:ab\ncd"), END)
    assert (example.num_prompt_tokens, example.num_loss_tokens) == (5, 3)


def test_earlier_replies_are_context_too():
    turns = (("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    (example,) = render([(turns, "d")], chat, plain, END)
    assert example.tokens[example.num_prompt_tokens :] == (ord("d"), END)


TEXT = st.text(st.characters(min_codepoint=1), max_size=20)


@given(st.lists(st.tuples(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXT), min_size=1), TEXT)))
def test_context_and_response_together_are_all_tokens_in_order(pairs: list[tuple[list[tuple[str, str]], str]]):
    examples = list(render(pairs, chat, plain, END))
    assert len(examples) == len(pairs)
    for example, (turns, response) in zip(examples, pairs, strict=True):
        assert list(example.tokens[: example.num_prompt_tokens]) == chat(tuple(turns))
        assert example.tokens[example.num_prompt_tokens :] == (*plain(response), END)
        assert example.num_loss_tokens == len(response) + 1
