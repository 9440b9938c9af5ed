"""A loose first verifier, a strict second one: what the subset's page and its card say about that."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from amr_pipeline.assets import second_opinions
from amr_pipeline.studies.study import InstructionVerifier, SecondOpinion
from amr_pipeline.verdicts.canaries import CanaryDrift
from amr_pipeline_tests.assets.conftest import undone
from amr_pipeline_tests.assets.judged import Stored, instruction_study

STRICT = InstructionVerifier(name="strict_reading")
OPINION = SecondOpinion(recipe="stage1", verifier=STRICT, num_responses=12, seed=1)
LOOSE = (InstructionVerifier(reading="loose"),)
WALK = ("frequent_ngrams", "response_quality", "verdicts", "difficulty", "subsets", "second_opinions", "release")


def study(**changed: object):
    return instruction_study(**({"verifiers": LOOSE, "second_opinions": (OPINION,)} | changed))


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    told = Stored(tmp_path_factory.mktemp("second_opinions"), study())
    told.walk(WALK)
    return told


@pytest.fixture
def stored(walked: Stored) -> Iterator[Stored]:
    with undone(walked.deployment.home):
        yield walked


def card_of(stored: Stored) -> str:
    (path,) = [name for name in stored.store.read("release", "stage1")["path"] if name.endswith("README.md")]
    return stored.store.files.read(path).decode()


def test_rows_that_passed_wrongly_are_estimated_and_told(stored: Stored):
    rows = stored.store.read("second_opinions", "stage1")
    subset = stored.store.read("subsets", "stage1")
    assert set(rows["response_id"]) < set(subset["response_id"])
    (rate,) = second_opinions.rates_of(stored.platform, "stage1").rows(named=True)
    # Of three passing responses per query one passes only when it is read loosely; 12 of 18 rows are drawn.
    assert (rate["num_chosen"], rate["num_judged"]) == (18, 12)
    assert rate["num_rejected"] == rows.filter(rows["verdict"] == "failed").height > 0
    assert rate["false_pass_rate_low"] < rate["false_pass_rate"] < rate["false_pass_rate_high"]
    assert "| instruction_following | strict_reading | 18 | 12 |" in card_of(stored)
    assert stored.walk(WALK) == []


def test_what_was_said_before_is_not_asked_again(stored: Stored, monkeypatch: pytest.MonkeyPatch):
    judged = []
    really = second_opinions.cases_of

    def counted(owed):
        judged.append(owed.height)
        return really(owed)

    monkeypatch.setattr(second_opinions, "cases_of", counted)
    more = study(second_opinions=(replace(OPINION, num_responses=15),))
    assert stored.walk(("second_opinions",), more) == ["second_opinions"]
    assert judged == [3]
    assert stored.store.read("second_opinions", "stage1").height == 15


def test_a_second_verifier_that_drifts_publishes_nothing(stored: Stored, monkeypatch: pytest.MonkeyPatch):
    from amr_pipeline.verdicts import instruction_constraints

    before = stored.store.latest("second_opinions", "stage1")
    monkeypatch.setattr(instruction_constraints, "follows", lambda *arguments: True)
    changed = study(second_opinions=(replace(OPINION, verifier=replace(STRICT, name="another")),))
    with pytest.raises(CanaryDrift):
        stored.walk(("second_opinions",), changed)
    assert stored.store.latest("second_opinions", "stage1") == before


def test_a_recipe_without_one_has_none_and_its_card_is_silent(tmp_path: Path):
    told = Stored(tmp_path, study(second_opinions=()))
    told.walk(WALK)
    assert told.store.read("second_opinions", "stage1").is_empty()
    assert "second verifier" not in card_of(told)
