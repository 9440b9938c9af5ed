"""Undecided stays owed, and a record never claims newer inputs than were read."""

from collections.abc import Callable, Iterator, Sequence

import polars as pl
import pytest

from amr_pipeline.assets.automation import partitions_to_regrade
from amr_pipeline.assets.responses import current_responses
from amr_pipeline.verdicts.instruction_constraints import InstructionConstraints
from amr_pipeline.verdicts.verifier import Case, Cause, Verdict, decided, undecided
from amr_pipeline_tests.assets.imported_world import ImportedWorld

KEY = "one|00"


def judging(monkeypatch: pytest.MonkeyPatch, change: Callable[[Case], Verdict | None]) -> None:
    """Let `change` say something else about a case, or None."""
    judge = InstructionConstraints.judge

    def changed(self: InstructionConstraints, cases: Sequence[Case]) -> Iterator[Verdict]:
        for case in cases:
            said = change(case)
            yield from [said] if said else judge(self, [case])

    monkeypatch.setattr(InstructionConstraints, "judge", changed)


@pytest.mark.parametrize("cause", [Cause.TIMEOUT, Cause.SANDBOX_UNAVAILABLE])
def test_what_another_attempt_may_settle_is_owed_until_it_is_settled(
    world: ImportedWorld, monkeypatch: pytest.MonkeyPatch, cause: Cause
):
    with monkeypatch.context() as broken:
        judging(broken, lambda case: undecided(case, cause, stage="x") if case.text == "a, b" else None)
        world.materialize()
        assert world.owed("verdicts") == [KEY]
        assert partitions_to_regrade(world.study, world.store, set(), 8) == [KEY]
        assert world.materialize() == {"verdicts": 1}, "another attempt, whose outcome is the same"
        assert world.owed("verdicts") == [KEY]
    assert world.store.read("difficulty", "00")["num_undecided"].sum() == 2  # its own row and the joint one
    assert world.materialize()["verdicts"] == 1
    assert world.owed("verdicts") == []
    assert world.store.read("difficulty", "00")["num_undecided"].sum() == 0
    assert world.store.read("verdicts", KEY).height == 6


def test_what_no_attempt_can_settle_is_not_owed(world: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    judging(monkeypatch, lambda case: undecided(case, Cause.NO_REFERENCE, stage="x") if case.text == "a" else None)
    world.materialize()
    assert world.owed("verdicts") == []


def test_a_version_that_came_after_reading_is_not_what_the_record_names(
    world: ImportedWorld, monkeypatch: pytest.MonkeyPatch
):
    def read_and_be_overtaken(*asked: object) -> pl.DataFrame:
        rows = current_responses(*asked)  # type: ignore[arg-type]
        world.store.write("responses", KEY, world.store.read("responses", KEY)[:5], fingerprints={})
        return rows

    world.materialize(assets=("raw_queries", "near_duplicates", "queries", "responses"))
    was = world.store.digest("responses", KEY)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("amr_pipeline.assets.verdicts.current_responses", read_and_be_overtaken)
        world.materialize(assets=("verdicts",))
    commit = world.store.latest("verdicts", KEY)
    assert commit is not None
    assert commit.fingerprints["inputs"]["responses/one|00"] == was  # type: ignore[index]
    assert KEY in world.owed("verdicts")


def test_regrading_says_which_verdicts_flipped_and_generates_nothing(
    finished: ImportedWorld, monkeypatch: pytest.MonkeyPatch
):
    responses = finished.store.digest("responses", KEY)
    finished.change("InstructionVerifier()", "InstructionVerifier(reading='loose')")
    judging(monkeypatch, lambda case: decided(case, 1.0, stage="x") if case.text == "a, b" else None)
    said: list[str] = []
    with finished.session() as session:
        session.regrade(say=said.append)
    assert "1 decided verdicts flipped" in said
    assert any("failed -> passed" in line for line in said)
    assert finished.store.digest("responses", KEY) == responses
    after = finished.store.read("verdicts", KEY)
    assert (after.height, after["verifier_fingerprint"].n_unique()) == (12, 2)
    said.clear()
    with finished.session() as session:
        session.regrade(say=said.append)
    assert said[-1] == "No decided verdict flipped."
