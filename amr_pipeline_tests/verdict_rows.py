"""Verdict, difficulty and quality frames from short literals, for tests of the chapters that read them."""

from collections.abc import Iterable

import polars as pl

from amr_pipeline import tables
from amr_pipeline.categories import Category, passes
from amr_pipeline.fingerprint import content_id

NOW = "verifier-now"

Score = float | None | str
"""A verify_score; None for undecided (timeout); a string for undecided with that cause."""


def query(index: int) -> str:
    """A made-up query id that looks like a real one; indices below 256 spread over the shards."""
    return f"{index % 256:02x}{index:030x}"


def response(query_id: str, distiller: str, pass_index: int) -> str:
    """The id of a made-up response."""
    return content_id("response", query_id, distiller, pass_index)


def verdicts(
    scores: Iterable[tuple[str, str, list[Score]]],
    category: Category = Category.MATH,
    *,
    fingerprint: str = NOW,
) -> pl.DataFrame:
    """`tables.VERDICTS` rows of (query_id, distiller, scores by pass)."""
    rows = []
    for query_id, distiller, values in scores:
        for pass_index, value in enumerate(values):
            undecided = value is None or isinstance(value, str)
            rows.append(
                {
                    "response_id": response(query_id, distiller, pass_index),
                    "query_id": query_id,
                    "category": str(category),
                    "distiller": distiller,
                    "distiller_fingerprint": f"{distiller}-now",
                    "pass_index": pass_index,
                    "verdict": "undecided" if undecided else "passed" if passes(category, value) else "failed",
                    "verify_score": None if undecided else float(value),
                    "cause": (value or "timeout") if undecided else None,
                    "verifier": "made_up/typed",
                    "verifier_fingerprint": fingerprint,
                    "evidence": "",
                }
            )
    return tables.VERDICTS.conform(pl.DataFrame(rows, schema=tables.VERDICTS.schema, strict=False))


def quality(verdict_rows: pl.DataFrame, reasons: dict[str, str] | None = None, tokens: int = 100) -> pl.DataFrame:
    """`tables.RESPONSE_QUALITY` rows for the responses of `verdict_rows`; `reasons` by response id."""
    reasons = reasons or {}
    return tables.RESPONSE_QUALITY.conform(
        verdict_rows.unique("response_id", maintain_order=True).select(
            "response_id",
            "query_id",
            "category",
            "distiller",
            "pass_index",
            pl.lit("stop").alias("finish_reason"),
            pl.lit(tokens).alias("response_tokens"),
            pl.lit(10).alias("think_characters"),
            pl.lit(10).alias("answer_characters"),
            pl.lit(2.0).alias("perplexity"),
            pl.lit(0).alias("num_frequent_ngrams"),
            pl.col("response_id").replace_strict(reasons, default=None, return_dtype=pl.String).alias("quality_reason"),
        )
    )
