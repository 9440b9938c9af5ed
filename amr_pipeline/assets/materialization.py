"""Materializing what is owed without the UI: the demo, `amr backfill` and `amr regrade` are this one walk.

The walk visits the assets in pipeline order, asks `Lineage` which partitions owe something, and runs exactly those
as ordinary Dagster runs on the ordinary instance, in this process, so that engines stay warm from run to run.
Everything it does is visible in the UI afterwards.

Where distillers have adaptive passes, responses and verdicts take turns, a round each, before the walk goes on: what a
round generates decides what the next one asks for.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import dagster as dg

from amr_pipeline.assets.adaptive_passes import adaptive_distillers
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.partitions import ALL, distiller_and_shard, response_partition, stored_partitions
from amr_pipeline.assets.reporting import REPORTS, report_is_current
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.responses import BUDGET
from amr_pipeline.studies.study import Study

ORDER = (
    "raw_queries",
    "benchmark_queries",
    "near_duplicates",
    "queries",
    "responses",
    "frequent_ngrams",
    "response_quality",
    "verdicts",
    "audit",
    "difficulty",
    "difficulty_report",
    "subsets",
    "second_opinions",
    "flip_report",
    "checkpoints",
    "benchmark_responses",
    "benchmark_scores",
    "sweep_report",
    "cost_report",
    "release",
)
"""Assets in pipeline order; the walk's order, and the order of `amr status`."""

AFTER_RESPONSES = (
    "responses",
    "frequent_ngrams",
    "response_quality",
    "verdicts",
    "audit",
    "difficulty",
    "difficulty_report",
    "subsets",
    "second_opinions",
    "flip_report",
    "cost_report",
    "release",
)
"""What follows from new responses without training anew, which costs most and is asked for by itself."""
AFTER_VERDICTS = (
    "verdicts",
    "audit",
    "difficulty",
    "difficulty_report",
    "subsets",
    "second_opinions",
    "flip_report",
    "cost_report",
    "release",
)

BY_RESPONSE = ("responses", "response_quality", "verdicts")

DRIVER_TAG = "amr/driver_pid"


@dataclass(frozen=True, kw_only=True)
class Walked:
    """One asset's turn, or one round of it: partitions run, and seconds taken (0 when nothing was owed).

    Attributes:
        is_whole: False where a budget ended it, and with it the walk.
    """

    asset: str
    partitions: int
    seconds: float
    is_whole: bool = True


def contiguous(keys: Sequence[str], owed: Sequence[str]) -> list[tuple[str, str]]:
    """Owed keys as (first, last) of ranges of neighbours in `keys`, since one Dagster run takes one range."""
    wanted, ranges = set(owed), []
    previous: str | None = None
    for key in keys:
        if key in wanted and previous in wanted:
            ranges[-1] = (ranges[-1][0], key)
        elif key in wanted:
            ranges.append((key, key))
        previous = key
    return ranges


def rectangles(study: Study, owed: Sequence[str]) -> list[tuple[str, str]]:
    """Owed distiller x shard keys as (first, last) corners of ranges.

    Dagster reads a range of two dimensions as every combination of a range of distillers with a range of shards.
    """
    by_distiller = {
        row.name: contiguous(
            study.shards, [shard for name, shard in map(distiller_and_shard, owed) if name == row.name]
        )
        for row in study.distillers
    }
    found: list[tuple[str, str]] = []
    open_ranges: dict[tuple[str, str], int] = {}
    for name, ranges in by_distiller.items():
        still: dict[tuple[str, str], int] = {}
        for shards in ranges:
            last = response_partition(name, shards[1])
            if shards in open_ranges:
                index = open_ranges[shards]
                found[index] = (found[index][0], last)
            else:
                index = len(found)
                found.append((response_partition(name, shards[0]), last))
            still[shards] = index
        open_ranges = still
    return found


def settle_abandoned_runs(instance: dg.DagsterInstance) -> int:
    """Mark runs of drivers that were killed as failed, and count them.

    A killed process cannot report its own death; without this its runs would show as running for ever.
    """
    unfinished = instance.get_runs(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED]
        )
    )
    abandoned = [run for run in unfinished if DRIVER_TAG in run.tags and not _alive(int(run.tags[DRIVER_TAG]))]
    for run in abandoned:
        instance.report_run_failed(run, message="the process that drove this run is gone; its commits are kept")
    return len(abandoned)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def materialize_owed(
    definitions: dg.Definitions,
    study: Study,
    platform: Platform,
    instance: dg.DagsterInstance,
    *,
    assets: Sequence[str] = ORDER,
    only: Sequence[str] | None = None,
    say: Callable[[str], None],
) -> list[Walked]:
    """Run every owed partition of `assets`, in pipeline order, and report each asset's turn.

    `only` leaves out other partitions of the distiller x shard assets. Where a run's budget ends, so does the walk:
    the next range would have a budget of its own, and what follows would judge and train on a part.

    Raises:
        dagster.DagsterExecutionStepExecutionError or the asset's own error: a partition failed; what was
            committed before it stays.
    """
    settle_abandoned_runs(instance)
    known = _known(definitions, assets)
    walk = _Walk(definitions=definitions, study=study, platform=platform, instance=instance, say=say)
    walked: list[Walked] = []
    for position, name in enumerate(known, start=1):
        label = f"[{position}/{len(known)}]"
        walked.append(walk.turn(label, name, only))
        if walked[-1].is_whole and name == "responses" and "verdicts" in known:
            walked += walk.rounds(label, only)
        if not walked[-1].is_whole:
            break
    return walked


def owes_anything(
    definitions: dg.Definitions,
    study: Study,
    platform: Platform,
    *,
    assets: Sequence[str] = ORDER,
    only: Sequence[str] | None = None,
) -> bool:
    """Whether `materialize_owed` would run anything."""
    return any(_owed(study, platform, name, only) for name in _known(definitions, assets))


def _known(definitions: dg.Definitions, assets: Sequence[str]) -> list[str]:
    """Those of the assets that the study has, in pipeline order."""
    graph = definitions.resolve_asset_graph()
    return [name for name in ORDER if name in assets and graph.has(dg.AssetKey(name))]


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """Turns of assets, each as Dagster runs over what they owe."""

    definitions: dg.Definitions
    study: Study
    platform: Platform
    instance: dg.DagsterInstance
    say: Callable[[str], None]

    def turn(self, label: str, name: str, only: Sequence[str] | None) -> Walked:
        """Run what one asset owes."""
        owed = _owed(self.study, self.platform, name, only)
        if not owed:
            self.say(f"{label} {name}: nothing owed")
            return Walked(asset=name, partitions=0, seconds=0.0)
        self.say(f"{label} {name}: {len(owed)} partition{'s' if len(owed) > 1 else ''} owed")
        begun = time.monotonic()
        ranges = _ranges(self.study, name, owed)
        is_whole = all(run_range(self.definitions, self.instance, name, first, last) for first, last in ranges)
        seconds = time.monotonic() - begun
        self.say(f"{label} {name}: {'done' if is_whole else 'budget reached'} in {seconds:.1f} s")
        return Walked(asset=name, partitions=len(owed), seconds=seconds, is_whole=is_whole)

    def rounds(self, label: str, only: Sequence[str] | None) -> Iterator[Walked]:
        """Rounds of adaptive distillers, one distiller after the other, cheapest first.

        What was written is judged, and what that leaves open is asked again, until nothing more is due or what is due
        cannot be had.
        """
        store = self.platform.tables()
        for row in adaptive_distillers(self.study):
            keys = _of_distiller(self.study, row.name, only)
            others = row.passes_policy.unless_settled_by if row.passes_policy else ()
            judged = [*keys, *(key for name in others for key in _of_distiller(self.study, name, only))]
            for number in count(2):
                yield self.turn(f"{label} {row.name}, before round {number}:", "verdicts", judged)
                before = [store.digest("responses", key) for key in keys]
                written = self.turn(f"{label} {row.name}, round {number}:", "responses", keys)
                yield written
                if not written.is_whole:
                    return
                if before == [store.digest("responses", key) for key in keys]:
                    break


def _of_distiller(study: Study, name: str, only: Sequence[str] | None) -> list[str]:
    keys = [response_partition(name, shard) for shard in study.shards]
    return keys if only is None else [key for key in keys if key in only]


def _owed(study: Study, platform: Platform, name: str, only: Sequence[str] | None) -> list[str]:
    """Owed partitions of an asset; a report owes itself when the tables it shows changed."""
    store = platform.tables()
    if name in REPORTS:
        return [] if report_is_current(study, store, name) else [ALL]
    owed = Lineage(study, store).owed(name)
    return [key for key in owed if key in only] if only is not None and name in BY_RESPONSE else owed


def _ranges(study: Study, name: str, owed: list[str]) -> list[tuple[str, str]]:
    if name in BY_RESPONSE:
        return rectangles(study, owed)
    return contiguous([ALL] if name in REPORTS else stored_partitions(study, name), owed)


def run_range(definitions: dg.Definitions, instance: dg.DagsterInstance, name: str, first: str, last: str) -> bool:
    """One Dagster run of one asset over one range of its partitions, in this process; False where a budget ended it."""
    ranged = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    job = definitions.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(name), *_written_together(name)],
        tags={DRIVER_TAG: str(os.getpid()), **({} if first == ALL else ranged)},
        run_config={"loggers": {"console": {"config": {"log_level": "WARNING"}}}},
        raise_on_error=True,
    )
    return all(check.passed for check in done.get_asset_check_evaluations() if check.check_name == BUDGET)


def _written_together(name: str) -> list[dg.AssetKey]:
    return [dg.AssetKey("dropped_queries")] if name == "queries" else []
