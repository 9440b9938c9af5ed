import os
import time
from collections.abc import Iterator

import pytest

from amr_pipeline.categories import Category
from amr_pipeline.engines.answer_checkers import AnswerCheckers
from amr_pipeline.studies.study import MathVerifier
from amr_pipeline.verdicts.math_answers import MathAnswers
from amr_pipeline.verdicts.verifier import AnswerPair, Case
from amr_pipeline_tests.golden.hostile_answers import HOSTILE

DEADLINE_SECONDS = 1.0
NUM_JOBS = 2_000 if os.environ.get("AMR_SOAK") else 300


@pytest.fixture(scope="module")
def checkers() -> Iterator[AnswerCheckers]:
    opened = AnswerCheckers(slots=2)
    list(opened([AnswerPair(pair_id="warm", reference="x", answer="x", seconds=120.0)]))
    yield opened
    opened.close()


def case(name: str, answer: str, reference: str) -> Case:
    text = f"<think>...</think><answer>\\boxed{{{answer}}}</answer>"
    return Case(
        response_id=name, category=Category.MATH, messages=(("user", "?"),), text=text, finish_reason="stop", reference=reference
    )  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_each_ends_within_its_deadline_and_does_not_pass(checkers: AnswerCheckers, name: str):
    start = time.monotonic()
    (found,) = MathAnswers(MathVerifier(deadline_seconds=DEADLINE_SECONDS), lambda: checkers).judge(
        [case(name, HOSTILE[name], "17")]
    )
    assert found.outcome != "passed", found
    # The deadline, and a new worker's start on a busy machine.
    assert time.monotonic() - start < DEADLINE_SECONDS + 60.0


def test_as_references_they_end_too(checkers: AnswerCheckers):
    asked = [case(name, "17", text) for name, text in HOSTILE.items() if len(text) < 10_000 and text.strip()]
    found = list(MathAnswers(MathVerifier(deadline_seconds=DEADLINE_SECONDS), lambda: checkers).judge(asked))
    assert len(found) == len(asked)
    assert {one.response_id for one in found if one.outcome == "passed"} == set()


@pytest.mark.soak
def test_one_percent_poison_changes_no_innocent_verdict(checkers: AnswerCheckers):
    poison = ("9^{9^{9^9}}", "(10!)!", "\\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}", "\\sum_{k=1}^{10^9} \\frac{1}{k}")
    asked = [
        AnswerPair(pair_id=str(job), reference="17", answer=poison[job // 100 % 4], seconds=DEADLINE_SECONDS)
        if job % 100 == 0
        else AnswerPair(pair_id=str(job), reference=f"x+{job}", answer=f"{job}+x", seconds=120.0)
        for job in range(NUM_JOBS)
    ]
    right = sum(found.equal is True for found in checkers(asked))
    assert right == NUM_JOBS - NUM_JOBS // 100
