"""A response's two halves: think content and answer content.

Distillers write `<think> ... </think><answer> ... </answer>`. Text without any tag is an answer without thinking,
as imported responses often are; thinking that never closes has no answer, whatever stands in it.

Source: DeepDistill 2.3 and 2.5 (both halves explicit).
"""

import re
from dataclasses import dataclass

_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedResponse:
    """The halves of one response.

    Attributes:
        think_content: text of the thinking; None when there is none, or it never closes.
        answer_content: what counts as the answer; None when thinking never closed or nothing follows it.
        is_truncated: thinking or the answer was opened and never closed.
        is_well_formed: exactly `<think>..</think><answer>..</answer>`, nothing but white space around.
    """

    think_content: str | None
    answer_content: str | None
    is_truncated: bool
    is_well_formed: bool


_WELL_FORMED = ["<think>", "</think>", "<answer>", "</answer>"]


def parse_response(text: str) -> ParsedResponse:
    """Halves of a response, by its last closing tags, so that tags quoted inside the thinking do not end it early.

    Example: `<think>2+2</think><answer>4</answer>` has answer content `4`; `<think>4` has none.
    """
    # Tags are listed, not matched by one pattern: a text of nothing but tags would take it hours.
    if _TAG.findall(text) == _WELL_FORMED:
        before, think, between, answer, after = _TAG.split(text)
        if not (before + between + after).strip():
            return ParsedResponse(
                think_content=think, answer_content=_text(answer), is_truncated=False, is_well_formed=True
            )
    head, closed, tail = text.rpartition("</think>")
    if not closed and "<think>" in text:
        return ParsedResponse(think_content=None, answer_content=None, is_truncated=True, is_well_formed=False)
    think = head.partition("<think>")[2] if "<think>" in head else head
    before, opened, answer = tail.rpartition("<answer>")
    if not opened:
        answer = before + answer
    answer, answer_closed, _ = answer.partition("</answer>")
    return ParsedResponse(
        think_content=think if closed else None,
        answer_content=_text(answer),
        is_truncated=bool(opened) and not answer_closed,
        is_well_formed=False,
    )


def _text(answer: str) -> str | None:
    return answer.strip() or None
