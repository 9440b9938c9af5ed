"""Partitions of every asset, read from the rows of the study.

A partition is a few hundred thousand rows of work, never one query. Every dimension stays under 100 keys, because
Dagster skips data-version staleness at 100 or more upstream partitions per downstream partition (1.13.27).
"""

from dataclasses import dataclass

import dagster as dg

from amr_pipeline.studies.study import Study

ALL = "all"
"""Name under which an unpartitioned table is stored."""


@dataclass(frozen=True, kw_only=True)
class StudyPartitions:
    """Partition definitions of one study."""

    sources: dg.StaticPartitionsDefinition
    benchmarks: dg.StaticPartitionsDefinition
    shards: dg.StaticPartitionsDefinition
    responses: dg.MultiPartitionsDefinition
    selection_recipes: dg.StaticPartitionsDefinition
    training_recipes: dg.StaticPartitionsDefinition


def partitions_of(study: Study) -> StudyPartitions:
    """Partition definitions whose keys are the names of the study's rows, in their order."""
    shards = dg.StaticPartitionsDefinition(list(study.shards))
    distillers = dg.StaticPartitionsDefinition([row.name for row in study.distillers])
    return StudyPartitions(
        sources=dg.StaticPartitionsDefinition([row.name for row in study.sources]),
        benchmarks=dg.StaticPartitionsDefinition([row.name for row in study.benchmarks]),
        shards=shards,
        responses=dg.MultiPartitionsDefinition({"distiller": distillers, "shard": shards}),
        selection_recipes=dg.StaticPartitionsDefinition([row.name for row in study.selection_recipes]),
        training_recipes=dg.StaticPartitionsDefinition([row.name for row in study.training_recipes]),
    )


def response_partition(distiller: str, shard: str) -> str:
    """Key of a distiller x shard partition, as Dagster writes it (dimensions in alphabetical order)."""
    return f"{distiller}|{shard}"


def distiller_and_shard(partition: str) -> tuple[str, str]:
    """The two halves of `response_partition`."""
    distiller, shard = partition.split("|")
    return distiller, shard


def stored_partitions(study: Study, table: str) -> list[str]:
    """Partition keys of a table in pipeline order, `[ALL]` for an unpartitioned one.

    Raises:
        KeyError: no asset writes that table.
    """
    by_response = [response_partition(row.name, shard) for row in study.distillers for shard in study.shards]
    keys = {
        "raw_queries": [row.name for row in study.sources],
        "benchmark_queries": [row.name for row in study.benchmarks],
        "near_duplicates": [ALL],
        "queries": list(study.shards),
        "dropped_queries": list(study.shards),
        "responses": by_response,
        "frequent_ngrams": [ALL],
        "response_quality": by_response,
        "verdicts": by_response,
        "audit": [ALL],
        "difficulty": list(study.shards),
        "subsets": [row.name for row in study.selection_recipes],
        "second_opinions": [row.name for row in study.selection_recipes],
        "checkpoints": [row.name for row in study.training_recipes],
        "benchmark_responses": [row.name for row in study.training_recipes],
        "benchmark_scores": [row.name for row in study.training_recipes],
        "release": [row.name for row in study.selection_recipes],
    }
    return keys[table]
