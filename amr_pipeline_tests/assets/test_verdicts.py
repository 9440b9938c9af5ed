"""The verdicts asset with a verifier that needs no engine: what is published, refused, and judged again."""

from pathlib import Path

import pytest

from amr_pipeline.assets import verdicts
from amr_pipeline.studies.study import InstructionVerifier
from amr_pipeline.verdicts import instruction_constraints
from amr_pipeline.verdicts.canaries import CanaryDrift
from amr_pipeline.verdicts.verifier import Case, Cause, Verdict, undecided
from amr_pipeline_tests.assets.judged import Stored, instruction_study

KEY = "weak|00"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path, instruction_study())


def test_verdicts_are_published_and_canaries_are_not_among_them(stored: Stored):
    result = stored.judge(KEY)
    rows = stored.store.read("verdicts", KEY)
    assert set(rows["response_id"]) == set(stored.store.read("responses", KEY)["response_id"])
    assert set(rows["verdict"]) == {"passed", "failed"}
    (check,) = [one for one in result.check_results or () if one.check_name == verdicts.CANARIES]
    assert check.passed
    assert check.metadata["canaries"].value == 5


def drifting(monkeypatch: pytest.MonkeyPatch, *, after: int = 0) -> None:
    """From the `after`-th constraint on, everything counts as followed."""
    really, asked = instruction_constraints.follows, []

    def always(*arguments: object) -> bool:
        asked.append(arguments)
        return True if len(asked) > after else really(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(instruction_constraints, "follows", always)


def test_a_verifier_that_drifts_publishes_nothing_and_the_version_before_stays(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
):
    stored.judge(KEY)
    before = stored.store.latest("verdicts", KEY)
    changed = instruction_study(verifiers=(InstructionVerifier(reading="loose"),))
    drifting(monkeypatch)
    with pytest.raises(CanaryDrift) as refused:
        stored.judge(KEY, study=changed)
    for told in (KEY, "refused", "canary instruction_following 4", "wanted failed, found passed"):
        assert told in str(refused.value)
    assert stored.store.latest("verdicts", KEY) == before
    assert stored.store.latest_any("verdicts", KEY) == before
    monkeypatch.undo()
    stored.judge(KEY, study=changed)
    now = stored.store.latest("verdicts", KEY)
    assert now is not None
    assert before is not None
    assert now.version > before.version


def test_batches_before_the_drift_are_kept_and_no_batch_of_it(stored: Stored, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verdicts, "VERDICTS_PER_BATCH", 4)
    sound_batch = 2 * (4 + 5 * 6)  # two readings of the constraints of four responses and of five canaries
    drifting(monkeypatch, after=sound_batch)
    with pytest.raises(CanaryDrift):
        stored.judge(KEY)
    assert stored.store.latest("verdicts", KEY) is None
    assert stored.store.read_any("verdicts", KEY).height == 4
    monkeypatch.undo()
    stored.judge(KEY)
    assert set(stored.store.read("verdicts", KEY)["verdict"]) == {"passed", "failed"}


def test_a_verifier_that_is_away_leaves_verdicts_undecided_owed_and_warned_about(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
):
    def away(self: object, case: Case) -> Verdict:
        return undecided(case, Cause.SANDBOX_UNAVAILABLE, stage="rule")

    monkeypatch.setattr(instruction_constraints.InstructionConstraints, "_one", away)
    result = stored.judge(KEY)
    (check,) = [one for one in result.check_results or () if one.check_name == verdicts.CANARIES]
    assert not check.passed
    assert set(stored.store.read("verdicts", KEY)["verdict"]) == {"undecided"}
    monkeypatch.undo()
    assert stored.judge(KEY).metadata["verdicts judged in this run"] == 12
    assert set(stored.store.read("verdicts", KEY)["verdict"]) == {"passed", "failed"}
