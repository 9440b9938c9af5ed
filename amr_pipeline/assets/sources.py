"""raw_queries and benchmark_queries: what the sources and benchmarks of the study hold, mapped to our columns."""

from collections import Counter

import dagster as dg

from amr_pipeline import tables
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.partitions import StudyPartitions
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
from amr_pipeline.queries.identity import benchmark_problems, identified
from amr_pipeline.sources.records import read_benchmark, read_queries
from amr_pipeline.studies.study import Study


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The two source assets of a study."""
    rows = {row.name: row for row in study.sources}

    @dg.asset(
        partitions_def=partitions.sources,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[dictionary_check("raw_queries")],
        group_name="queries",
        kinds={"polars"},
    )
    def raw_queries(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Every row of every source, in one part per shard so that the next step reads only its own."""
        store, done = platform.tables(), Publication(table=tables.RAW_QUERIES)
        for key in partitions_of_run(context):
            lineage = Lineage(study, store)
            if lineage.is_current("raw_queries", key):
                note_current(done, store, key)
                continue
            fingerprints = lineage.fingerprints("raw_queries", key)
            read, unreadable = read_queries(rows[key], platform.read_hub, platform.storage_options)
            frame = identified(read, study.num_shards)
            counts = {f"unreadable: {name}": count for name, count in Counter(unreadable.get_column("reason")).items()}
            # Unreadable rows first: a raw_queries commit says that both are there.
            store.write("unreadable_rows", key, unreadable, fingerprints=fingerprints)
            store.write("raw_queries", key, frame, fingerprints=fingerprints, counts=counts, bucket_by="shard")
            note_written(done, key, frame, counts)
            context.log.info(f"raw_queries {key}: {frame.height:,} rows, {unreadable.height:,} unreadable")
        return done.result()

    assets: list[dg.AssetsDefinition] = [raw_queries]
    if study.benchmarks:

        @dg.asset(
            partitions_def=partitions.benchmarks,
            backfill_policy=dg.BackfillPolicy.single_run(),
            check_specs=[dictionary_check("benchmark_queries")],
            group_name="queries",
            kinds={"polars"},
        )
        def benchmark_queries(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
            """Held-out problems: what checkpoints are measured on and queries must not resemble."""

            def build_one(key: str) -> Built:
                read = read_benchmark(study.benchmark(key), platform.read_hub, platform.storage_options)
                return benchmark_problems(read), {}

            return publish(context, platform, study, tables.BENCHMARK_QUERIES, build_one).result()

        assets.append(benchmark_queries)
    return assets
