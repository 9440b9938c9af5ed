"""Mathematics: the final answer of a finished response against the reference.

Stage one compares by type, then symbolically where a hang can be killed. Stage two, where the study names a judge,
asks it about what stage one rejects. Text inside the thinking or of a truncated response never counts.

Source: DeepDistill 2.4.1, Eq. 1 (either stage accepts: score 1).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from amr_pipeline.studies.study import MathVerifier
from amr_pipeline.verdicts.algebra_limits import too_complex
from amr_pipeline.verdicts.answer_extraction import final_answer, last_boxed, option_named, option_of
from amr_pipeline.verdicts.answer_text import plain_words
from amr_pipeline.verdicts.finished_answer import finished_answer
from amr_pipeline.verdicts.judging import Question, ask
from amr_pipeline.verdicts.typed_answers import compare_typed, contradicts_itself
from amr_pipeline.verdicts.verifier import (
    AnswerPair,
    AskJudge,
    Case,
    Cause,
    CompareAnswers,
    Verdict,
    decided,
    undecided,
)

_YES_OR_NO = "(yes|no)"


class MathAnswers:
    """Judges mathematics responses by their final answer."""

    def __init__(
        self, row: MathVerifier, compare_answers: Callable[[], CompareAnswers], ask_judge: AskJudge | None = None
    ) -> None:
        self.name = row.name
        self._row, self._compare, self._ask_judge = row, compare_answers, ask_judge

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """One verdict per case; equal pairs of reference and answer are compared once."""
        pairs: dict[tuple[str, str], list[Case]] = {}
        for case in cases:
            verdict = self._settle(case, pairs)
            if verdict is not None:
                yield verdict
        rejected: list[tuple[Case, str]] = []
        for verdict, answer, case in self._symbolic(pairs):
            if verdict.verify_score == 0.0 and self._row.judge is not None:
                rejected.append((case, answer))
            else:
                yield verdict
        yield from self._second_look(rejected)

    def _settle(self, case: Case, pairs: dict[tuple[str, str], list[Case]]) -> Verdict | None:
        """A verdict without symbolic algebra, or None after the pair was put down for it."""
        if case.reference is None or not case.reference.strip():
            return undecided(case, Cause.NO_REFERENCE, stage="reference")
        content = finished_answer(case)
        if isinstance(content, Verdict):
            return content
        reference = last_boxed(case.reference) or case.reference
        answer = final_answer(content, self._row.answer_patterns)
        if option_named(reference):
            answer = option_of(content) or answer
        if not answer:
            return _whole_content(case, reference, content)
        equal = compare_typed(reference, answer, self._row.relative_tolerance)
        if equal is True or (equal is False and self._row.judge is None):
            return decided(case, float(equal), stage="typed", evidence=_shown(reference, answer))
        if (verdict := _not_for_algebra(case, reference, answer)) is not None:
            return verdict
        pairs.setdefault((reference, answer), []).append(case)
        return None

    def _symbolic(self, pairs: dict[tuple[str, str], list[Case]]) -> Iterator[tuple[Verdict, str, Case]]:
        if not pairs:
            return
        keys = list(pairs)
        seconds = self._row.deadline_seconds
        asked = (
            AnswerPair(pair_id=str(index), reference=reference, answer=answer, seconds=seconds)
            for index, (reference, answer) in enumerate(keys)
        )
        for comparison in self._compare()(asked):
            key = keys[int(comparison.pair_id)]
            for case in pairs[key]:
                if comparison.equal is None:
                    cause = comparison.cause or Cause.CRASHED
                    yield undecided(case, cause, stage="math_verify", evidence=_shown(*key)), key[1], case
                else:
                    score = float(comparison.equal)
                    yield decided(case, score, stage="math_verify", evidence=_shown(*key)), key[1], case

    def _second_look(self, rejected: list[tuple[Case, str]]) -> Iterator[Verdict]:
        """Ask the judge twice, the second time with reference and answer exchanged; equality has no order.

        A judge that changes its mind with the order has no opinion: undecided, never a score.
        """
        if self._row.judge is None or not rejected:
            return
        replies: dict[str, list[str | Cause]] = {case.response_id: [] for case, _ in rejected}
        as_asked = [Question(case=case, answer=answer) for case, answer in rejected]
        exchanged = [
            Question(case=replace(case, reference=answer), answer=case.reference or "") for case, answer in rejected
        ]
        for questions in (as_asked, exchanged):
            for case, reply in ask(self._row.judge, self._ask_judge, questions, _YES_OR_NO):
                replies[case.response_id].append(reply)
        for case, _ in rejected:
            yield _opinion(case, *replies[case.response_id])


def _opinion(case: Case, first: str | Cause, second: str | Cause) -> Verdict:
    for reply in (first, second):
        if isinstance(reply, Cause):
            return undecided(case, reply, stage="judge")
    evidence = f"the judge said {first}, and {second} with the answers exchanged"
    if first != second:
        return undecided(case, Cause.JUDGE_INCONSISTENT, stage="judge", evidence=evidence)
    return decided(case, float(first == "yes"), stage="judge", evidence=evidence)


def _whole_content(case: Case, reference: str, content: str) -> Verdict:
    """An answer in words may be the reference word for word; otherwise there is none to compare."""
    words = plain_words(reference)
    if words and words == plain_words(content):
        return decided(case, 1.0, stage="typed", evidence=_shown(reference, content))
    return decided(case, 0.0, stage="no_answer", evidence=f"ends with {content[-200:]!r}")


def _not_for_algebra(case: Case, reference: str, answer: str) -> Verdict | None:
    if contradicts_itself(reference):
        return undecided(case, Cause.MALFORMED, stage="reference", evidence=f"contradicts itself: {reference[:500]}")
    reason = too_complex(answer) or too_complex(reference)
    return undecided(case, Cause.TOO_COMPLEX, stage="limits", evidence=reason) if reason else None


def _shown(reference: str, answer: str) -> str:
    return f"reference {reference[:500]!r}, answer {answer[:500]!r}"
