"""subsets: the responses each selection recipe chooses, and why it rejects every other one."""

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.lineage import DEPENDENCES, verifier_fingerprints, verifiers_behind
from amr_pipeline.assets.partitions import StudyPartitions, response_partition
from amr_pipeline.assets.publication import Built, dictionary_check, publish
from amr_pipeline.assets.resources import Platform
from amr_pipeline.report.layouts import what_if_rows
from amr_pipeline.report.summary import counts_plot, markdown_table
from amr_pipeline.responses.expected import still_expected
from amr_pipeline.studies.study import Study
from amr_pipeline.subsets import Selection, considered, select, what_if

CV_THRESHOLDS = (0.0, 0.05, 0.3, 0.6, 1.1)
"""Thresholds of the what-if table: at n = 4 and 0/1 scores the values between them change nothing."""


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The subsets asset of a study."""
    everything = dg.AllPartitionMapping()

    @dg.asset(
        partitions_def=partitions.selection_recipes,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            dg.AssetDep(name, partition_mapping=everything)
            for name in ("difficulty", "verdicts", "response_quality", "queries")
        ],
        check_specs=[dictionary_check("subsets")],
        automation_condition=dg.AutomationCondition.eager(),
        group_name="subsets",
        kinds={"polars"},
    )
    def subsets(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Responses chosen by Algorithm 1, the annealing rule, or another recipe; only slim tables are read."""
        done = publish(
            context,
            platform,
            study,
            tables.SUBSETS,
            lambda name: _select(study, platform, name),
            notes=lambda name: verifiers_behind(study, platform.tables(), DEPENDENCES["subsets"].inputs(study, name)),
        )
        mixes = {f"what if, {name}": dg.MetadataValue.md(_what_if(study, platform, name)) for name in done.rows}
        return done.result(metadata={"rejected by reason": dg.MetadataValue.md(counts_plot(done.counts)), **mixes})

    return [subsets]


def _slim(study: Study, platform: Platform, name: str) -> dict[str, pl.LazyFrame]:
    """The slim tables a recipe reads; verdicts on responses that are not expected any more are left out."""
    store = platform.tables()
    keys = [response_partition(row, shard) for row in study.selection_recipe(name).distillers for shard in study.shards]
    queries = store.read("queries", list(study.shards), columns=["query_id"])
    verdicts = still_expected(store.read("verdicts", keys), queries, study.distillers)
    return {
        "difficulty": store.read("difficulty", list(study.shards)).lazy(),
        "verdicts": verdicts.lazy(),
        "response_quality": store.read("response_quality", keys).lazy(),
    }


def selection_of(study: Study, platform: Platform, name: str) -> Selection:
    """What a recipe makes of the tables as they are now."""
    fingerprints = list(verifier_fingerprints(study).values())
    return select(study.selection_recipe(name), fingerprints=fingerprints, **_slim(study, platform, name))


def _select(study: Study, platform: Platform, name: str) -> Built:
    selection = selection_of(study, platform, name)
    return selection.chosen, {"chosen": selection.chosen.height, **selection.rejected}


def _what_if(study: Study, platform: Platform, name: str) -> str:
    """Rows, tokens and mix at other thresholds, as a markdown table."""
    recipe = study.selection_recipe(name)
    fingerprints = list(verifier_fingerprints(study).values())
    facts = considered(recipe, fingerprints=fingerprints, **_slim(study, platform, name))
    grid = what_if(recipe, facts, CV_THRESHOLDS)
    return markdown_table(*what_if_rows(grid))
