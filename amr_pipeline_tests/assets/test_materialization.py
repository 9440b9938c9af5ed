import dagster as dg
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.assets.materialization import DRIVER_TAG, contiguous, rectangles, settle_abandoned_runs
from amr_pipeline.assets.partitions import distiller_and_shard, stored_partitions
from amr_pipeline.studies.micro import STUDY

KEYS = stored_partitions(STUDY, "responses")


def cells(first: str, last: str) -> set[str]:
    """What Dagster reads a range of two dimensions as: every combination of the two ranges."""
    names = [row.name for row in STUDY.distillers]
    (a, low), (b, high) = distiller_and_shard(first), distiller_and_shard(last)
    return {
        f"{name}|{shard}"
        for name in names[names.index(a) : names.index(b) + 1]
        for shard in STUDY.shards
        if low <= shard <= high
    }


@given(st.sets(st.sampled_from(KEYS)))
def test_rectangles_cover_exactly_what_is_owed(owed: set[str]):
    covered = [cells(*corners) for corners in rectangles(STUDY, sorted(owed))]
    assert set().union(*covered) == owed
    assert sum(map(len, covered)) == len(owed)


def test_everything_is_one_range():
    assert rectangles(STUDY, KEYS) == [(KEYS[0], KEYS[-1])]
    assert contiguous(list("abcde"), ["a", "b", "d"]) == [("a", "b"), ("d", "d")]


def test_runs_of_drivers_that_are_gone_are_settled():
    with dg.DagsterInstance.ephemeral() as instance:
        instance.create_run_for_job(
            job_def=dg.GraphDefinition(name="g").to_job(),
            tags={DRIVER_TAG: "999999999"},
            status=dg.DagsterRunStatus.STARTED,
        )
        assert settle_abandoned_runs(instance) == 1
        assert settle_abandoned_runs(instance) == 0
