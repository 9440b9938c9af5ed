"""A response is followed into every subset, training run and release that holds it, and is told what kept it out."""

from collections import Counter
from typing import Any

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.assets import descendants
from amr_pipeline.assets.descendants import Standing, kept_out, releases, subsets, trainings
from amr_pipeline.subsets import EASY, LOW_SCORE, OVER_QUOTA, UNSOLVED
from amr_pipeline.verdicts.verifier import Cause, undecided
from amr_pipeline_tests.assets.imported_world import ImportedWorld
from amr_pipeline_tests.assets.test_owed_verdicts import judging

RUNS = """training_recipes=tuple(
        TrainingRecipe(
            name=name, subset="uneven", starts_from=None if after else "m", revision=None if after else "1",
            continues=after, learning_rate=1e-5, epochs=1, sequence_tokens=64, batch_rows=1, seed=1,
        )
        for name, after in (("third", "second"), ("first", None), ("second", "first"), ("other", None))
    ),"""


def standing(world: ImportedWorld, text: str) -> Standing:
    """The response that says `text`."""
    for key in ("one|00", "two|00"):
        found = world.store.read("responses", key).filter(pl.col("text") == text)
        if found.height:
            return Standing(study=world.study, store=world.store, row=found.row(0, named=True), partition=key)
    raise AssertionError(f"nothing says {text!r}")


def reason(world: ImportedWorld, text: str) -> str:
    return kept_out(standing(world, text), world.study.selection_recipe("uneven"))


def checkpoint(world: ImportedWorld, run: str, version: int) -> None:
    """A stored training run on one version of the subset."""
    told: dict[str, Any] = {
        "training_recipe": run,
        "path": f"training/{run}",
        "digest": f"sha256:{run}",
        "subset_version": version,
        "subset_digest": "x",
        **dict.fromkeys(("num_examples", "num_dropped", "num_steps", "trained_tokens"), 1),
        **dict.fromkeys(("first_loss", "last_loss"), 1.0),
        "resumed_from_step": None,
        "mlflow_run_id": f"run of {run}",
    }
    world.store.write("checkpoints", run, pl.DataFrame([told], schema=tables.CHECKPOINTS.schema), fingerprints={})


def test_a_chosen_response_is_in_its_subset_and_each_other_has_its_reason(finished_world: ImportedWorld):
    (row,) = subsets(standing(finished_world, "a"), ["uneven"])
    assert (row["is_in"], row["because"], row["version"], row["pass_rate"]) == (True, "challenging", 1, 0.5)
    assert reason(finished_world, "a, b") == LOW_SCORE
    assert reason(finished_world, "c") == EASY
    assert reason(finished_world, "l, m") == UNSOLVED
    (row,) = subsets(standing(finished_world, "a, b"), ["uneven"])
    assert (row["is_in"], row["because"]) == (False, LOW_SCORE)


def test_every_reason_is_the_one_that_the_recipe_counted(finished_world: ImportedWorld):
    found = [
        subsets(standing(finished_world, text), ["uneven"])[0]
        for key in ("one|00", "two|00")
        for text in finished_world.store.read("responses", key)["text"]
    ]
    commit = finished_world.store.latest("subsets", "uneven")
    assert commit is not None
    told = {name: count for name, count in commit.counts.items() if count}
    assert Counter("chosen" if row["is_in"] else row["because"] for row in found) == told
    assert len(told) == 4


def test_a_full_quota_is_told_from_a_subset_that_is_old(world: ImportedWorld):
    world.change("cv_threshold=0.05)", "cv_threshold=0.05, quota=1)")
    world.materialize()
    (chosen,) = world.store.read("subsets", "uneven")["response_id"]
    out = next(text for text in ("a", "g", "n") if standing(world, text).identity != chosen)
    assert reason(world, out) == OVER_QUOTA
    world.change("quota=1)", "quota=3)")
    assert reason(world, out) == descendants.STALE
    world.change("cv_threshold=0.05, quota=3)", "cv_threshold=9.0)")
    assert reason(world, out) == EASY, "what the recipe says today"


def test_what_a_recipe_does_not_consider_says_why(world: ImportedWorld):
    world.materialize(assets=("raw_queries", "near_duplicates", "queries", "responses"))
    (row,) = subsets(standing(world, "a"), ["uneven"])
    assert (row["is_in"], row["because"]) == (False, descendants.NOT_MADE)
    world.materialize()
    world.change("distillers=DISTILLERS, seed=1", 'distillers=("two",), seed=1')
    assert reason(world, "a") == descendants.OTHER_DISTILLER
    world.change('distillers=("two",), seed=1', "distillers=DISTILLERS, seed=1")
    world.change("InstructionVerifier()", "InstructionVerifier(reading='loose')")
    assert reason(world, "a") == descendants.NOT_JUDGED
    world.change("InstructionVerifier(reading='loose')", "InstructionVerifier()")
    world.change("NUM_PASSES = 2", "NUM_PASSES = 1")
    gone = [text for text in ("a", "a, b") if reason(world, text) == descendants.NOT_EXPECTED]
    assert len(gone) == 1, "one of two passes does not count any more"


def test_a_query_that_waits_keeps_its_responses_out(world: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    judging(monkeypatch, lambda case: undecided(case, Cause.TIMEOUT, stage="x") if case.text == "a, b" else None)
    world.materialize()
    assert reason(world, "a") == "its query waits for an undecided pass"
    assert reason(world, "a, b") == "its verdict is undecided"


def test_training_is_asked_of_the_version_that_it_read(finished: ImportedWorld):
    finished.change("training_recipes=(),", RUNS)
    mine = standing(finished, "a")
    other = finished.store.read("subsets", "uneven").filter(pl.col("response_id") != mine.identity)
    finished.store.write("subsets", "uneven", other, fingerprints={})
    for run, version in (("first", 1), ("second", 2), ("third", 2), ("other", 2)):
        checkpoint(finished, run, version)
    found = {row["training_recipe"]: row["because"] for row in trainings(standing(finished, "a"), ["uneven"])}
    assert found == {
        "first": "version 1 of uneven",
        "second": "goes on from first",
        "third": "goes on from second",
    }
    left = standing(finished, "g")
    runs = [row["training_recipe"] for row in trainings(left, ["uneven"])]
    assert sorted(runs) == ["first", "other", "second", "third"], "each once, though it was also continued"
    assert trainings(standing(finished, "a, b"), ["uneven"]) == []
    assert ("checkpoints", "other") in left.places


def test_a_version_that_is_gone_proves_nothing(finished: ImportedWorld):
    finished.change("training_recipes=(),", RUNS)
    checkpoint(finished, "first", 7)
    assert trainings(standing(finished, "a"), ["uneven"]) == []


def test_a_release_holds_what_its_files_hold(finished: ImportedWorld):
    mine = standing(finished, "a")
    subsets(mine, ["uneven"])
    (row,) = releases(mine, ["uneven"])
    assert (row["is_in"], row["version"]) == (True, 1)
    assert row["folder"].startswith("release_files/uneven/")
    assert [row["is_in"] for row in releases(standing(finished, "c"), ["uneven"])] == [False]
    # The subset moves on; what was released stays released.
    other = finished.store.read("subsets", "uneven").filter(pl.col("response_id") != mine.identity)
    finished.store.write("subsets", "uneven", other, fingerprints={})
    assert [row["is_in"] for row in releases(standing(finished, "a"), ["uneven"])] == [True]
    finished.store.files.remove(f"{row['folder']}/passports.parquet")
    assert [row["is_in"] for row in releases(standing(finished, "a"), ["uneven"])] == [None]
