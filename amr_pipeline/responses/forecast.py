"""What a backfill is going to take: responses owed, tokens with an interval, GPU time and money.

Pure arithmetic. Lengths of responses have heavy tails, and budgets are sums: so the mean is used, never the median,
with a normal interval whose variance is estimated over queries, since passes of one query resemble each other. The
interval is one for the sum to come: it holds the error of the mean and the luck of the draws ahead.

A response that would be written anew is expected to be as long as stored ones of the same distiller fingerprint and
category, truncated and looping ones included. Tokens of prompts are not counted.

Belongs here: history into expectation. Does not belong here: reading it (`assets.forecast`), a study without any
queries yet (`studies.plan`).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import polars as pl

from amr_pipeline.responses.expected import answered_queries
from amr_pipeline.responses.prices import Prices
from amr_pipeline.studies.study import Distiller

FEWEST_QUERIES = 30
"""Below so many answered queries a heavy tail has hardly shown itself, and an interval would pretend to know it."""

ALL = "all"

_NORMAL = 1.959964


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Sums over the responses of one distiller in one category; those of several partitions add up.

    A query stands in one partition with all of its passes, so that sums over queries add up, too.

    Attributes:
        queries, responses, tokens: how many.
        tokens_squared, responses_squared, products: sums over queries of its tokens squared, its responses squared,
            and their product.
    """

    queries: int = 0
    responses: int = 0
    tokens: int = 0
    tokens_squared: float = 0.0
    responses_squared: float = 0.0
    products: float = 0.0

    def __add__(self, other: "Lengths") -> "Lengths":
        """Both together."""
        mine, its = asdict(self), asdict(other)
        return Lengths(**{name: mine[name] + its[name] for name in mine})

    @property
    def mean(self) -> float:
        """Tokens per response."""
        return self.tokens / self.responses

    @property
    def variance(self) -> float:
        """Of one response, as far as sums over queries are concerned: what passes of a query share is in it.

        With residuals `tokens - mean * responses` of each query: their mean square per response, corrected for the
        mean being estimated from the same queries.
        """
        mean = self.mean
        squares = self.tokens_squared - 2 * mean * self.products + mean**2 * self.responses_squared
        return max(0.0, squares) / self.responses * self.queries / max(1, self.queries - 1)


def lengths(responses: pl.DataFrame) -> dict[str, Lengths]:
    """`Lengths` by category; reads query_id, category and response_tokens of one distiller's responses."""
    by_query = responses.group_by("category", "query_id").agg(
        pl.len().cast(pl.Float64).alias("n"), pl.col("response_tokens").cast(pl.Float64).sum().alias("t")
    )
    sums = by_query.group_by("category").agg(
        pl.len().alias("queries"),
        pl.col("n").sum().cast(pl.Int64).alias("responses"),
        pl.col("t").sum().cast(pl.Int64).alias("tokens"),
        (pl.col("t") ** 2).sum().alias("tokens_squared"),
        (pl.col("n") ** 2).sum().alias("responses_squared"),
        (pl.col("t") * pl.col("n")).sum().alias("products"),
    )
    return {row.pop("category"): Lengths(**row) for row in sums.iter_rows(named=True)}


def num_owed(
    queries: pl.DataFrame, present: pl.DataFrame, distiller: Distiller, due: pl.DataFrame | None = None
) -> dict[str, int]:
    """How many rows `expected.owed_responses` has, by category; counted, so that no id is hashed.

    Args:
        queries: query_id and category of today's queries.
        present: query_id, pass_index and distiller_fingerprint of what is stored.
        distiller: whose responses.
        due: query_id and num_due, the passes each query is due now under a policy of adaptive passes; None: all.
    """
    asked = answered_queries(queries, distiller).select("query_id", "category")
    if due is None:
        asked = asked.with_columns(num_due=pl.lit(distiller.most_passes, dtype=pl.Int64))
    else:
        asked = asked.join(due.select("query_id", "num_due"), on="query_id")
    there = (
        present.filter(pl.col("distiller_fingerprint") == distiller.distiller_fingerprint)
        .select("query_id", "pass_index")
        .join(asked, on="query_id")
        .filter(pl.col("pass_index") < pl.col("num_due"))
        .unique()
    )
    stored = dict(there.group_by("category").len().iter_rows())
    expected = dict(asked.group_by("category").agg(pl.col("num_due").sum()).iter_rows())
    return {name: int(count) - stored.get(name, 0) for name, count in expected.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """Tokens to come; None where nothing says how long a response is.

    Attributes:
        low, high: 95 % interval; None where there is none.
        basis: what it rests on, for people.
    """

    tokens: float | None
    low: float | None = None
    high: float | None = None
    basis: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Response tokens per GPU-second; `basis` says whether history or the deployment's setting says so."""

    tokens_per_gpu_second: float
    basis: Literal["measured", "set"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What one distiller owes in one category, or in all, and what that takes.

    Attributes:
        rate: None where nothing says how fast its engines are.
        gpu_seconds, money: None where tokens, rate or price are unknown; 0 for a distiller that holds no GPU. Behind
            a server money is what its tokens cost, prompts left out.
    """

    distiller: str
    category: str
    owed: int
    expected: Expectation
    rate: Rate | None
    gpu_seconds: float | None
    money: float | None


def forecast(
    distiller: Distiller,
    owed: Mapping[str, int],
    history: Mapping[str, Lengths],
    *,
    rate: Rate | None = None,
    prices: Prices | None = None,
) -> list[Forecast]:
    """A row per category that owes something, and one for all.

    Args:
        distiller: whose responses.
        owed: responses owed by category.
        history: of stored responses, by category.
        rate: how fast its engines are, as far as known.
        prices: what the deployment pays, as far as it says so.
    """
    due = {category: count for category, count in sorted(owed.items()) if count}
    expected = {category: _expected(distiller, category, count, history) for category, count in due.items()}
    rows = [(category, due[category], expected[category]) for category in due]
    rows.append((ALL, sum(due.values()), _together(list(expected.values()))))
    found = []
    for category, count, tokens in rows:
        seconds = _gpu_seconds(distiller, tokens.tokens, rate)
        found.append(
            Forecast(
                distiller=distiller.name,
                category=category,
                owed=count,
                expected=tokens,
                rate=rate,
                gpu_seconds=seconds,
                money=_money(distiller, tokens.tokens, seconds, prices or Prices()),
            )
        )
    return found


def tokens_ahead(owed: int, known: Lengths) -> Expectation:
    """Tokens of so many more responses like the known ones, with a normal 95 % interval of their sum."""
    tokens, basis = owed * known.mean, f"{known.responses:,} responses of {known.queries:,} queries"
    if known.queries < FEWEST_QUERIES:
        return Expectation(tokens=tokens, basis=f"{basis}, too few for an interval")
    margin = _NORMAL * math.sqrt(known.variance * owed * (1 + owed / known.responses))
    return Expectation(tokens=tokens, low=max(0.0, tokens - margin), high=tokens + margin, basis=basis)


def _expected(distiller: Distiller, category: str, owed: int, history: Mapping[str, Lengths]) -> Expectation:
    """From history of the category, else from the row, else from history of other categories."""
    if distiller.engine == "imported":
        return Expectation(tokens=0.0, low=0.0, high=0.0, basis="imported, nothing is written")
    if category in history:
        return tokens_ahead(owed, history[category])
    if distiller.mean_response_tokens is not None:
        return Expectation(tokens=owed * distiller.mean_response_tokens, basis="declared, no interval")
    if history:
        known = sum(history.values(), Lengths())
        return Expectation(tokens=owed * known.mean, basis="other categories, no interval")
    return Expectation(tokens=None, basis="unknown: no history, and the row declares no length")


def _together(parts: list[Expectation]) -> Expectation:
    """The sum; its interval takes categories as independent, and is there when every part has one."""
    if not parts:
        return Expectation(tokens=0.0, low=0.0, high=0.0, basis="nothing owed")
    basis = parts[0].basis if len(parts) == 1 else "the sum"
    if any(part.tokens is None for part in parts):
        return Expectation(tokens=None, basis="unknown in some category" if len(parts) > 1 else basis)
    tokens = sum(part.tokens or 0.0 for part in parts)
    if any(part.high is None for part in parts):
        return Expectation(tokens=tokens, basis="the sum, no interval" if len(parts) > 1 else basis)
    margin = math.sqrt(sum(((part.high or 0.0) - (part.tokens or 0.0)) ** 2 for part in parts))
    return Expectation(tokens=tokens, low=max(0.0, tokens - margin), high=tokens + margin, basis=basis)


def _gpu_seconds(distiller: Distiller, tokens: float | None, rate: Rate | None) -> float | None:
    if tokens == 0 or distiller.gpus_per_replica == 0 or distiller.engine == "http":
        return 0.0
    return None if tokens is None or rate is None else tokens / rate.tokens_per_gpu_second


def _money(distiller: Distiller, tokens: float | None, gpu_seconds: float | None, prices: Prices) -> float | None:
    if distiller.engine != "http":
        return prices.of_gpus(gpu_seconds, distiller.name)
    price = prices.tokens.get(distiller.name)
    return None if tokens is None or price is None else price.of(0, tokens)
