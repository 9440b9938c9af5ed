"""Named jobs, and what asks for what is owed: verdicts, further passes of adaptive distillers, sources that changed.

Belongs here: what runs together and when. Does not belong here: what an asset does.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg

from amr_pipeline.assets.adaptive_passes import adaptive_distillers
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.partitions import distiller_and_shard
from amr_pipeline.assets.resources import Platform
from amr_pipeline.studies.study import Study

if TYPE_CHECKING:
    # What define_asset_job returns has no public name.
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

    from amr_pipeline.engines.tables_on_disk import TableStore

JOBS: dict[str, tuple[tuple[str, ...], str]] = {
    "collect": (("raw_queries",), "read every source"),
    "collect_benchmarks": (("benchmark_queries",), "read every benchmark"),
    "clean": (("queries", "dropped_queries"), "filter, deduplicate and decontaminate"),
    "distil": (("responses",), "have distillers answer what is owed"),
    "assess_quality": (("response_quality",), "perplexity, frequent n-grams, structure"),
    "regrade": (("verdicts",), "judge what today's verifiers owe, from stored responses"),
    "draw_audit": (("audit",), "a few responses of every kind for a person to judge"),
    "grade": (("difficulty",), "difficulty from verdicts"),
    "select": (("subsets", "second_opinions", "release"), "subsets, second opinions on them, and their releases"),
    "train": (("checkpoints", "benchmark_responses", "benchmark_scores"), "train and measure"),
    "report": (("difficulty_report", "flip_report", "cost_report", "sweep_report"), "pages and plots"),
}
"""Job name: assets of one partitioning, and one sentence."""


def jobs_of(existing: set[str]) -> list["UnresolvedAssetJobDefinition"]:
    """The named jobs whose assets the study has."""
    return [
        dg.define_asset_job(
            name, selection=dg.AssetSelection.assets(*(asset for asset in assets if asset in existing)), description=why
        )
        for name, (assets, why) in JOBS.items()
        if any(asset in existing for asset in assets)
    ]


def regrade_schedule(
    study: Study, jobs: list["UnresolvedAssetJobDefinition"], cron: str, most: int
) -> dg.ScheduleDefinition:
    """A schedule that requests one `regrade` run per partition that owes verdicts, at most `most` of them per tick.

    Verdicts are owed after a verifier's row, prompt or code changed (its fingerprint did), after responses were
    added, or while a transient cause left some undecided. A tick with nothing owed skips and says so. Partitions
    without responses are not re-grading's business and are left to the backfill.
    """
    regrade = next(job for job in jobs if job.name == "regrade")
    return _schedule(
        "regrade", regrade, cron, "verdict", lambda store, busy: partitions_to_regrade(study, store, busy, most)
    )


def deepen_schedule(
    study: Study, jobs: list["UnresolvedAssetJobDefinition"], cron: str, most: int
) -> dg.ScheduleDefinition:
    """A schedule that requests one `distil` run per partition that is due further passes, at most `most` per tick.

    It and `regrade` take turns: what one has generated, the other judges, and that decides what is due next.
    """
    distil = next(job for job in jobs if job.name == "distil")
    return _schedule(
        "deepen", distil, cron, "further pass", lambda store, busy: partitions_to_deepen(study, store, busy, most)
    )


def source_sensor(
    jobs: list["UnresolvedAssetJobDefinition"], study_of_today: Callable[[], Study]
) -> dg.SensorDefinition:
    """A sensor that requests a run of `collect` per source whose row or files are not those that were read last.

    It reads the study again at every tick, and the digests of its files with it. A state of a source is requested
    once for each version that is there, so that a run that failed is not started again and again, and a file that is
    what it once was is read again. A source that the code location does not know yet is named, and waits for its
    definitions to be reloaded.
    """
    collect = next(job for job in jobs if job.name == "collect")

    @dg.sensor(job=collect, name="changed_sources", minimum_interval_seconds=300, description=collect.description)
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> list[dg.RunRequest] | dg.SkipReason:
        assert context.repository_def is not None, "Dagster evaluates sensors in their code location"
        loaded = context.repository_def.assets_defs_by_key[dg.AssetKey("raw_queries")].partitions_def
        assert loaded is not None, "raw_queries has a partition per source"
        known = set(loaded.get_partition_keys())
        store = platform.tables()
        lineage = Lineage(study_of_today(), store)
        owed = lineage.owed("raw_queries")
        if strangers := sorted(set(owed) - known):
            context.log.warning(f"reload the definitions for new sources: {', '.join(strangers)}")
        requested = [key for key in owed if key in known]
        if not requested:
            return dg.SkipReason("every source was read as it is")
        found = {key: store.latest("raw_queries", key) for key in requested}
        versions = {key: commit.version if commit else 0 for key, commit in found.items()}
        states = {key: lineage.fingerprints("raw_queries", key)["rows"] for key in requested}
        return [dg.RunRequest(partition_key=key, run_key=f"{key} {versions[key]} {states[key]}") for key in requested]

    return sensor


def _schedule(
    name: str,
    job: "UnresolvedAssetJobDefinition",
    cron: str,
    what: str,
    choose: Callable[["TableStore", set[str]], list[str]],
) -> dg.ScheduleDefinition:
    @dg.schedule(job=job, cron_schedule=cron, name=name, description=job.description)
    def schedule(context: dg.ScheduleEvaluationContext, platform: Platform) -> list[dg.RunRequest] | dg.SkipReason:
        running = context.instance.get_runs(dg.RunsFilter(job_name=job.name, statuses=UNFINISHED))
        under_way = {run.tags.get("dagster/partition", "") for run in running}
        requested = choose(platform.tables(), under_way)
        if not requested:
            return dg.SkipReason(f"no {what} is owed ({len(under_way)} partitions under way)")
        # The tick is part of the key: a partition that still owes something next time is requested again.
        tick = context.scheduled_execution_time.isoformat()
        return [dg.RunRequest(partition_key=key, run_key=f"{key} {tick}") for key in requested]

    return schedule


def partitions_to_regrade(study: Study, store: "TableStore", under_way: set[str], most: int) -> list[str]:
    """Partitions that have responses, owe verdicts and are not being judged now; at most `most`.

    Those never judged come first, then the longest ago judged, so that verdicts which stay undecided at every attempt
    keep no other partition waiting.
    """
    owed = [key for key in Lineage(study, store).owed("verdicts") if store.latest("responses", key) is not None]
    waiting = {key: store.latest("verdicts", key) for key in owed if key not in under_way}
    judged_at = {key: commit.created_at if commit else "" for key, commit in waiting.items()}
    return sorted(judged_at, key=lambda key: judged_at[key])[:most]


def partitions_to_deepen(study: Study, store: "TableStore", under_way: set[str], most: int) -> list[str]:
    """Partitions of adaptive distillers that have responses, owe more and are not being filled now; at most `most`.

    The cheapest distiller's come first, and of one distiller those longest ago filled. First passes are the backfill's.
    """
    place = {row.name: index for index, row in enumerate(adaptive_distillers(study))}
    filled_at = {
        key: (place[distiller_and_shard(key)[0]], commit.created_at)
        for key in Lineage(study, store).owed("responses")
        if distiller_and_shard(key)[0] in place and key not in under_way and (commit := store.latest("responses", key))
    }
    return sorted(filled_at, key=lambda key: filled_at[key])[:most]


UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]
"""Statuses of runs that are asked for or under way."""
