"""What responses cost: engine time shared out while they are written, tokens by how they ended, what a kept token took.

A partition's commit record says what writing it took (`noted_cost`), accumulated over all runs that wrote in it; its
rows say the tokens. Not in the record: loading and idling engines, and what a killed run did since its last part.

Belongs here: shares, sums and ratios. Does not belong here: reading records (`assets.costs`).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

NOTE = "cost"
"""Name under which a commit record of `responses` holds `{distiller fingerprint: Cost as a dict}`."""

SPENT = pl.Schema(
    {
        "distiller": pl.String,
        "category": pl.String,
        "finish_reason": pl.String,
        "is_expected": pl.Boolean,
        "responses": pl.Int64,
        "prompt_tokens": pl.Int64,
        "response_tokens": pl.Int64,
        "recorded_responses": pl.Float64,
        "engine_seconds": pl.Float64,
        "gpu_seconds": pl.Float64,
    }
)
"""What `spending` gives: its grain first, then sums."""

_GRAIN = ("distiller", "category", "finish_reason", "is_expected")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What writing some responses took.

    Attributes:
        runs: runs that wrote some of them.
        responses, response_tokens: what was written in that time; rows from before there were records are in neither.
        engine_seconds: seconds that the distiller's engines, all of them together, were at work.
        gpu_seconds: the same times the GPUs that they held.
    """

    runs: int = 0
    responses: int = 0
    response_tokens: int = 0
    engine_seconds: float = 0.0
    gpu_seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Both together."""
        mine, its = asdict(self), asdict(other)
        return Cost(**{name: mine[name] + its[name] for name in mine})

    @property
    def tokens_per_gpu_second(self) -> float | None:
        """Measured rate; None where no GPU was held or no token was written."""
        return self.response_tokens / self.gpu_seconds if self.gpu_seconds and self.response_tokens else None


def noted_cost(notes: Mapping[str, Any], distiller_fingerprint: str) -> Cost:
    """What a commit record says that a distiller's responses took; nothing where it says nothing."""
    return Cost(**notes.get(NOTE, {}).get(distiller_fingerprint, {}))


def with_cost(notes: Mapping[str, Any], distiller_fingerprint: str, cost: Cost) -> dict[str, Any]:
    """Notes of the next version of a partition: those found, with what came on top.

    Notes are per version, so that each has to carry what the ones before it said.
    """
    total = noted_cost(notes, distiller_fingerprint) + cost
    return {**notes, NOTE: {**notes.get(NOTE, {}), distiller_fingerprint: asdict(total)}}


class EngineTime:
    """Time that one distiller's engines work in one run, shared out over its partitions by the tokens they got.

    Partitions are written side by side by the same engines, so that no clock of a partition's own could tell. The
    shares of all partitions add up to the time from `start` to the last share-out. A response without tokens counts
    as one token, since an engine looked at it.

    Args:
        gpus: GPUs that the engines hold together; asked when the clock starts, since they are there by then.
        clock: seconds, monotonic.
    """

    def __init__(self, gpus: Callable[[], float] = lambda: 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask_gpus, self._clock, self._gpus = gpus, clock, 0.0
        self._shared_at: float | None = None
        self._ticked_at = 0.0
        self._weights: dict[str, int] = {}
        self._costs: dict[str, Cost] = {}

    def start(self) -> None:
        """Start the clock: an engine that has loaded asks for work. Later calls change nothing."""
        if self._shared_at is None:
            self._gpus = self._ask_gpus()
            self._shared_at = self._ticked_at = self._clock()

    def tick(self) -> float:
        """GPU-seconds since the last tick, or since the start."""
        if self._shared_at is None:
            return 0.0
        before, self._ticked_at = self._ticked_at, self._clock()
        return (self._ticked_at - before) * self._gpus

    def wrote(self, partition: str, tokens: int) -> None:
        """A response of a partition came."""
        self._weights[partition] = self._weights.get(partition, 0) + max(1, tokens)
        found = self._costs.get(partition, Cost(runs=1))
        self._costs[partition] = replace(
            found, responses=found.responses + 1, response_tokens=found.response_tokens + tokens
        )

    def cost(self, partition: str) -> Cost:
        """What a partition took in this run up to now; shares out what is not shared out yet."""
        weights, self._weights = self._weights, {}
        if weights and self._shared_at is not None:
            now = self._clock()
            seconds, self._shared_at = now - self._shared_at, now
            total = sum(weights.values())
            for name, weight in weights.items():
                share = seconds * weight / total
                self._costs[name] += Cost(engine_seconds=share, gpu_seconds=share * self._gpus)
        return self._costs.get(partition, Cost())


def spending(rows: pl.DataFrame, costs: Mapping[str, Cost]) -> pl.DataFrame:
    """Sums over one partition's responses per category, finish reason and whether they are still expected (`SPENT`).

    A record's seconds go to the responses of its fingerprint by their tokens, at least one each.

    Args:
        rows: distiller, distiller_fingerprint, category, finish_reason, is_expected, prompt_tokens, response_tokens.
        costs: what the partition's record says, by distiller fingerprint.
    """
    noted = pl.DataFrame(
        [(name, cost.responses, cost.engine_seconds, cost.gpu_seconds) for name, cost in costs.items()],
        schema={
            "distiller_fingerprint": pl.String,
            "recorded_responses": pl.Float64,
            "engine_seconds": pl.Float64,
            "gpu_seconds": pl.Float64,
        },
        orient="row",
    )
    weight = pl.col("response_tokens").cast(pl.Int64).clip(lower_bound=1)
    whole = "distiller_fingerprint"
    return (
        rows.with_columns(by_token=weight / weight.sum().over(whole), by_response=1 / pl.len().over(whole))
        .join(noted, on=whole, how="left")
        .group_by(_GRAIN)
        .agg(
            pl.len().cast(pl.Int64).alias("responses"),
            *(pl.col(name).cast(pl.Int64).sum() for name in ("prompt_tokens", "response_tokens")),
            (pl.col("recorded_responses").fill_null(0.0) * pl.col("by_response")).sum(),
            *((pl.col(name).fill_null(0.0) * pl.col("by_token")).sum() for name in ("engine_seconds", "gpu_seconds")),
        )
        .select(pl.col(name).cast(kind) for name, kind in SPENT.items())
        .sort(_GRAIN)
    )


def add_up(parts: pl.DataFrame) -> pl.DataFrame:
    """Rows of `spending` of several partitions, added up."""
    return parts.group_by(_GRAIN).agg(pl.exclude(_GRAIN).sum()).select(SPENT.names()).sort(_GRAIN)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptCost:
    """What the tokens that one recipe keeps took, in one category or in all.

    Attributes:
        written: response tokens of the recipe's distillers, whatever became of them: failed, rejected, truncated,
            looping, and those that today's study does not expect any more.
        kept: response tokens of the subset.
        gpu_seconds: of `written`; None where some of it has no record.
    """

    recipe: str
    category: str
    written: int
    kept: int
    gpu_seconds: float | None

    @property
    def written_per_kept(self) -> float | None:
        """Tokens written for each token kept; None where none is."""
        return self.written / self.kept if self.kept else None

    @property
    def gpu_seconds_per_kept(self) -> float | None:
        """GPU-seconds for each token kept; None where none is, or some of the time has no record."""
        return self.gpu_seconds / self.kept if self.kept and self.gpu_seconds is not None else None


ALL_CATEGORIES = "all"


def kept_costs(recipe: str, distillers: tuple[str, ...], spent: pl.DataFrame, subset: pl.DataFrame) -> list[KeptCost]:
    """What a recipe's kept tokens took: a row per category that its distillers answered, and one for all.

    Args:
        recipe: its name.
        distillers: those it chooses from; only their responses were written for it.
        spent: `SPENT` rows.
        subset: `category` and `response_tokens` of what it chose.
    """
    mine = spent.filter(pl.col("distiller").is_in(distillers))
    categories = sorted({*mine.get_column("category"), *subset.get_column("category")})
    rows = []
    for category in [*categories, ALL_CATEGORIES]:
        of_category = pl.lit(value=True) if category == ALL_CATEGORIES else pl.col("category") == category
        written, chosen = mine.filter(of_category), subset.filter(of_category)
        rows.append(
            KeptCost(
                recipe=recipe,
                category=category,
                written=int(written.get_column("response_tokens").sum()),
                kept=int(chosen.get_column("response_tokens").cast(pl.Int64).sum()),
                gpu_seconds=float(written.get_column("gpu_seconds").sum()) if is_recorded(written) else None,
            )
        )
    return rows


def is_recorded(spent: pl.DataFrame) -> bool:
    """Whether every response among `SPENT` rows has a record of what it took."""
    responses, recorded = spent.select(pl.col("responses").sum(), pl.col("recorded_responses").sum()).row(0)
    return recorded > responses - 0.5  # shares of whole numbers


def money(gpu_seconds: float | None, price_per_gpu_hour: float | None) -> float | None:
    """Price of some GPU time; None where either is unknown."""
    return None if gpu_seconds is None or price_per_gpu_hour is None else gpu_seconds / 3600 * price_per_gpu_hour
