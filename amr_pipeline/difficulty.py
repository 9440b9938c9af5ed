"""Difficulty: how often and how unevenly distillers succeed on one query.

Reads `tables.VERDICTS`, writes `tables.DIFFICULTY`. One row per (query, distiller) and one joint row per query, which
pools the responses of all distillers as if one had written them.

A response counts once it is decided. Undecided ones are counted beside, never in a denominator, so a verifier that
could not run widens an interval and moves no pass rate.

With scores of 0 and 1 alone (math), the coefficient of variation is a function of the pass rate: sqrt((1 - p) / p),
that is 0, 0.577, 1, 1.732 for 4, 3, 2, 1 passes of 4. It says more than the pass rate only where scores are fractions.

Belongs here: arithmetic on verdicts. Does not belong here: judging (`verdicts`), choosing (`subsets`).
Source: DeepDistill 2.4.2 (pass rate, Eq. 5) and 3.1 (variation, Eq. 6).
"""

from collections.abc import Sequence

import polars as pl

from amr_pipeline import tables
from amr_pipeline.queries.identity import shard_of

JOINT = "joint"
"""Name of the row over all distillers of a query."""

Z_95 = 1.959963984540054
"""Standard normal quantile at 97.5 %: the half width, in standard errors, of a 95 % interval."""

EASY_ABOVE, HARD_BELOW = 5 / 8, 3 / 8
"""Cuts between tiers. They are eighths so that they fall between quarters (four passes) and so that twelve pooled
passes have the same tiers."""


def current_verdicts(verdicts: pl.LazyFrame, fingerprints: Sequence[str]) -> pl.LazyFrame:
    """Verdicts of today's verifiers; which responses still count is asked before (`responses.expected`).

    Args:
        verdicts: `tables.VERDICTS` rows of any age.
        fingerprints: of the verifiers in force, one per category at most; two of one category would count a
            response twice.
    """
    return verdicts.filter(pl.col("verifier_fingerprint").is_in(list(fingerprints)))


def difficulty(verdicts: pl.LazyFrame, *, fingerprints: Sequence[str], num_shards: int) -> pl.LazyFrame:
    """`tables.DIFFICULTY` rows, in the order of their key.

    The order of verdicts never matters, not even in the last bit of a mean. Should verdicts disagree on a query's
    category, its joint row carries the alphabetically first one; scores are pooled as they are.

    Args:
        verdicts: `tables.VERDICTS` rows on responses that are expected today; those of former verifiers are ignored.
        fingerprints: as in `current_verdicts`.
        num_shards: of the study; the shard follows from the query id.
    """
    current = current_verdicts(verdicts, fingerprints)
    rows = pl.concat([current, current.with_columns(distiller=pl.lit(JOINT))])
    counted = rows.group_by("query_id", "distiller").agg(
        pl.col("category").min(),
        (pl.col("verdict") != "undecided").sum().alias("num_responses"),
        (pl.col("verdict") == "passed").sum().alias("num_passed"),
        (pl.col("verdict") == "undecided").sum().alias("num_undecided"),
        sorted_scores().alias("scores"),
    )
    graded = counted.with_columns(
        shard(num_shards).alias("shard"),
        mean_score().alias("mean_score"),
        pl.col("scores").list.max().alias("highest_score"),
        coefficient_of_variation().alias("coefficient_of_variation"),
        pass_rate().alias("pass_rate"),
        wilson_low().alias("pass_rate_low"),
        wilson_high().alias("pass_rate_high"),
    ).with_columns(tier().alias("tier"))
    schema = tables.DIFFICULTY.schema
    return graded.select(pl.col(name).cast(dtype) for name, dtype in schema.items()).sort("query_id", "distiller")


def sorted_scores(score: str = "verify_score") -> pl.Expr:
    """The decided scores of a group as a list, smallest first; empty where nothing is decided.

    Sums and squares are taken over this list, because a mean over the group itself changes in its last bit with the
    order of passes, and a sort in front of a mean is one that polars leaves out as useless.
    """
    return pl.col(score).drop_nulls().sort()


def mean_score(scores: str = "scores") -> pl.Expr:
    """Mean of a list of scores, in the category's range; null where the list is empty."""
    return pl.col(scores).list.mean()


def coefficient_of_variation(scores: str = "scores", *, sample: bool = False) -> pl.Expr:
    """Standard deviation over mean of a list of scores: dimensionless, at least 0.

    Null when the mean is 0 (nothing scored, spread is undefined) or the list is empty. Equal scores give exactly 0.

    Args:
        scores: column of lists of decided scores (`sorted_scores`).
        sample: divide by n - 1 instead of n. The pipeline divides by n as Eq. 6 is printed; the paper's worked
            figures for Q_B, Q_C and Q_D follow n - 1. Both are pinned in the tests.

    Source: DeepDistill 3.1, Eq. 6. Example: scores 0.9, 0.1, 0.7, 0.3, 0.5 -> 0.566 (sample form 0.632).
    """
    values = pl.col(scores).list
    spread = pl.when(values.min() == values.max()).then(0.0).otherwise(values.std(ddof=1 if sample else 0))
    return pl.when(values.mean() > 0).then(spread / values.mean())


def pass_rate() -> pl.Expr:
    """`num_passed` / `num_responses`, 0 to 1; null where nothing is decided (Eq. 5)."""
    return pl.when(pl.col("num_responses") > 0).then(pl.col("num_passed") / pl.col("num_responses"))


def wilson_low(passed: str = "num_passed", decided: str = "num_responses", z: float = Z_95) -> pl.Expr:
    """Lower end of the Wilson score interval of a pass rate; exactly 0 with no pass, null with nothing decided.

    `z` is the half width in standard errors, by default that of a 95 % interval.
    """
    low = _wilson_centre(passed, decided, z) - _wilson_half_width(passed, decided, z)
    return pl.when(pl.col(decided) > 0).then(pl.when(pl.col(passed) == 0).then(0.0).otherwise(low))


def wilson_high(passed: str = "num_passed", decided: str = "num_responses", z: float = Z_95) -> pl.Expr:
    """Upper end of the Wilson score interval; exactly 1 where all passed, null with nothing decided; `z` as above."""
    high = _wilson_centre(passed, decided, z) + _wilson_half_width(passed, decided, z)
    return pl.when(pl.col(decided) > 0).then(pl.when(pl.col(passed) == pl.col(decided)).then(1.0).otherwise(high))


def tier(rate: str = "pass_rate") -> pl.Expr:
    """Difficulty by pass rate: 1 trivial, above 5/8 easy, 3/8 to 5/8 medium, above 0 hard, 0 unsolved.

    `undecided` where the rate is null.
    """
    value = pl.col(rate)
    return (
        pl.when(value.is_null())
        .then(pl.lit("undecided"))
        .when(value >= 1)
        .then(pl.lit("trivial"))
        .when(value > EASY_ABOVE)
        .then(pl.lit("easy"))
        .when(value >= HARD_BELOW)
        .then(pl.lit("medium"))
        .when(value > 0)
        .then(pl.lit("hard"))
        .otherwise(pl.lit("unsolved"))
    )


def shard(num_shards: int) -> pl.Expr:
    """Shard of `query_id`, as `queries.identity.shard_of` gives it; raises on an id that is not hex."""
    by_prefix = {f"{prefix:02x}": shard_of(f"{prefix:02x}", num_shards) for prefix in range(256)}
    return pl.col("query_id").str.slice(0, 2).replace_strict(by_prefix, return_dtype=pl.String)


def pass_rate_by_category(difficulty: pl.LazyFrame) -> pl.LazyFrame:
    """Pass rate of every distiller (and of all, `joint`) in every category, with a 95 % interval over queries.

    One row per (distiller, category): num_queries, num_responses (decided), num_passed, num_undecided, pass_rate,
    pass_rate_low, pass_rate_high; null where nothing is decided. The rate pools responses; its interval treats the
    queries as the draws, because passes of one query resemble each other (linearized ratio, normal). Where all
    queries agree that spread is 0, and the Wilson interval over queries stands in.
    """
    decided = difficulty.with_columns(
        rate=pl.col("num_passed").sum().over("distiller", "category")
        / pl.col("num_responses").sum().over("distiller", "category"),
        graded=(pl.col("num_responses") > 0),
    ).with_columns(residual=pl.col("num_passed") - pl.col("rate") * pl.col("num_responses"))
    sums = decided.group_by("distiller", "category").agg(
        pl.len().cast(pl.Int64).alias("num_queries"),
        pl.col("graded").sum().cast(pl.Int64).alias("num_graded"),
        pl.col("num_responses", "num_passed", "num_undecided").cast(pl.Int64).sum(),
        (pl.col("residual") ** 2).sum().alias("squares"),
    )
    queries = pl.col("num_graded")
    error = (pl.col("squares") * queries / (queries - 1)).sqrt() / pl.col("num_responses")
    measured = sums.with_columns(
        pass_rate().alias("pass_rate"),
        pl.when((queries > 1) & (pl.col("squares") > 0)).then(Z_95 * error).alias("half"),
    ).with_columns(agreeing=pl.col("pass_rate") * queries)
    low = pl.coalesce((pl.col("pass_rate") - pl.col("half")).clip(0, 1), wilson_low("agreeing", "num_graded"))
    high = pl.coalesce((pl.col("pass_rate") + pl.col("half")).clip(0, 1), wilson_high("agreeing", "num_graded"))
    return (
        measured.with_columns(low.alias("pass_rate_low"), high.alias("pass_rate_high"))
        .drop("half", "squares", "agreeing", "num_graded")
        .sort("distiller", "category")
    )


def _wilson_centre(passed: str, decided: str, z: float) -> pl.Expr:
    n = pl.col(decided)
    return (pl.col(passed) / n + z**2 / (2 * n)) / (1 + z**2 / n)


def _wilson_half_width(passed: str, decided: str, z: float) -> pl.Expr:
    n = pl.col(decided)
    rate = pl.col(passed) / n
    # The product is at most 1/4; rounding may leave it a hair below 0 where all passed.
    variance = (rate * (1 - rate)).clip(0, 0.25) / n + z**2 / (4 * n**2)
    return z * variance.sqrt() / (1 + z**2 / n)
