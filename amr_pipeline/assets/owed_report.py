"""owed_report: what every table owes, in numbers, with a check per table.

The checks are this asset's and not those of the tables, since a run answers each check of what it materializes: a run
of one partition would ask about all the others, or claim for them what it did not look at. Materializing it asks now;
the sensor `what_is_owed` (`overdue`) keeps the answers true in between.

Belongs here: the checks and their answers. Does not belong here: counting (`owed`), since when (`overdue`).
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from amr_pipeline.assets.lineage import DEPENDENCES
from amr_pipeline.assets.owed import owed_by_records
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.assets.resources import Platform
from amr_pipeline.report.owed_table import Owed, owed_table
from amr_pipeline.report.summary import markdown_table
from amr_pipeline.studies.study import Study

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "owed_report"


def check_name(table: str) -> str:
    """The check of `owed_report` that is about a table."""
    return f"{table}_owes_nothing"


def tables_of(study: Study) -> list[str]:
    """Tables that can owe something, in the order of the pipeline; none that the study has no row for."""
    return [table for table in DEPENDENCES if stored_partitions(study, table)]


def build(study: Study, after: "Sequence[str]") -> list[dg.AssetsDefinition]:
    """The report, which a run of everything makes last: after the assets named, whose partitions it takes all."""

    @dg.asset(
        name=NAME,
        deps=[dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping()) for name in after],
        check_specs=[
            dg.AssetCheckSpec(
                check_name(table),
                asset=NAME,
                description=f"every partition of {table} was made from today's rows, code and inputs",
            )
            for table in tables_of(study)
        ],
        group_name="difficulty",
        kinds={"python"},
    )
    def owed_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Partitions that every table owes, and why, from commit records; reads no row and starts nothing."""
        store = platform.tables()
        found = {table: owed_by_records(study, store, table)[0] for table in tables_of(study)}
        lines = [[table, one.partitions[table], len(one.owed)] for table, one in found.items()]
        return dg.MaterializeResult(
            metadata={"owed": dg.MetadataValue.md(markdown_table(["table", "partitions", "owed"], lines))},
            check_results=[
                dg.AssetCheckResult(
                    check_name=check_name(table),
                    asset_key=NAME,
                    passed=not one.owed,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata=numbers(one, table),
                )
                for table, one in found.items()
            ],
        )

    return [owed_report]


def numbers(found: Owed, table: str) -> dict[str, Any]:
    """What a check shows: partitions, those that owe, rows that records lack, and which for what reason."""
    lacking = [one.num_rows for one in found.owed if one.num_rows is not None]
    shown: dict[str, Any] = {"partitions": found.partitions[table], "partitions owed": len(found.owed)}
    if lacking:
        shown["rows that records lack"] = sum(lacking)
    if found.owed:
        _, header, rows = owed_table(found, table)
        shown["owed"] = dg.MetadataValue.md(markdown_table(header, rows))
    return shown
