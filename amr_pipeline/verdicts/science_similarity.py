"""Science: option letters, numbers and equal text by rule, everything else by a judge's similarity, 0 to 5.

Source: DeepDistill 2.4.1 (the judge); the rules in front of it are ours: a letter needs no opinion.
"""

from collections.abc import Iterator, Sequence

from amr_pipeline.studies.study import ScienceVerifier
from amr_pipeline.verdicts.answer_extraction import last_boxed, option_named, option_of
from amr_pipeline.verdicts.finished_answer import finished_answer
from amr_pipeline.verdicts.judging import Question, ask
from amr_pipeline.verdicts.typed_answers import compare_typed
from amr_pipeline.verdicts.verifier import AskJudge, Case, Cause, Verdict, decided, undecided

HIGHEST = 5.0


class ScienceSimilarity:
    """Judges science responses."""

    def __init__(self, row: ScienceVerifier, ask_judge: AskJudge | None = None) -> None:
        self.name = row.name
        self._row, self._ask_judge = row, ask_judge

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """One verdict per case; stages `option` and `equal` are rules, `judge` is an opinion."""
        questions: list[Question] = []
        for case in cases:
            verdict = self._by_rule(case, questions)
            if verdict is not None:
                yield verdict
        if self._row.judge is None:
            yield from (undecided(question.case, Cause.JUDGE_UNAVAILABLE, stage="judge") for question in questions)
            return
        for case, reply in ask(self._row.judge, self._ask_judge, questions, "[0-5]"):
            if isinstance(reply, Cause):
                yield undecided(case, reply, stage="judge")
            else:
                yield decided(case, float(reply), stage="judge", evidence=f"similarity {reply}")

    def _by_rule(self, case: Case, questions: list[Question]) -> Verdict | None:
        if case.reference is None or not case.reference.strip():
            return undecided(case, Cause.NO_REFERENCE, stage="reference")
        answer = finished_answer(case)
        if isinstance(answer, Verdict):
            return answer
        if option := option_named(case.reference):
            found = option_of(answer)
            score = HIGHEST if found == option else 0.0
            return decided(case, score, stage="option", evidence=f"reference {option}, answer {found}")
        if self._row.rule_before_judge and compare_typed(case.reference, last_boxed(answer) or answer, 1e-6) is True:
            return decided(case, HIGHEST, stage="equal", evidence=f"{case.reference[:200]!r} is {answer[:200]!r}")
        questions.append(Question(case=case, answer=answer))
        return None
