"""cost_report: what everything took, by stage, distiller and category, and for each token that a subset keeps.

Belongs here: reading records and slim columns, a partition at a time. Does not belong here: sums and ratios
(`responses.stage_costs`), the page (`report.cost_page`).
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from amr_pipeline.assets.lineage import verifier_fingerprints
from amr_pipeline.assets.partitions import distiller_and_shard, stored_partitions
from amr_pipeline.assets.reporting import REPORTS, picture, publish_page
from amr_pipeline.assets.resources import Platform
from amr_pipeline.report.cost_page import cost_page, cost_sections
from amr_pipeline.report.summary import markdown_table
from amr_pipeline.responses.cost import SPENT, add_up, noted_cost, spending
from amr_pipeline.responses.expected import still_expected
from amr_pipeline.responses.prices import Prices
from amr_pipeline.responses.stage_costs import (
    BECAME,
    STAGES,
    Costs,
    KeptCost,
    TrainedCost,
    add_up_outcomes,
    became,
    kept_costs,
    of_responses,
    stage_costs,
    trained_cost,
)
from amr_pipeline.studies.study import Study

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

_SLIM = [
    *("query_id", "category", "distiller", "distiller_fingerprint", "pass_index"),
    *("finish_reason", "prompt_tokens", "response_tokens"),
]


def build(study: Study) -> list[dg.AssetsDefinition]:
    """The cost report of a study."""
    absent = {
        *(() if study.selection_recipes else ("subsets", "second_opinions")),
        *(() if study.training_recipes else ("checkpoints", "benchmark_responses", "benchmark_scores")),
    }

    @dg.asset(
        deps=[
            dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping())
            for name in REPORTS["cost_report"]
            if name not in absent
        ],
        # A stage that has not run yet cost nothing, and need not be waited for.
        automation_condition=dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing()),
        group_name="responses",
        kinds={"matplotlib"},
    )
    def cost_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Tokens by how responses ended, time and money of every stage on record, and what each kept token took."""
        return report(study, platform)

    return [cost_report]


def report(study: Study, platform: Platform) -> dg.MaterializeResult:
    """The page, and its tables and plots as metadata."""
    store, costs = platform.tables(), costs_of(study, platform)
    sections = cost_sections(costs)
    address = publish_page(study, store, "cost_report", cost_page(f"Cost of {study.name}", costs))
    return dg.MaterializeResult(
        metadata={
            "page": dg.MetadataValue.path(address),
            "response tokens": int(costs.spent.get_column("response_tokens").sum()),
            **{
                f"{one.heading}, numbers": dg.MetadataValue.md(markdown_table(*one.rows))
                for one in sections
                if one.rows
            },
            **{one.heading: picture(one.picture) for one in sections if one.picture},
        }
    )


def costs_of(study: Study, platform: Platform) -> Costs:
    """All that is on record."""
    store, prices = platform.tables(), platform.prices().of_study(study.distillers)
    spent = spent_on(study, store)
    later = stage_costs(_noted(study, store))
    stages = pl.concat([of_responses(spent), later])
    subsets = {
        row.name: store.read("subsets", row.name, columns=["category", "response_tokens"], missing="empty")
        for row in study.selection_recipes
    }
    kept: list[KeptCost] = []
    for row in study.selection_recipes:
        kept += kept_costs(row.name, row.distillers, spent, stages, subsets[row.name], prices)
    trained = [
        one
        for row in study.training_recipes
        for one in _trained(store, row.name, stages, row.subset, subsets[row.subset], prices)
    ]
    outcomes = outcomes_of(study, store)
    return Costs(spent=spent, outcomes=outcomes, stages=stages, kept=kept, trained=trained, prices=prices)


def spent_on(study: Study, store: "TableStore") -> pl.DataFrame:
    """`responses.cost.SPENT` of all that is stored: former fingerprints and dropped queries were paid for, too."""
    spent = SPENT.to_frame()
    for key in stored_partitions(study, "responses"):
        commit = store.latest("responses", key)
        if commit is None:
            continue
        rows = store.read("responses", key, columns=_SLIM)
        queries = store.read("queries", distiller_and_shard(key)[1], columns=["query_id"], missing="empty")
        rows = rows.with_row_index()
        today = still_expected(rows, queries, study.distillers).get_column("index")
        rows = rows.with_columns(pl.col("index").is_in(today.implode()).alias("is_expected"))
        fingerprints = rows.get_column("distiller_fingerprint").unique()
        costs = {fingerprint: noted_cost(commit.notes, fingerprint) for fingerprint in fingerprints}
        spent = add_up(pl.concat([spent, spending(rows, costs)]))
    return spent


def outcomes_of(study: Study, store: "TableStore") -> pl.DataFrame:
    """`responses.stage_costs.BECAME` of the responses whose quality was assessed, by today's verifiers."""
    found, today = BECAME.to_frame(), list(verifier_fingerprints(study).values())
    for key in stored_partitions(study, "response_quality"):
        slim = ["response_id", "category", "response_tokens", "quality_reason"]
        quality = store.read("response_quality", key, columns=slim, missing="empty")
        slim = ["response_id", "verdict", "verifier_fingerprint"]
        verdicts = store.read("verdicts", key, columns=slim, missing="empty")
        verdicts = verdicts.filter(pl.col("verifier_fingerprint").is_in(today))
        part = became(distiller_and_shard(key)[0], quality, verdicts)
        found = add_up_outcomes(pl.concat([found, part]))
    return found


def _noted(study: Study, store: "TableStore") -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Stage, distiller or recipe, and notes of the newest record of every partition after the responses."""
    for stage in STAGES:
        for key in stored_partitions(study, stage) if stage != "responses" else ():
            newest = store.latest_any(stage, key)
            if newest is not None:
                yield stage, key.split("|")[0], newest.notes


def _trained(
    store: "TableStore", name: str, stages: pl.DataFrame, subset: str, chosen: pl.DataFrame, prices: Prices
) -> list[TrainedCost]:
    """The cost of a training recipe, or none before it is trained."""
    checkpoint = store.read("checkpoints", name, columns=["trained_tokens"], missing="empty")
    kept = int(chosen.get_column("response_tokens").cast(pl.Int64).sum())
    return [
        trained_cost(name, subset, kept=kept, trained=tokens, stages=stages, prices=prices)
        for tokens in checkpoint.get_column("trained_tokens")
    ]
