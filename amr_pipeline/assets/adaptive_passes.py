"""How many passes queries are due where a distiller has a policy, from the tables as they are.

The decision rests on verdicts, which rest on responses: as a dependency of Dagster's that would be a circle. So it is
none of the graph's; it is part of what a partition of responses was made from (`lineage`), which makes the partition
owed when a new decision asks for more, and a walk (`materialization`) or a schedule (`automation`) take turns.

Belongs here: reading what the decision needs. Does not belong here: the decision (`adaptive_passes`).
"""

from typing import TYPE_CHECKING

import polars as pl

from amr_pipeline.adaptive_passes import all_spent, due_passes, of_cheaper_distillers, pass_counts, passes_spent
from amr_pipeline.assets.partitions import distiller_and_shard, response_partition
from amr_pipeline.responses.expected import answered_queries, still_expected
from amr_pipeline.studies.study import Distiller, Study
from amr_pipeline.verdicts.registry import verifier_fingerprint

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

_OF_VERDICTS = (
    "query_id",
    "category",
    "distiller",
    "distiller_fingerprint",
    "pass_index",
    "verdict",
    "cause",
    "verifier_fingerprint",
)


def adaptive_distillers(study: Study) -> list[Distiller]:
    """Distillers with a policy, cheapest first: the order in which they go on."""
    adaptive = [row for row in study.distillers if row.passes_policy is not None]
    return sorted(adaptive, key=lambda row: (row.declared_cost, row.name))


def passes_due(study: Study, store: "TableStore", key: str) -> pl.DataFrame | None:
    """`adaptive_passes.due_passes` of one partition of responses; None where every query is due `num_passes`."""
    name, shard = distiller_and_shard(key)
    row = study.distiller(name)
    if row.passes_policy is None:
        return None
    queries = store.read("queries", shard, columns=["query_id", "category"], missing="empty")
    return _due(study, store, queries, row, shard)


def _due(study: Study, store: "TableStore", queries: pl.DataFrame, row: Distiller, shard: str) -> pl.DataFrame:
    """One row per query that the distiller answers: what is known of its passes, and how many it is due."""
    counts = pass_counts(answered_queries(queries, row), *_verdicts(study, store, queries, row, shard))
    if row.passes_policy is None:
        return counts.with_columns(num_due=pl.lit(row.num_passes, dtype=pl.Int64))
    others = [study.distiller(name) for name in row.passes_policy.unless_settled_by]
    cheaper = None
    if others:
        is_finished = pl.col("num_judged") >= pl.col("num_due")
        frames = [_due(study, store, queries, other, shard).with_columns(is_finished=is_finished) for other in others]
        cheaper = of_cheaper_distillers(frames, row.passes_policy.confidence)
    return due_passes(counts, row.passes_policy, row.num_passes, cheaper)


def _verdicts(
    study: Study, store: "TableStore", queries: pl.DataFrame, row: Distiller, shard: str
) -> tuple[pl.DataFrame, set[str]]:
    """Verdicts on what counts of a distiller's responses, by verifiers of any age, and which are today's."""
    key = response_partition(row.name, shard)
    stored = store.read("verdicts", key, columns=_OF_VERDICTS, missing="empty")
    counting = still_expected(stored, queries.select("query_id"), [row])
    return counting, {verifier_fingerprint(verifier) for verifier in study.verifiers}


def spent_by_distiller(study: Study, store: "TableStore") -> dict[str, dict[str, int | float | None]]:
    """`adaptive_passes.passes_spent` of every distiller with a policy over all shards, which are read in turn."""
    return {
        row.name: all_spent(_spent(study, store, row, shard) for shard in study.shards)
        for row in adaptive_distillers(study)
    }


def _spent(study: Study, store: "TableStore", row: Distiller, shard: str) -> dict[str, int | float | None]:
    queries = store.read("queries", shard, columns=["query_id", "category"], missing="empty")
    return passes_spent(answered_queries(queries, row), *_verdicts(study, store, queries, row, shard), distiller=row)
