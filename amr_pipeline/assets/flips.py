"""flip_report: what each change of a verifier did to verdicts, tiers and subsets, from stored versions."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.assets.reporting import publish_page
from amr_pipeline.assets.resources import Platform
from amr_pipeline.regrading import Regrade, Version, regrades, subset_changes, tier_changes
from amr_pipeline.report.flip_page import (
    RegradeEffect,
    direction_rows,
    entering_rows,
    flip_page,
    joint_tiers,
    tier_rows,
    verifier_rows,
)
from amr_pipeline.report.summary import markdown_table
from amr_pipeline.studies.study import Study
from amr_pipeline.tables import Table
from amr_pipeline.verdicts.ledger import current_verdicts, flips

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

REGRADES_SHOWN = 3
"""Re-grades on the page, the latest ones; the versions of all of them stay readable (`TableStore.read_version`)."""

SHOWN_TABLES = ("verdicts", "difficulty", "subsets")


def build(study: Study) -> list[dg.AssetsDefinition]:
    """The flip report of a study."""
    shown = [name for name in SHOWN_TABLES if name != "subsets" or study.selection_recipes]

    @dg.asset(
        deps=[dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping()) for name in shown],
        automation_condition=dg.AutomationCondition.eager(),
        group_name="difficulty",
        kinds={"polars"},
    )
    def flip_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Per re-grade: verdicts that flipped, by verifier and direction, queries in another tier, rows in and out."""
        return report(study, platform)

    return [flip_report]


def report(study: Study, platform: Platform) -> dg.MaterializeResult:
    """The page of the latest re-grades, and the latest one's tables as metadata."""
    store = platform.tables()
    found = regrades(_histories(study, store))
    effects = [_effect(store, one) for one in found[:REGRADES_SHOWN]]
    address = publish_page(study, store, "flip_report", flip_page(f"Flips of {study.name}", effects, len(found)))
    metadata: dict[str, Any] = {"page": dg.MetadataValue.path(address), "re-grades": len(found)}
    if effects:
        latest = effects[0]
        shown = {
            "latest re-grade": verifier_rows(latest.regrade),
            "flips by verifier and direction": direction_rows(latest),
            "queries that changed tier": tier_rows(joint_tiers(latest)),
            "rows that enter or leave a subset": entering_rows(latest.rows),
        }
        metadata |= {name: dg.MetadataValue.md(markdown_table(*rows)) for name, rows in shown.items()}
        metadata |= {"flips": latest.flips.height, "responses compared": latest.num_compared}
    return dg.MaterializeResult(metadata=metadata)


def _histories(study: Study, store: "TableStore") -> list[list[Version]]:
    return [
        [
            Version(
                table=table,
                partition=key,
                number=commit.version,
                created_at=commit.created_at,
                verifiers=commit.notes.get("verifiers"),
            )
            for commit in store.versions(table, key)
        ]
        for table in SHOWN_TABLES
        for key in stored_partitions(study, table)
    ]


def _effect(store: "TableStore", regrade: Regrade) -> RegradeEffect:
    before, after = (_verdicts(store, regrade, place) for place in (0, 1))
    decided = pl.col("verdict") != "undecided"
    sides = after.select("response_id", decided.alias("after")).join(
        before.select("response_id", decided.alias("before")), on="response_id", how="inner"
    )
    return RegradeEffect(
        regrade=regrade,
        flips=flips(before, after),
        tiers=_changes(store, regrade, tables.DIFFICULTY, tier_changes),
        rows=_changes(store, regrade, tables.SUBSETS, subset_changes),
        num_compared=sides.filter(pl.col("before") & pl.col("after")).height,
        now_decided=sides.filter(~pl.col("before") & pl.col("after")).height,
        now_undecided=sides.filter(pl.col("before") & ~pl.col("after")).height,
    )


def _verdicts(store: "TableStore", regrade: Regrade, place: int) -> pl.DataFrame:
    """Verdicts of the changed categories, by the verifiers on one side of a re-grade."""
    side = (regrade.before, regrade.after)[place]
    wanted = {category: side[category] for category in regrade.categories if category in side}
    frames = [
        current_verdicts(store.read_version("verdicts", pair[place].partition, pair[place].number), wanted)
        for pair in regrade.of("verdicts")
    ]
    return pl.concat([tables.VERDICTS.empty(), *frames])


def _changes(
    store: "TableStore",
    regrade: Regrade,
    table: Table,
    difference: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame],
) -> pl.DataFrame:
    """The differences of a table's partitions between the two sides of a re-grade, one partition at a time."""
    pairs: Sequence[tuple[Version, Version]] = regrade.of(table.name)
    frames = [
        difference(*(store.read_version(table.name, version.partition, version.number) for version in pair))
        for pair in pairs
    ]
    return pl.concat([difference(table.empty(), table.empty()), *frames])
