"""Examples as tokens: the prompt as context, the response as what is learned.

Loss falls on the final response only, its end-of-turn token included; earlier turns are context. An example longer
than a row is dropped and counted, never cut, because half an answer teaches to stop thinking in the middle.

Source: DeepDistill 4.1; masking and dropping follow the authors' companion reports (# ours: not printed there).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

ChatTokens = Callable[[Sequence[tuple[str, str]]], list[int]]
"""(role, content) turns to token ids, up to where the assistant's reply begins."""

TextTokens = Callable[[str], list[int]]
"""Plain text to token ids, without special tokens of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One example.

    Attributes:
        tokens: prompt and response.
        num_prompt_tokens: how many of them are context.
    """

    tokens: tuple[int, ...]
    num_prompt_tokens: int

    @property
    def num_loss_tokens(self) -> int:
        """Tokens that count in the loss."""
        return len(self.tokens) - self.num_prompt_tokens


def render(
    pairs: Iterable[tuple[Sequence[tuple[str, str]], str]],
    chat_tokens: ChatTokens,
    text_tokens: TextTokens,
    end_token: int,
) -> Iterator[Example]:
    """Examples of (turns, response text) pairs, in order."""
    for turns, response in pairs:
        prompt = chat_tokens(turns)
        yield Example(tokens=(*prompt, *text_tokens(response), end_token), num_prompt_tokens=len(prompt))
