"""Cases and callables that stand in for engines in the verifiers' tests."""

from collections.abc import Iterable, Iterator

from amr_pipeline.categories import Category
from amr_pipeline.verdicts.verifier import AnswerPair, Case, Cause, Comparison, JudgeReply, JudgeRequest


def case(category: Category, answer: str, *, finish_reason: str = "stop", response_id: str = "r", **more: str) -> Case:
    """A case whose response is `answer` after some thinking."""
    text = f"<think>steps</think><answer>{answer}</answer>"
    return Case(
        response_id=response_id,
        category=category,
        messages=(("user", "?"),),
        text=text,
        finish_reason=finish_reason,
        **more,
    )  # type: ignore[arg-type]


def comparer(equal: bool | None, cause: Cause | None = None):
    """A comparison that always says the same."""

    def compare(pairs: Iterable[AnswerPair]) -> Iterator[Comparison]:
        for pair in pairs:
            yield Comparison(pair_id=pair.pair_id, equal=equal, cause=cause)

    return lambda: compare


def judge_saying(text: str | None, cause: Cause | None = None, seen: list[JudgeRequest] | None = None):
    """A judge that always replies the same."""

    def ask(requests: Iterable[JudgeRequest]) -> Iterator[JudgeReply]:
        for request in requests:
            if seen is not None:
                seen.append(request)
            yield JudgeReply(request_id=request.request_id, text=text, cause=cause)

    return ask
