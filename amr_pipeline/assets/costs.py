"""cost_report: what responses cost, by distiller and category, and what each token that a subset keeps took.

Belongs here: reading records and slim columns, a partition at a time. Does not belong here: sums and ratios
(`responses.cost`), the page (`report.cost_page`).
"""

from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from amr_pipeline.assets.partitions import distiller_and_shard, stored_partitions
from amr_pipeline.assets.reporting import picture, publish_page
from amr_pipeline.assets.resources import Platform
from amr_pipeline.report.cost_page import cost_page, cost_sections
from amr_pipeline.report.summary import markdown_table
from amr_pipeline.responses.cost import SPENT, KeptCost, add_up, kept_costs, noted_cost, spending
from amr_pipeline.responses.expected import still_expected
from amr_pipeline.responses.prices import Prices
from amr_pipeline.studies.study import SelectionRecipe, Study

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

_SLIM = [
    *("query_id", "category", "distiller", "distiller_fingerprint", "pass_index"),
    *("finish_reason", "prompt_tokens", "response_tokens"),
]


def build(study: Study) -> list[dg.AssetsDefinition]:
    """The cost report of a study."""
    shown = ["responses", *(["subsets"] if study.selection_recipes else [])]

    @dg.asset(
        deps=[dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping()) for name in shown],
        automation_condition=dg.AutomationCondition.eager(),
        group_name="responses",
        kinds={"matplotlib"},
    )
    def cost_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Tokens by how responses ended, GPU time and money on record, and tokens written per token kept."""
        return report(study, platform)

    return [cost_report]


def report(study: Study, platform: Platform) -> dg.MaterializeResult:
    """The page, and its tables and plots as metadata."""
    store, prices = platform.tables(), platform.prices().of_study(study.distillers)
    spent = spent_on(study, store)
    kept = [one for recipe in study.selection_recipes for one in _kept(store, recipe, spent, prices)]
    sections = cost_sections(spent, kept, prices)
    address = publish_page(study, store, "cost_report", cost_page(f"Cost of {study.name}", spent, sections, prices))
    return dg.MaterializeResult(
        metadata={
            "page": dg.MetadataValue.path(address),
            "response tokens": int(spent.get_column("response_tokens").sum()),
            **{
                f"{one.heading}, numbers": dg.MetadataValue.md(markdown_table(*one.rows))
                for one in sections
                if one.rows
            },
            **{one.heading: picture(one.picture) for one in sections if one.picture},
        }
    )


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


def _kept(store: "TableStore", recipe: SelectionRecipe, spent: pl.DataFrame, prices: Prices) -> list[KeptCost]:
    subset = store.read("subsets", recipe.name, columns=["category", "response_tokens"], missing="empty")
    return kept_costs(recipe.name, recipe.distillers, spent, subset, prices)
