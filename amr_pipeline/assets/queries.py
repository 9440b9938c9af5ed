"""near_duplicates, queries and dropped_queries: from raw rows to clean, decontaminated queries."""

from collections.abc import Iterator

import dagster as dg

from amr_pipeline import tables
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.partitions import ALL, StudyPartitions, stored_partitions
from amr_pipeline.assets.publication import (
    Built,
    Publication,
    dictionary_check,
    note_current,
    note_written,
    partitions_of_run,
    publish,
)
from amr_pipeline.assets.resources import Platform
from amr_pipeline.queries.decontamination import BenchmarkIndex
from amr_pipeline.queries.filters import clean_shard, represented
from amr_pipeline.report.summary import counts_plot
from amr_pipeline.studies.study import Study

CONSERVED = "in_is_out_plus_dropped"


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The query assets of a study."""
    every_source = dg.AssetDep("raw_queries", partition_mapping=dg.AllPartitionMapping())
    benchmarks = (
        [dg.AssetDep("benchmark_queries", partition_mapping=dg.AllPartitionMapping())] if study.benchmarks else []
    )

    @dg.asset(
        deps=[every_source, *benchmarks],
        check_specs=[dictionary_check("near_duplicates")],
        group_name="queries",
        kinds={"polars"},
    )
    def near_duplicates(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Queries that a similar one stands for, over all sources; empty where the study sets no similarity."""
        return publish(
            context, platform, study, tables.NEAR_DUPLICATES, lambda _: _represented(study, platform)
        ).result()

    @dg.multi_asset(
        name="queries_and_dropped_queries",
        specs=[
            dg.AssetSpec(
                name,
                deps=[every_source, *benchmarks, "near_duplicates"],
                partitions_def=partitions.shards,
                group_name="queries",
                kinds={"polars"},
                description=description,
            )
            for name, description in (
                ("queries", "Queries that every filter let through."),
                ("dropped_queries", "Source rows that a filter rejected, each with its reason and evidence."),
            )
        ],
        check_specs=[
            dictionary_check("queries"),
            dictionary_check("dropped_queries"),
            dg.AssetCheckSpec(
                CONSERVED, asset="queries", description="raw rows = queries + dropped queries, per shard", blocking=True
            ),
        ],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def queries(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult]:
        yield from _Cleaning(context, platform, study).results()

    return [near_duplicates, queries]


class _Cleaning:
    """One run's work on queries and dropped_queries, which are written together."""

    def __init__(self, context: dg.AssetExecutionContext, platform: Platform, study: Study) -> None:
        self._context, self._platform, self._study = context, platform, study
        self._store = platform.tables()
        self._kept, self._dropped = Publication(table=tables.QUERIES), Publication(table=tables.DROPPED_QUERIES)
        self._raw_rows = 0

    def results(self) -> Iterator[dg.MaterializeResult]:
        benchmarks: BenchmarkIndex | None = None
        for key in partitions_of_run(self._context):
            lineage = Lineage(self._study, self._store)
            if lineage.is_current("queries", key) and lineage.is_current("dropped_queries", key):
                note_current(self._kept, self._store, key)
                note_current(self._dropped, self._store, key)
                self._raw_rows += self._kept.rows[key] + self._dropped.rows[key]
                continue
            benchmarks = benchmarks or _benchmark_index(self._study, self._platform)
            self._shard(key, lineage, benchmarks)
        rows = sum(self._kept.rows.values()) + sum(self._dropped.rows.values())
        yield self._kept.result(
            metadata={"rows in, kept and dropped": dg.MetadataValue.md(counts_plot(self._kept.counts))},
            checks=(
                dg.AssetCheckResult(
                    check_name=CONSERVED,
                    asset_key="queries",
                    passed=rows == self._raw_rows,
                    metadata={"raw rows": self._raw_rows, "queries + dropped": rows},
                ),
            ),
            asset_key="queries",
        )
        yield self._dropped.result(asset_key="dropped_queries")

    def _shard(self, key: str, lineage: Lineage, benchmarks: BenchmarkIndex) -> None:
        fingerprints = lineage.fingerprints("queries", key)
        raw = self._store.read("raw_queries", stored_partitions(self._study, "raw_queries"), bucket=key)
        duplicates = self._store.read("near_duplicates", ALL)
        kept, dropped, counts = clean_shard(raw, duplicates, benchmarks, self._study.query_rules)
        # Dropped first: a queries commit says that both are there.
        self._store.write("dropped_queries", key, dropped, fingerprints=fingerprints)
        self._store.write("queries", key, kept, fingerprints=fingerprints, counts=counts)
        note_written(self._kept, key, kept, counts)
        note_written(self._dropped, key, dropped, {})
        self._raw_rows += raw.height
        self._context.log.info(f"queries {key}: {kept.height:,} kept, {dropped.height:,} dropped")


def _represented(study: Study, platform: Platform) -> Built:
    sources = stored_partitions(study, "raw_queries")
    raw = platform.tables().read("raw_queries", sources, columns=["query_id", "category", "messages"])
    return represented(raw, _benchmark_index(study, platform), study.query_rules), {}


def _benchmark_index(study: Study, platform: Platform) -> BenchmarkIndex:
    """What queries must not resemble: every problem of every benchmark."""
    rules = study.query_rules
    problems = platform.tables().read("benchmark_queries", stored_partitions(study, "benchmark_queries"))
    return BenchmarkIndex(problems, rules, platform.embedder(rules.embedding_model, rules.embedding_revision))
