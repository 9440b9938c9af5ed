"""Conversation: (coherence + correctness + helpfulness) / 12 from a reward model's heads, each 0 to 4.

A multi-turn query is judged on the final response, answer part only; the turns before it are what it answers. Heads
are counted by name, in whatever order the row says the model reports them, and the evidence keeps every one of them.

A reward model's heads are regressions and overshoot their range a little: what lies within `SLACK` of it counts as its
end (# ours). Further out, or not a number, or another number of heads than the row names, it is not the model that the
row means, and the verdict is undecided. A judge that writes its ratings may stand in for a reward model.

Source: DeepDistill 2.4.1, Eq. 4.
"""

import json
import math
from collections.abc import Iterator, Sequence

from amr_pipeline.categories import COUNTED_HEADS, HIGHEST_HEAD
from amr_pipeline.studies.study import ConversationVerifier
from amr_pipeline.verdicts.finished_answer import finished_answer
from amr_pipeline.verdicts.judging import Question, ask
from amr_pipeline.verdicts.verifier import (
    AskJudge,
    Case,
    Cause,
    RateReplies,
    RateRequest,
    Verdict,
    decided,
    undecided,
)

SLACK = 1.0
"""How far beyond 0 or 4 a head may lie, in its own unit."""


class ConversationReward:
    """Judges conversation responses."""

    def __init__(
        self,
        row: ConversationVerifier,
        ask_judge: AskJudge | None = None,
        rate_replies: RateReplies | None = None,
    ) -> None:
        self.name = row.name
        self._row, self._ask_judge, self._rate_replies = row, ask_judge, rate_replies

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """One verdict per case; the evidence keeps every head."""
        questions: list[Question] = []
        for case in cases:
            answer = finished_answer(case)
            if isinstance(answer, Verdict):
                yield answer
            else:
                questions.append(Question(case=case, answer=answer))
        if self._row.reward_model is not None:
            yield from self._rated(questions)
        elif self._row.judge is not None:
            yield from self._written(questions)
        else:
            yield from (undecided(question.case, Cause.JUDGE_UNAVAILABLE, stage="judge") for question in questions)

    def _written(self, questions: Sequence[Question]) -> Iterator[Verdict]:
        """Ratings that a judge writes as digits."""
        assert self._row.judge is not None
        pattern = " ".join(["[0-4]"] * len(self._row.heads))
        for case, reply in ask(self._row.judge, self._ask_judge, questions, pattern):
            if isinstance(reply, Cause):
                yield undecided(case, reply, stage="judge")
            else:
                yield self._score(case, [float(digit) for digit in reply.split()], "judge")

    def _rated(self, questions: Sequence[Question]) -> Iterator[Verdict]:
        """Heads of a reward model."""
        waiting = {question.case.response_id: question.case for question in questions}
        if self._rate_replies is None or not waiting:
            yield from (undecided(case, Cause.JUDGE_UNAVAILABLE, stage="reward") for case in waiting.values())
            return
        requests = (
            RateRequest(
                request_id=question.case.response_id,
                messages=(*question.case.messages, ("assistant", question.answer)),
            )
            for question in questions
        )
        for reply in self._rate_replies(requests):
            case = waiting.pop(reply.request_id)
            if reply.heads is None:
                yield undecided(case, reply.cause or Cause.JUDGE_UNAVAILABLE, stage="reward")
            else:
                yield self._score(case, reply.heads, "reward")
        yield from (undecided(case, Cause.CRASHED, stage="reward") for case in waiting.values())

    def _score(self, case: Case, values: Sequence[float], stage: str) -> Verdict:
        possible = all(math.isfinite(value) and -SLACK <= value <= HIGHEST_HEAD + SLACK for value in values)
        if len(values) != len(self._row.heads) or not possible:
            said = ", ".join(f"{value:.3g}" for value in values[:20])
            evidence = f"heads {said}; wanted {len(self._row.heads)} from 0 to {HIGHEST_HEAD:g}"
            return undecided(case, Cause.JUDGE_UNPARSED, stage=stage, evidence=evidence)
        heads = dict(zip(self._row.heads, values, strict=True))
        counted = [min(max(heads[name], 0.0), HIGHEST_HEAD) for name in COUNTED_HEADS]
        score = sum(counted) / (HIGHEST_HEAD * len(COUNTED_HEADS))
        return decided(case, score, stage=stage, evidence=json.dumps({name: round(heads[name], 4) for name in heads}))
