"""difficulty and difficulty_report: how often and how unevenly distillers succeed on each query."""

from collections import Counter

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.adaptive_passes import spent_by_distiller
from amr_pipeline.assets.lineage import DEPENDENCES, verifier_fingerprints, verifiers_behind
from amr_pipeline.assets.partitions import StudyPartitions, response_partition, stored_partitions
from amr_pipeline.assets.publication import Built, dictionary_check, publish
from amr_pipeline.assets.reporting import picture, publish_page
from amr_pipeline.assets.resources import Platform
from amr_pipeline.difficulty import JOINT
from amr_pipeline.difficulty import difficulty as grade
from amr_pipeline.report import plots
from amr_pipeline.report.layouts import spent_rows
from amr_pipeline.report.pages import difficulty_page
from amr_pipeline.report.summary import counts_plot, markdown_table, pass_rates
from amr_pipeline.responses.expected import still_expected
from amr_pipeline.studies.study import Study

UNDECIDED = "few_verdicts_are_undecided"
HIGHEST_UNDECIDED_RATE = 0.01


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The difficulty assets of a study."""
    names = [row.name for row in study.distillers]

    @dg.asset(
        partitions_def=partitions.shards,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            dg.AssetDep("verdicts", partition_mapping=dg.MultiToSingleDimensionPartitionMapping("shard")),
            dg.AssetDep("queries"),
        ],
        check_specs=[
            dictionary_check("difficulty"),
            dg.AssetCheckSpec(UNDECIDED, asset="difficulty", description="at most 1 % of the verdicts are undecided"),
        ],
        automation_condition=dg.AutomationCondition.eager(),
        group_name="difficulty",
        kinds={"polars"},
    )
    def difficulty(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Pass rate with interval, mean, variation and tier per query and distiller, and jointly."""
        done = publish(
            context,
            platform,
            study,
            tables.DIFFICULTY,
            lambda shard: _grade(study, platform, shard),
            notes=lambda shard: verifiers_behind(
                study, platform.tables(), DEPENDENCES["difficulty"].inputs(study, shard)
            ),
        )
        frame = platform.tables().read("difficulty", list(done.rows))
        header, rows = pass_rates(frame, names)
        sums = frame.filter(pl.col("distiller") == JOINT).select(pl.col("num_responses", "num_undecided").sum())
        decided, undecided = sums.row(0)
        rate = undecided / max(1, decided + undecided)
        return done.result(
            metadata={
                "pass rates": dg.MetadataValue.md(markdown_table(header, rows)),
                "joint tiers": dg.MetadataValue.md(counts_plot(done.counts)),
                "undecided verdicts": undecided,
            },
            checks=(
                dg.AssetCheckResult(
                    check_name=UNDECIDED,
                    asset_key="difficulty",
                    passed=rate <= HIGHEST_UNDECIDED_RATE,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={"undecided": undecided, "decided": decided, "rate": rate},
                ),
            ),
        )

    @dg.asset(
        deps=[dg.AssetDep("difficulty", partition_mapping=dg.AllPartitionMapping())],
        automation_condition=dg.AutomationCondition.eager(),
        group_name="difficulty",
        kinds={"matplotlib"},
    )
    def difficulty_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """A page with pass rates, tiers, spread, and what filters dropped."""
        store = platform.tables()
        frame = store.read("difficulty", list(study.shards))
        dropped = store.read("dropped_queries", list(study.shards), columns=["reason"])
        title = f"Difficulty of {study.name}"
        reasons = Counter(dropped.get_column("reason"))
        spent = spent_by_distiller(study, store)
        shown = difficulty_page(title, frame, dropped=reasons, spent=spent)
        address = publish_page(study, store, "difficulty_report", shown)
        adaptive = {"adaptive passes": dg.MetadataValue.md(markdown_table(*spent_rows(spent)))} if spent else {}
        return dg.MaterializeResult(
            metadata={
                **adaptive,
                "page": dg.MetadataValue.path(address),
                "pass rate by distiller and category": picture(plots.pass_rate_bars(frame)),
                "joint tiers": picture(plots.tier_bars(frame)),
                "queries at each pass rate": picture(plots.pass_rate_distribution(frame)),
                "pass rate against variation": picture(plots.variation_scatter(frame)),
                "dropped queries by reason": picture(plots.count_bars(reasons, "queries dropped")),
            }
        )

    return [difficulty, difficulty_report]


def _grade(study: Study, platform: Platform, shard: str) -> Built:
    keys = [response_partition(row.name, shard) for row in study.distillers]
    columns = [
        "response_id",
        "query_id",
        "category",
        "distiller",
        "distiller_fingerprint",
        "pass_index",
        "verdict",
        "verify_score",
        "verifier_fingerprint",
    ]
    store = platform.tables()
    queries = store.read("queries", shard, columns=["query_id"])
    verdicts = still_expected(store.read("verdicts", keys, columns=columns), queries, study.distillers)
    frame = grade(
        verdicts.lazy(), fingerprints=list(verifier_fingerprints(study).values()), num_shards=study.num_shards
    ).collect()
    joint = frame.filter(pl.col("distiller") == JOINT).get_column("tier")
    return frame, dict(Counter(joint))


def every_shard(study: Study) -> list[str]:
    """Partitions of the difficulty table."""
    return stored_partitions(study, "difficulty")
