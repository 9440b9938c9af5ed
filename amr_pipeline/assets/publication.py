"""Publishing a table's partitions: skip what is current, write what is owed, say what happened.

Belongs here: the loop over the partitions of one run, fingerprints on the commit record, counts, checks, metadata.
Does not belong here: how a frame is computed (chapters) or what a partition depends on (`lineage`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.partitions import ALL
from amr_pipeline.assets.resources import Platform
from amr_pipeline.report.summary import markdown_table
from amr_pipeline.studies.study import Study
from amr_pipeline.tables import TABLES, Table

if TYPE_CHECKING:
    from amr_pipeline.engines.commits import Commit
    from amr_pipeline.engines.tables_on_disk import TableStore

progress_log = logging.getLogger("amr_pipeline.progress")
"""Progress with rate and time left; Dagster keeps it with the run (dagster.yaml), the command line prints it."""

Built = tuple[pl.DataFrame, Mapping[str, int]]
"""A partition's rows, and counts by reason of what did not become a row."""


@dataclass(kw_only=True)
class Publication:
    """What one run did to one table.

    Attributes:
        rows: rows per partition that this run committed or found current.
        written, current: partitions committed by this run, and those that owed nothing.
        counts: counts by reason, summed over partitions.
        violations: promises of the data dictionary that published rows break; must stay empty.
    """

    table: Table
    rows: dict[str, int] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    current: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Publication") -> None:
        """Take in what another thread of the run did to other partitions of the table."""
        self.rows |= other.rows
        self.written += other.written
        self.current += other.current
        self.counts += other.counts
        self.violations += other.violations

    def result(
        self,
        metadata: Mapping[str, Any] | None = None,
        checks: tuple[dg.AssetCheckResult, ...] = (),
        asset_key: str | None = None,
    ) -> dg.MaterializeResult:
        """What Dagster records: counts, a table per partition, and the data-dictionary check."""
        lines = [[key, rows, "written" if key in self.written else "nothing owed"] for key, rows in self.rows.items()]
        entries: dict[str, Any] = {
            "dagster/row_count": sum(self.rows.values()),
            "partitions": dg.MetadataValue.md(markdown_table(["partition", "rows", "this run"], lines)),
            **({"counts by reason": dg.MetadataValue.md(counts_table(self.counts))} if self.counts else {}),
            **(metadata or {}),
        }
        own_check = dg.AssetCheckResult(
            check_name=dictionary_check(self.table.name).name,
            asset_key=self.table.name,
            passed=not self.violations,
            metadata={"violations": dg.MetadataValue.md(counts_table(self.violations))} if self.violations else {},
        )
        return dg.MaterializeResult(asset_key=asset_key, metadata=entries, check_results=[own_check, *checks])


def counts_table(counts: Mapping[str, int], what: str = "reason") -> str:
    """Counts as a markdown table, largest first."""
    largest_first = sorted(counts, key=lambda name: (-counts[name], name))
    return markdown_table([what, "rows"], [[name, counts[name]] for name in largest_first])


def dictionary_check(table: str) -> dg.AssetCheckSpec:
    """The check that every published row keeps the data dictionary's promises (`tables.Table.violations`)."""
    return dg.AssetCheckSpec(
        name=f"{table}_matches_the_data_dictionary",
        asset=table,
        description="keys unique, no null where none may be, numbers in range, strings in their closed sets",
        blocking=True,
    )


def partitions_of_run(context: dg.AssetExecutionContext) -> list[str]:
    """Partition keys this run was asked for, `[ALL]` for an unpartitioned asset."""
    return list(context.partition_keys) if context.has_partition_key_range or context.has_partition_key else [ALL]


def publish(
    context: dg.AssetExecutionContext,
    platform: Platform,
    study: Study,
    table: Table,
    build: Callable[[str], Built],
    *,
    notes: Callable[[str], Mapping[str, object]] = lambda key: {},
) -> Publication:
    """Build and commit every partition of this run that owes something, in order.

    `build` gives the rows of one partition and counts by reason of what was left out, `notes` what its commit record
    says besides. Each partition is committed before the next one is built, so a killed run keeps what it finished.
    """
    store, done = platform.tables(), Publication(table=table)
    for key in partitions_of_run(context):
        lineage = Lineage(study, store)
        if lineage.is_current(table.name, key):
            note_current(done, store, key)
            continue
        fingerprints = lineage.fingerprints(table.name, key)
        frame, counts = build(key)
        store.write(table.name, key, frame, fingerprints=fingerprints, counts=dict(counts), notes=notes(key))
        note_written(done, key, frame, counts)
        context.log.info(f"{table.name} {key}: {frame.height:,} rows committed {dict(counts) or ''}")
    return done


def note_written(done: Publication, key: str, frame: pl.DataFrame, counts: Mapping[str, int]) -> None:
    """Record a partition that was committed."""
    done.written.append(key)
    done.rows[key] = frame.height
    done.counts.update(counts)
    done.violations.update(done.table.violations(frame))


def note_committed(done: Publication, commit: "Commit") -> None:
    """Record a partition by its commit; a writer completes none that breaks the data dictionary."""
    done.written.append(commit.partition)
    done.rows[commit.partition] = commit.rows
    done.counts.update(commit.counts)


def note_current(done: Publication, store: "TableStore", key: str) -> None:
    """Record a partition that owed nothing."""
    commit = store.latest(done.table.name, key)
    done.current.append(key)
    done.rows[key] = commit.rows if commit else 0
    done.counts.update(commit.counts if commit else {})


def table_named(name: str) -> Table:
    """The data dictionary's table of an asset."""
    return TABLES[name]
