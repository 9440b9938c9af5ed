"""Which responses should exist: every query, every distiller that answers its category, every pass.

Under a policy of adaptive passes, how many a query is due is asked elsewhere (`adaptive_passes`) and handed in; every
stored pass up to the policy's most counts.

Belongs here: the question, asked of ids or of rows. Does not belong here: what is stored (`assets.responses`).
"""

from collections.abc import Sequence

import polars as pl

from amr_pipeline import worklist
from amr_pipeline.categories import Category
from amr_pipeline.responses.generation import response_id
from amr_pipeline.studies.study import Distiller


def expected_responses(queries: pl.DataFrame, distiller: Distiller) -> pl.DataFrame:
    """One row per response that should exist: the query's columns, `pass_index` and `response_id`.

    With adaptive passes, one per response that counts where it exists.
    """
    return _identified(_asked(queries, distiller, None), distiller)


def answered_queries(queries: pl.DataFrame, distiller: Distiller) -> pl.DataFrame:
    """Queries of the categories that a distiller answers."""
    answered = [str(category) for category in Category if distiller.answers(category)]
    return queries.filter(pl.col("category").is_in(answered))


def _asked(queries: pl.DataFrame, distiller: Distiller, due: pl.DataFrame | None) -> pl.DataFrame:
    passes = pl.DataFrame({"pass_index": range(distiller.most_passes)}, schema={"pass_index": pl.Int32})
    asked = answered_queries(queries, distiller).join(passes, how="cross")
    if due is None:
        return asked
    num_due = due.select("query_id", "num_due")
    return (
        asked.join(num_due, on="query_id", how="inner", maintain_order="left")
        .filter(pl.col("pass_index") < pl.col("num_due"))
        .drop("num_due")
    )


def _identified(rows: pl.DataFrame, distiller: Distiller) -> pl.DataFrame:
    fingerprint = distiller.distiller_fingerprint  # hashes the whole row, so once
    identities = [
        response_id(query, fingerprint, index) for query, index in rows.select("query_id", "pass_index").iter_rows()
    ]
    return rows.with_columns(pl.Series("response_id", identities, dtype=pl.String))


def num_expected(queries: pl.DataFrame, distiller: Distiller) -> int:
    """How many responses some queries make a distiller owe; of queries, `category` is read.

    With adaptive passes, the first ones, which are due whatever their verdicts.
    """
    num_passes = distiller.num_passes if distiller.passes_policy is None else distiller.passes_policy.first
    return num_passes * answered_queries(queries, distiller).height


def owed_responses(
    queries: pl.DataFrame, present: pl.DataFrame, distiller: Distiller, due: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The rows of `expected_responses` that are not present, in the same order.

    A response's id says query, distiller fingerprint and pass, so presence is a join on these, and only what is owed
    is hashed.

    Args:
        queries: today's queries of some shards.
        present: query_id, pass_index and distiller_fingerprint of what is stored.
        distiller: whose responses.
        due: query_id and num_due, the passes each query is due under a policy of adaptive passes; None: all.
    """
    stored = present.filter(pl.col("distiller_fingerprint") == distiller.distiller_fingerprint)
    return _identified(worklist.owed(_asked(queries, distiller, due), stored, ["query_id", "pass_index"]), distiller)


def longest_first(owed: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The same rows, those whose response will be longest first, as far as stored responses tell.

    What is begun last decides how long engines stand nearly empty, so it should be short. Lengths of one query are
    alike over passes and distillers; where nothing of a query is stored, its category's mean stands in; where nothing
    is known at all the order stays.

    Args:
        owed: query_id, category and anything else.
        known: query_id, category and response_tokens of stored responses, whoever wrote them.
    """
    mean = pl.col("response_tokens").mean()
    of_query = known.group_by("query_id").agg(mean.alias("of_query"))
    of_category = known.group_by("category").agg(mean.alias("of_category"))
    return (
        owed.join(of_query, on="query_id", how="left", maintain_order="left")
        .join(of_category, on="category", how="left", maintain_order="left")
        .sort(pl.coalesce("of_query", "of_category"), descending=True, nulls_last=True, maintain_order=True)
        .select(owed.columns)
    )


def still_expected(rows: pl.DataFrame, queries: pl.DataFrame, distillers: Sequence[Distiller]) -> pl.DataFrame:
    """Rows about responses that today's study expects: its distillers as they are, their passes, today's queries.

    What is left out is what `expected_responses` does not name, found without hashing an id per row.

    Args:
        rows: query_id, category, distiller, distiller_fingerprint, pass_index and anything else.
        queries: query_id of today's queries, of at least the shards that `rows` are of.
        distillers: the study's.
    """
    asked = pl.DataFrame(
        [
            (row.name, row.distiller_fingerprint, str(category), row.most_passes)
            for row in distillers
            for category in Category
            if row.answers(category)
        ],
        schema={
            "distiller": pl.String,
            "distiller_fingerprint": pl.String,
            "category": pl.String,
            "most_passes": pl.Int32,
        },
        orient="row",
    )
    return (
        rows.join(asked, on=["distiller", "distiller_fingerprint", "category"], maintain_order="left")
        .filter(pl.col("pass_index") < pl.col("most_passes"))
        .join(queries, on="query_id", how="semi", maintain_order="left")
        .drop("most_passes")
    )
