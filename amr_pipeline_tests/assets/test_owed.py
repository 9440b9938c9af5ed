"""What `amr owed` counts is what a run does, and it gives a reason exactly where something is owed."""

import pytest

from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.materialization import ORDER
from amr_pipeline.assets.owed import UnknownAssetError, what_is_owed, why_owed
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.assets.reporting import REPORTS
from amr_pipeline.report.owed_table import Owed
from amr_pipeline.verdicts.verifier import Cause, undecided
from amr_pipeline_tests.assets.imported_world import ImportedWorld
from amr_pipeline_tests.assets.test_owed_verdicts import judging


def owed(world: ImportedWorld, *names: str) -> Owed:
    return what_is_owed(world.study, world.store, names)


def rows(world: ImportedWorld, name: str) -> dict[str, dict[str, int]]:
    return {one.partition: dict(one.rows or {}) for one in owed(world, name).of(name)}


def test_a_new_world_owes_every_partition_and_a_finished_one_nothing(world: ImportedWorld):
    before = owed(world)
    assert {name: len(before.of(name)) for name in before.partitions} == dict(before.partitions)
    assert all(one.because for one in before.owed)
    assert {one.num_rows for one in before.owed} == {None}, "nobody knows yet how many queries there are"
    assert not {"checkpoints", "sweep_report"} & set(before.partitions), "the study has no row for them"
    world.materialize()
    assert owed(world).owed == ()


def test_queries_make_responses_owed_and_responses_make_verdicts_owed(world: ImportedWorld):
    world.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    assert rows(world, "responses") == {"one|00": {"never written": 6}, "two|00": {"never written": 6}}
    world.materialize(assets=("responses",))
    assert rows(world, "responses") == {}
    assert rows(world, "verdicts") == {"one|00": {"never judged": 6}, "two|00": {"never judged": 6}}


def test_one_more_pass_and_a_changed_file_are_told_apart(finished: ImportedWorld):
    finished.change("NUM_PASSES = 2", "NUM_PASSES = 3")
    finished.answer("two", {"Who first?": ["other", "words"]})
    assert rows(finished, "responses") == {
        "one|00": {"never written": 3},
        "two|00": {"never written": 3, "its row changed": 6},
    }


def test_a_changed_verifier_and_a_transient_cause_are_told_apart(world: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as broken:
        judging(broken, lambda case: undecided(case, Cause.TIMEOUT, stage="x") if case.text == "a, b" else None)
        world.materialize()
    assert rows(world, "verdicts") == {"one|00": {"undecided: timeout": 1}}
    assert owed(world, "verdicts").owed[0].because == ("lacks rows",)
    world.change("InstructionVerifier()", "InstructionVerifier(reading='loose')")
    assert rows(world, "verdicts") == {"one|00": {"its verifier changed": 6}, "two|00": {"its verifier changed": 6}}


def test_what_is_counted_is_what_a_run_then_judges(finished: ImportedWorld):
    finished.ask("Who first?", "Who second?", "Who fourth?")
    finished.answer("one", {"Who first?": ["a", "a, b"], "Who fourth?": ["q", "r"]})
    finished.materialize(assets=("raw_queries", "near_duplicates", "queries", "responses"))
    counted = rows(finished, "verdicts")
    assert counted == {"one|00": {"never judged": 4}, "two|00": {}}
    before = {key: finished.store.read("verdicts", key).height for key in counted}
    finished.materialize(assets=("verdicts",))
    judged = {key: finished.store.read("verdicts", key).height - before[key] for key in counted}
    assert judged == {key: sum(found.values()) for key, found in counted.items()}


def test_there_is_a_reason_exactly_where_something_is_owed(finished: ImportedWorld):
    finished.ask("Who first?", "Who second?")
    finished.change("cv_threshold=0.05", "cv_threshold=0.06")
    finished.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    lineage = Lineage(finished.study, finished.store)
    said = {
        (name, key): list(why_owed(lineage, finished.store, name, key))
        for name in ORDER
        if name not in REPORTS
        for key in stored_partitions(finished.study, name)
    }
    assert {place for place, reasons in said.items() if reasons} == {
        place for place in said if not lineage.is_current(*place)
    }
    assert said["responses", "one|00"] == ["older than queries/00"]
    assert said["subsets", "uneven"] == ["of other study rows", "older than queries/00"]
    assert said["raw_queries", "s"] == []


def test_an_unfinished_version_is_no_missing_one(world: ImportedWorld):
    world.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    writer = world.store.writer("responses", "one|00", fingerprints={})
    writer.append(world.store.read("responses", "one|00", missing="empty"))
    writer.commit_part()
    because = {one.partition: one.because for one in owed(world, "responses").owed}
    assert because == {"one|00": ("begun and not finished",), "two|00": ("never materialized",)}


def test_an_unknown_asset_is_refused_with_the_known_ones(world: ImportedWorld):
    with pytest.raises(UnknownAssetError, match="no asset verdict; wanted some of raw_queries, "):
        owed(world, "verdict")
