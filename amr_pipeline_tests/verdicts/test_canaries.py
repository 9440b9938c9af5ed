from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.categories import FACTS, Category
from amr_pipeline.engines.answer_checkers import AnswerCheckers
from amr_pipeline.engines.code_sandbox import CodeSandbox, missing_parts
from amr_pipeline.studies.study import (
    CodeVerifier,
    ConversationVerifier,
    InstructionVerifier,
    JudgeCanary,
    JudgeModel,
    MathVerifier,
    ScienceVerifier,
    Scorer,
    SymbolicMathVerifier,
    VerifierRow,
)
from amr_pipeline.verdicts.canaries import Canary, CanaryDrift, CanaryWatch, Kind, canaries_of, woven
from amr_pipeline.verdicts.registry import build_verifier
from amr_pipeline.verdicts.verifier import Case, Cause, Outcome, Verdict, decided, undecided
from amr_pipeline_tests.verdicts.cases import case, judge_saying

JUDGE = JudgeModel(scorer=Scorer(model="m", revision="r", max_model_len=9), prompt="deepdistill_science")
ROWS: tuple[VerifierRow, ...] = (
    MathVerifier(deadline_seconds=20.0),
    SymbolicMathVerifier(),
    CodeVerifier(cpu_seconds=1.0),
    ScienceVerifier(),
    InstructionVerifier(),
    ConversationVerifier(),
)
Judge = Callable[[Case], Verdict | None]


class Scripted:
    """A verifier that says what a function says; `calls` are the batches it was given."""

    name = "scripted"

    def __init__(self, *says: Judge) -> None:
        self.says, self.calls = says, []

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        says = self.says[min(len(self.calls), len(self.says) - 1)]
        self.calls.append([one.response_id for one in cases])
        yield from (verdict for one in cases if (verdict := says(one)) is not None)


CANARIES = canaries_of(CodeVerifier())
KIND = {canary.name: canary.kind for canary in CANARIES}


def right(one: Case) -> Verdict:
    """Every canary as it is known, every other case failed."""
    kind = KIND.get(one.response_id, Kind.KNOWN_FAIL)
    if kind is Kind.KNOWN_HANG:
        return undecided(one, Cause.TIMEOUT, stage="rule")
    return decided(one, FACTS[one.category].highest_score if kind is Kind.KNOWN_PASS else 0.0, stage="rule")


def but(kind: Kind, says: Judge, which: int | None = None) -> Judge:
    """`right`, except for canaries of a kind (or the one in that place)."""
    names = [canary.name for canary in CANARIES if canary.kind is kind]
    chosen = names if which is None else [names[which]]
    return lambda one: says(one) if one.response_id in chosen else right(one)


def passed(one: Case) -> Verdict:
    return decided(one, FACTS[one.category].highest_score, stage="rule")


def failed(one: Case) -> Verdict:
    return decided(one, 0.0, stage="rule")


def timed_out(one: Case) -> Verdict:
    return undecided(one, Cause.TIMEOUT, stage="rule")


REAL = [case(Category.CODE, "x", response_id=f"real {index}") for index in range(6)]


def judged(*says: Judge) -> tuple[list[str], CanaryWatch]:
    watch = CanaryWatch(canaries=CANARIES)
    return [verdict.response_id for verdict in watch.judge(Scripted(*says), REAL)], watch


@pytest.mark.parametrize(
    "row",
    [
        *ROWS,
        CodeVerifier(cpu_seconds=1.0, num_tests=1),
        CodeVerifier(num_tests=None),
        InstructionVerifier(reading="loose"),
    ],
    ids=lambda row: f"{row.name} {getattr(row, 'num_tests', '')}{getattr(row, 'reading', '')}",
)
def test_every_category_has_canaries_that_its_real_verifier_holds(row: VerifierRow):
    if row.category is Category.CODE and missing_parts():
        pytest.skip(f"no sandbox on this machine: {missing_parts()}")
    checkers = AnswerCheckers(slots=2)
    try:
        verifier = build_verifier(
            row, compare_answers=lambda: checkers, run_programs=lambda: CodeSandbox(slots=2), ask_judge=None
        )
        watch = CanaryWatch(canaries=canaries_of(row))
        assert list(watch.judge(verifier, [])) == []
        assert watch.unsettled == []
    finally:
        checkers.close()


@pytest.mark.parametrize("row", ROWS[:-1], ids=lambda row: row.name)
def test_a_known_pass_stands_on_either_side_of_the_hang(row: VerifierRow):
    order = [canary.case.response_id for canary in canaries_of(row)]
    kinds = {canary.name: canary.kind for canary in canaries_of(row)}
    batch = [one.response_id for one in woven([replace(case(row.category, "x")) for _ in range(5)], canaries_of(row))]
    (hang,) = [name for name in order if kinds[name] is Kind.KNOWN_HANG]
    place = batch.index(hang)
    assert {kinds[batch[place - 1]], kinds[batch[place + 1]]} == {Kind.KNOWN_PASS}
    assert set(kinds.values()) == set(Kind)


@given(st.integers(0, 20))
def test_weaving_in_loses_and_repeats_nothing(num_cases: int):
    cases = [case(Category.CODE, "x", response_id=str(index)) for index in range(num_cases)]
    batch = [one.response_id for one in woven(cases, CANARIES)]
    assert sorted(batch) == sorted([*(one.response_id for one in cases), *KIND])
    assert [name for name in batch if name not in KIND] == [one.response_id for one in cases]
    assert batch[0] in KIND
    assert batch[-1] in KIND


def test_real_verdicts_come_out_and_canaries_never_do():
    names, watch = judged(right)
    assert names == [one.response_id for one in REAL]
    assert watch.unsettled == []


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (but(Kind.KNOWN_PASS, failed, 0), "wanted passed, found failed"),
        (but(Kind.KNOWN_PASS, failed, 1), "wanted passed, found failed"),
        (but(Kind.KNOWN_FAIL, passed), "wanted failed, found passed"),
        (but(Kind.KNOWN_HANG, passed), "wanted failed or undecided, found passed"),
        (but(Kind.KNOWN_FAIL, lambda one: undecided(one, Cause.TOO_COMPLEX, stage="rule")), "undecided (too_complex)"),
        (but(Kind.KNOWN_PASS, lambda one: None, 2), "got no verdict"),
    ],
)
def test_drift_is_refused_with_its_name_and_both_outcomes(says: Judge, told: str):
    with pytest.raises(CanaryDrift, match="canary code") as refused:
        judged(says)
    assert told in str(refused.value)


def test_a_hang_that_failed_is_as_good_as_one_undecided():
    assert judged(but(Kind.KNOWN_HANG, failed))[1].unsettled == []


def test_a_canary_that_could_not_be_judged_is_named_and_is_not_drift():
    spoiled = but(Kind.KNOWN_PASS, timed_out, 1)
    names, watch = judged(spoiled, spoiled)
    assert len(names) == len(REAL)
    assert watch.unsettled == [[name for name, kind in KIND.items() if kind is Kind.KNOWN_PASS][1]]
    assert judged(spoiled, right)[1].unsettled == [], "an accident is judged again and settled"


def test_a_wrong_outcome_of_the_second_attempt_is_drift_too():
    with pytest.raises(CanaryDrift, match="wanted passed, found failed"):
        judged(but(Kind.KNOWN_PASS, timed_out, 1), but(Kind.KNOWN_PASS, failed, 1))


def test_a_verifier_that_is_away_is_not_drift():
    names, watch = judged(timed_out)
    assert len(names) == len(REAL)
    assert len(watch.unsettled) == len([kind for kind in KIND.values() if kind is not Kind.KNOWN_HANG])


def test_what_a_judge_says_counts_only_on_declared_canaries():
    opinionated = but(Kind.KNOWN_FAIL, lambda one: decided(one, 1.0, stage="judge"))
    assert judged(opinionated)[1].unsettled == []
    declared = ScienceVerifier(
        judge=JUDGE,
        judge_canaries=(
            JudgeCanary(messages=(("user", "Why?"),), answer="Because", reference="Because", passes=True),
            JudgeCanary(messages=(("user", "Why?"),), answer="Never mind", reference="Because", passes=False),
        ),
        rule_before_judge=False,
    )

    def verifier(reply: str | None):
        return build_verifier(
            declared, compare_answers=list, run_programs=list, ask_judge=judge_saying(reply, Cause.JUDGE_UNAVAILABLE)
        )  # type: ignore[arg-type]

    watch = CanaryWatch(canaries=canaries_of(declared))
    with pytest.raises(CanaryDrift, match="judge 1, a known fail, wanted failed, found passed"):
        list(watch.judge(verifier("5"), []))
    with pytest.raises(CanaryDrift, match="judge 0, a known pass, wanted passed, found failed"):
        list(watch.judge(verifier("0"), []))
    away = CanaryWatch(canaries=canaries_of(declared))
    assert list(away.judge(verifier(None), [])) == []
    assert away.unsettled == ["canary science judge 0", "canary science judge 1"]


def test_a_canary_looks_like_any_other_case():
    for row in ROWS:
        for canary in canaries_of(row):
            assert isinstance(canary, Canary)
            assert canary.case.category is row.category
            assert canary.case.text.startswith("<think>")


def test_outcomes_are_compared_not_scores():
    partly = but(Kind.KNOWN_FAIL, lambda one: decided(one, 0.5, stage="rule"))
    assert judged(partly)[1].unsettled == []
    assert decided(REAL[0], 0.5, stage="rule").outcome is Outcome.FAILED
