"""Which responses should exist: every query, every distiller that answers its category, every pass.

Belongs here: the question, asked of ids or of rows. Does not belong here: what is stored (`assets.responses`).
"""

from collections.abc import Sequence

import polars as pl

from amr_pipeline.categories import Category
from amr_pipeline.responses.generation import response_id
from amr_pipeline.studies.study import Distiller


def expected_responses(queries: pl.DataFrame, distiller: Distiller) -> pl.DataFrame:
    """One row per response that should exist: the query's columns, `pass_index` and `response_id`."""
    asked = queries.filter([distiller.answers(Category(name)) for name in queries.get_column("category")])
    passes = pl.DataFrame({"pass_index": range(distiller.num_passes)}, schema={"pass_index": pl.Int32})
    rows = asked.join(passes, how="cross")
    identities = [
        response_id(query, distiller.distiller_fingerprint, index)
        for query, index in rows.select("query_id", "pass_index").iter_rows()
    ]
    return rows.with_columns(pl.Series("response_id", identities, dtype=pl.String))


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
            (row.name, row.distiller_fingerprint, str(category), row.num_passes)
            for row in distillers
            for category in Category
            if row.answers(category)
        ],
        schema={
            "distiller": pl.String,
            "distiller_fingerprint": pl.String,
            "category": pl.String,
            "num_passes": pl.Int32,
        },
        orient="row",
    )
    return (
        rows.join(asked, on=["distiller", "distiller_fingerprint", "category"], maintain_order="left")
        .filter(pl.col("pass_index") < pl.col("num_passes"))
        .join(queries, on="query_id", how="semi", maintain_order="left")
        .drop("num_passes")
    )
