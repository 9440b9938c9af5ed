"""Evaluation: what a checkpoint scores on held-out problems, how sure that is, and whether two checkpoints differ.

Reads `tables.BENCHMARK_SCORES`. A benchmark's score is pass@1: the mean over problems of the mean over its passes.
Passes of one problem resemble each other, so intervals and tests draw problems, never single responses: 30 problems
with 16 passes each are 30 observations. Undecided passes are counted beside and enter no mean.

Two runs are compared on the problems both of them answered, because most of the spread between problems is the same
for both. The answer is `better`, `worse` or `not distinguishable`, never a lone number.

Belongs here: arithmetic on scores. Does not belong here: generating or judging responses, drawing plots.
Source: DeepDistill 4.3 (benchmarks, pass@1); intervals and tests are ours, the paper gives none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from amr_pipeline.difficulty import Z_95

SEED = 20250424
"""Seed of every resampling here, so that the same scores give the same interval and p-value everywhere."""

NUM_RESAMPLES = 10_000
"""Bootstrap and sign-flip draws: the p-value of an even test is known to within 0.01."""

LARGEST_EXACT_TEST = 12
"""Problems that differ up to which all sign flips (4,096 at most) are tried instead of drawn."""

SIGNIFICANCE = 0.05
"""Two-sided p-value, after Holm's correction, below which two runs count as different."""

_RESAMPLES_AT_ONCE = 500
"""Draws held in memory together: 500 x 1,000 problems are 4 MB."""

Outcome = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over problems with its 95 % interval, all 0 to 1 for scores and -1 to 1 for differences."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """One run against another on the problems of one benchmark that both answered.

    Attributes:
        difference: of `run` minus `baseline` in pass@1, with its 95 % interval.
        p_value: two-sided, of the sign-flip test, not corrected for other comparisons.
        corrected_p_value: after Holm's correction over the comparisons made together.
        outcome: by `corrected_p_value` and the sign of the difference.
    """

    run: str
    baseline: str
    benchmark: str
    num_problems: int
    difference: Interval
    p_value: float
    corrected_p_value: float
    outcome: Outcome


def problem_scores(scores: pl.LazyFrame) -> pl.LazyFrame:
    """Pass rate per problem: one row per (training_recipe, benchmark, query_id), in that order.

    Columns: num_samples, num_decided, num_undecided, pass_rate (0 to 1, null where nothing is decided), num_stopped
    (responses that ended by themselves), response_tokens (sum).
    """
    decided = pl.col("verdict") != "undecided"
    return (
        scores.group_by("training_recipe", "benchmark", "query_id")
        .agg(
            pl.len().cast(pl.Int64).alias("num_samples"),
            decided.sum().cast(pl.Int64).alias("num_decided"),
            (~decided).sum().cast(pl.Int64).alias("num_undecided"),
            (pl.col("verdict") == "passed").sum().cast(pl.Int64).alias("num_passed"),
            (pl.col("finish_reason") == "stop").sum().cast(pl.Int64).alias("num_stopped"),
            pl.col("response_tokens").cast(pl.Int64).sum(),
        )
        .with_columns(pass_rate=pl.when(pl.col("num_decided") > 0).then(pl.col("num_passed") / pl.col("num_decided")))
        .drop("num_passed")
        .sort("training_recipe", "benchmark", "query_id")
    )


def benchmark_summary(scores: pl.LazyFrame) -> pl.DataFrame:
    """Score of every run on every benchmark: one row per (training_recipe, benchmark).

    Columns: num_problems, num_unscored (problems with nothing decided, in no mean), num_samples, num_undecided,
    pass_at_1 with pass_at_1_low and pass_at_1_high (0 to 1; null where nothing is decided), stop_ratio (share of
    responses that ended by themselves), mean_response_tokens.
    """
    problems = problem_scores(scores)
    keys = ["training_recipe", "benchmark"]
    counted = (
        problems.group_by(keys)
        .agg(
            pl.len().cast(pl.Int64).alias("num_problems"),
            pl.col("pass_rate").is_null().sum().cast(pl.Int64).alias("num_unscored"),
            pl.col("num_samples", "num_undecided", "num_stopped", "response_tokens").sum(),
            pl.col("pass_rate").drop_nulls().sort(),
        )
        .sort(keys)
        .collect()
    )
    intervals = [mean_with_interval(rates) for rates in counted.get_column("pass_rate").to_list()]
    return counted.select(
        *keys,
        "num_problems",
        "num_unscored",
        "num_samples",
        "num_undecided",
        pl.Series("pass_at_1", [each and each.mean for each in intervals], dtype=pl.Float64),
        pl.Series("pass_at_1_low", [each and each.low for each in intervals], dtype=pl.Float64),
        pl.Series("pass_at_1_high", [each and each.high for each in intervals], dtype=pl.Float64),
        (pl.col("num_stopped") / pl.col("num_samples")).alias("stop_ratio"),
        (pl.col("response_tokens") / pl.col("num_samples")).alias("mean_response_tokens"),
    )


def mean_with_interval(rates: Sequence[float]) -> Interval | None:
    """Mean of pass rates of problems with a 95 % interval over problems; None without a problem.

    Percentile bootstrap over problems. Where all problems agree the bootstrap sees no spread at all; then the Wilson
    interval stands in, with a problem as one observation, so that 3 of 3 solved does not read as certainty.
    """
    if not rates:
        return None
    values = np.sort(np.asarray(rates, dtype=np.float64))
    mean = float(values.mean())
    if values[0] == values[-1]:
        low, high = _wilson(mean, len(values))
        return Interval(mean=mean, low=low, high=high)
    low, high = _bootstrap(values)
    return Interval(mean=mean, low=low, high=high)


def compare(scores: pl.LazyFrame, run: str, baseline: str, benchmark: str) -> PairedComparison:
    """`run` against `baseline` on one benchmark, by a paired sign-flip test over problems.

    If neither run were better, each problem's difference could as well have the other sign; the p-value is the share
    of sign patterns whose mean difference is at least as large. Problems undecided in either run are left out.

    Raises:
        ValueError: the two runs have no decided problem of that benchmark in common.
    """
    differences = _differences(scores, run, baseline, benchmark)
    if differences.size == 0:
        raise ValueError(
            f"{run!r} and {baseline!r} have no decided problem of {benchmark!r} in common; evaluate both first"
        )
    p_value = _sign_flip_p_value(differences)
    low, high = _bootstrap(differences)
    mean = float(differences.mean())
    return PairedComparison(
        run=run,
        baseline=baseline,
        benchmark=benchmark,
        num_problems=int(differences.size),
        difference=Interval(mean=mean, low=low, high=high),
        p_value=p_value,
        corrected_p_value=p_value,
        outcome=_outcome(mean, p_value),
    )


def compare_all(scores: pl.LazyFrame, baseline: str) -> list[PairedComparison]:
    """Every other run against `baseline` on every benchmark both answered, by benchmark and run.

    P-values are corrected by Holm's method over the runs of one benchmark: with twenty learning rates, one would look
    better by chance alone. Runs without a decided problem in common with the baseline are left out.
    """
    present = problem_scores(scores).filter(pl.col("pass_rate").is_not_null()).collect()
    pairs = present.select("benchmark", "training_recipe").unique().sort("benchmark", "training_recipe")
    made: list[PairedComparison] = []
    for benchmark in pairs.get_column("benchmark").unique(maintain_order=True):
        runs = pairs.filter((pl.col("benchmark") == benchmark) & (pl.col("training_recipe") != baseline))
        found = [
            compare(scores, run, baseline, benchmark)
            for run in runs.get_column("training_recipe")
            if _differences(scores, run, baseline, benchmark).size
        ]
        made += holm(found)
    return made


def holm(comparisons: Sequence[PairedComparison]) -> list[PairedComparison]:
    """The same comparisons with p-values corrected for having been made together (Holm's step-down method)."""
    order = sorted(range(len(comparisons)), key=lambda index: comparisons[index].p_value)
    corrected: dict[int, float] = {}
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, comparisons[index].p_value * (len(order) - rank)))
        corrected[index] = largest
    return [_corrected(each, corrected[index]) for index, each in enumerate(comparisons)]


def _corrected(comparison: PairedComparison, p_value: float) -> PairedComparison:
    return PairedComparison(
        run=comparison.run,
        baseline=comparison.baseline,
        benchmark=comparison.benchmark,
        num_problems=comparison.num_problems,
        difference=comparison.difference,
        p_value=comparison.p_value,
        corrected_p_value=p_value,
        outcome=_outcome(comparison.difference.mean, p_value),
    )


def _outcome(difference: float, p_value: float) -> Outcome:
    if p_value >= SIGNIFICANCE or difference == 0:
        return "not distinguishable"
    return "better" if difference > 0 else "worse"


def _differences(scores: pl.LazyFrame, run: str, baseline: str, benchmark: str) -> np.ndarray:
    """Differences in pass rate per problem that both runs have decided, by query id."""
    rates = problem_scores(scores.filter(pl.col("benchmark") == benchmark)).filter(pl.col("pass_rate").is_not_null())
    ours = rates.filter(pl.col("training_recipe") == run).select("query_id", "pass_rate")
    theirs = rates.filter(pl.col("training_recipe") == baseline).select("query_id", pl.col("pass_rate").alias("other"))
    both = ours.join(theirs, on="query_id", how="inner").sort("query_id")
    return both.select(pl.col("pass_rate") - pl.col("other")).collect().to_series().to_numpy()


def _sign_flip_p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of the mean difference under random signs; problems without a difference decide nothing."""
    moved = differences[differences != 0]
    if moved.size == 0:
        return 1.0
    # Sums that differ by rounding only count as equally large.
    observed = abs(moved.sum()) - 1e-9
    if moved.size <= LARGEST_EXACT_TEST:
        patterns = np.indices((2,) * moved.size).reshape(moved.size, -1).T * 2 - 1
        return float((np.abs(patterns @ moved) >= observed).mean())
    rng = np.random.default_rng(SEED)
    extreme = 0
    for _ in range(NUM_RESAMPLES // _RESAMPLES_AT_ONCE):
        signs = rng.integers(0, 2, size=(_RESAMPLES_AT_ONCE, moved.size)) * 2 - 1
        extreme += int((np.abs(signs @ moved) >= observed).sum())
    # The observed pattern is one of those that could have been drawn.
    return (extreme + 1) / (NUM_RESAMPLES + 1)


def _bootstrap(values: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(SEED)
    means = [
        values[rng.integers(0, values.size, size=(_RESAMPLES_AT_ONCE, values.size))].mean(axis=1)
        for _ in range(NUM_RESAMPLES // _RESAMPLES_AT_ONCE)
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def _wilson(rate: float, count: int) -> tuple[float, float]:
    """95 % Wilson interval of a rate seen in `count` observations; exactly 0 or 1 at an end that was reached."""
    centre = (rate + Z_95**2 / (2 * count)) / (1 + Z_95**2 / count)
    half = Z_95 * (rate * (1 - rate) / count + Z_95**2 / (4 * count**2)) ** 0.5 / (1 + Z_95**2 / count)
    return (0.0 if rate == 0 else centre - half), (1.0 if rate == 1 else centre + half)
