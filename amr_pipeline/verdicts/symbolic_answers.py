"""Mathematics by symbolic comparison alone: a second opinion on what typed comparison or a judge let pass.

Takes the same final answer as `math_answers`, and asks Math-Verify about every pair, equal texts included. It shares
no comparison with the first verifier's typed stage and knows no judge, so it errs elsewhere.

Source: ours (a different verifier on rows that enter a subset).
"""

from collections.abc import Callable, Iterator, Sequence

from amr_pipeline.studies.study import SymbolicMathVerifier
from amr_pipeline.verdicts.algebra_limits import too_complex
from amr_pipeline.verdicts.answer_extraction import final_answer
from amr_pipeline.verdicts.finished_answer import finished_answer
from amr_pipeline.verdicts.verifier import AnswerPair, Case, Cause, CompareAnswers, Verdict, decided, undecided


class SymbolicAnswers:
    """Judges mathematics responses by Math-Verify alone."""

    def __init__(self, row: SymbolicMathVerifier, compare_answers: Callable[[], CompareAnswers]) -> None:
        self.name = row.name
        self._row, self._compare = row, compare_answers

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """One verdict per case; equal pairs of reference and answer are compared once."""
        pairs: dict[tuple[str, str], list[Case]] = {}
        for case in cases:
            verdict = self._settle(case, pairs)
            if verdict is not None:
                yield verdict
        if not pairs:
            return
        keys = list(pairs)
        asked = (AnswerPair(pair_id=str(index), reference=key[0], answer=key[1]) for index, key in enumerate(keys))
        for comparison in self._compare()(asked):
            reference, answer = keys[int(comparison.pair_id)]
            shown = f"reference {reference[:500]!r}, answer {answer[:500]!r}"
            for case in pairs[reference, answer]:
                if comparison.equal is None:
                    yield undecided(case, comparison.cause or Cause.CRASHED, stage="math_verify", evidence=shown)
                else:
                    yield decided(case, float(comparison.equal), stage="math_verify", evidence=shown)

    def _settle(self, case: Case, pairs: dict[tuple[str, str], list[Case]]) -> Verdict | None:
        """A verdict without algebra, or None after the pair was put down for it."""
        if case.reference is None or not case.reference.strip():
            return undecided(case, Cause.NO_REFERENCE, stage="reference")
        content = finished_answer(case)
        if isinstance(content, Verdict):
            return content
        answer = final_answer(content, self._row.answer_patterns)
        if not answer:
            return decided(case, 0.0, stage="no_answer", evidence=f"ends with {content[-200:]!r}")
        if reason := too_complex(answer) or too_complex(case.reference):
            return undecided(case, Cause.TOO_COMPLEX, stage="limits", evidence=reason)
        pairs.setdefault((case.reference, answer), []).append(case)
        return None
