"""Subsets: which responses one selection recipe chooses, and why it rejects every other one.

Reads the slim tables `DIFFICULTY`, `VERDICTS` and `RESPONSE_QUALITY`, never text, and writes `SUBSETS`. Every
response that the recipe considers (one by a distiller it names, judged by today's verifiers) ends as chosen or with
one reason, so considered = chosen + rejected.

Chance is a hash of (seed, purpose, id), never a generator's state: shuffled, extended or split input draws the same.

A query with a pass that a transient cause left undecided waits: its verdict is owed, and the spread of its scores may
change when it comes. A pass that will stay undecided (no reference, unsupported) is left out and the rest decide.

Belongs here: Algorithm 1, the annealing set, and any other rule that a `SelectionRecipe` can say.
Does not belong here: what a quality rule is (`responses`), or the shape of published files (`release`).
Source: DeepDistill 3.2, Algorithm 1.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from amr_pipeline import tables
from amr_pipeline.difficulty import current_verdicts
from amr_pipeline.studies.study import CategoryRule, SelectionRecipe
from amr_pipeline.verdicts.verifier import TRANSIENT_CAUSES

CHALLENGING = "challenging"
EASY_KEPT = "easy, kept by chance"

# Reasons, in the order in which they are asked; a response has the first that applies.
NO_RULE = "the recipe has no rule for its category"
UNDECIDED = "its verdict is undecided"
NOT_GRADED = "its query is not graded"
WAITS = "its query waits for an undecided pass"
UNSOLVED = "no pass of its query scores above the threshold"
LOW_SCORE = "its score is not above the threshold"
EASY = "its query is easy and was not kept by chance"
NOT_ASSESSED = "its quality is not assessed"
QUALITY = "quality: "
ENOUGH_OF_QUERY = "its query has enough responses"
OVER_QUOTA = "its category's quota is full"

_KEYS = ["query_id", "distiller"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What a recipe made of the responses it considered.

    Attributes:
        chosen: `tables.SUBSETS` rows in the order of their key.
        considered: responses the recipe looked at.
        rejected: responses by reason; with `chosen` they add up to `considered`.
        rejected_by_category: the same, one row per (category, reason) with `num_responses`.
    """

    chosen: pl.DataFrame
    considered: int
    rejected: dict[str, int]
    rejected_by_category: pl.DataFrame


def select(
    recipe: SelectionRecipe,
    *,
    difficulty: pl.LazyFrame,
    verdicts: pl.LazyFrame,
    response_quality: pl.LazyFrame,
    fingerprints: Sequence[str],
) -> Selection:
    """The subset of a recipe.

    Args:
        recipe: what to choose.
        difficulty: `tables.DIFFICULTY` rows, every shard.
        verdicts: `tables.VERDICTS` rows; those of former verifiers are ignored.
        response_quality: `tables.RESPONSE_QUALITY` rows; a response without one is not chosen.
        fingerprints: of today's verifiers, one per category at most.

    Raises:
        ValueError: a response is judged twice by today's verifiers, or has two quality rows.
    """
    facts = considered(
        recipe,
        difficulty=difficulty,
        verdicts=verdicts,
        response_quality=response_quality,
        fingerprints=fingerprints,
    ).collect()
    repeated = facts.height - facts.get_column("response_id").n_unique()
    if repeated:
        raise ValueError(f"{repeated} of {facts.height} considered responses occur twice; wanted one verdict of today")
    decided = decide(recipe, facts.lazy()).collect()
    rejected = (
        decided.filter(pl.col("reason").is_not_null())
        .group_by("category", "reason")
        .agg(pl.len().cast(pl.Int64).alias("num_responses"))
        .sort("category", "reason")
    )
    by_reason = rejected.group_by("reason").agg(pl.col("num_responses").sum()).sort("reason")
    return Selection(
        chosen=chosen(recipe, decided.lazy()).collect(),
        considered=decided.height,
        rejected=dict(by_reason.iter_rows()),
        rejected_by_category=rejected,
    )


def considered(
    recipe: SelectionRecipe,
    *,
    difficulty: pl.LazyFrame,
    verdicts: pl.LazyFrame,
    response_quality: pl.LazyFrame,
    fingerprints: Sequence[str],
) -> pl.LazyFrame:
    """Every response the recipe considers, with all facts its rules ask for and its draws (see `select`).

    One row per response: identity, `verify_score`, `cause`, the difficulty of its query under its own distiller,
    `query_waits`, `is_assessed`, `quality_reason`, `response_tokens`, `easy_draw` and `response_draw` (0 to 1).
    """
    mine = current_verdicts(verdicts, fingerprints).filter(pl.col("distiller").is_in(list(recipe.distillers)))
    transient = pl.col("cause").is_in([str(cause) for cause in TRANSIENT_CAUSES]).fill_null(value=False)
    grades = difficulty.select(*_KEYS, "shard", "pass_rate", "highest_score", "coefficient_of_variation")
    quality = response_quality.select(
        "response_id", "quality_reason", "response_tokens", pl.lit(value=True).alias("is_assessed")
    )
    return (
        mine.select(*_KEYS, "response_id", "category", "pass_index", "verify_score", "cause")
        .with_columns(query_waits=transient.any().over("query_id", "distiller"))
        .join(grades, on=_KEYS, how="left")
        .join(quality, on="response_id", how="left")
        .with_columns(
            pl.col("is_assessed").fill_null(value=False),
            draw("query_id", recipe.seed, "easy").alias("easy_draw"),
            draw("query_id", recipe.seed, "query order").alias("query_draw"),
            draw("response_id", recipe.seed, "response order").alias("response_draw"),
        )
    )


def decide(recipe: SelectionRecipe, facts: pl.LazyFrame) -> pl.LazyFrame:
    """The rows of `considered` with `reason` (null: chosen) and `is_challenging`."""
    ruled = facts.join(_rules(recipe.rules).lazy(), on="category", how="left").with_columns(
        is_challenging=pl.col("coefficient_of_variation") > pl.col("cv_threshold")
    )
    reasoned = ruled.with_columns(reason=_first_reason())
    if recipe.responses_per_query is not None:
        standing = pl.col("response_draw").rank("ordinal").over("query_id", "reason")
        reasoned = _reject(reasoned, standing > recipe.responses_per_query, ENOUGH_OF_QUERY)
    # Highest variation first; queries of equal variation in drawn order, so that the quota's edge is chance too.
    first = [pl.col("coefficient_of_variation").neg()] if recipe.order == "highest_variation" else []
    order = pl.struct(*first, "query_draw", "response_draw", "response_id")
    return _reject(reasoned, order.rank("ordinal").over("category", "reason") > pl.col("quota"), OVER_QUOTA)


def chosen(recipe: SelectionRecipe, decided: pl.LazyFrame) -> pl.LazyFrame:
    """`tables.SUBSETS` rows of what `decide` left without a reason, in the order of their key."""
    named = decided.filter(pl.col("reason").is_null()).with_columns(
        selection_recipe=pl.lit(recipe.name),
        chosen_because=pl.when("is_challenging").then(pl.lit(CHALLENGING)).otherwise(pl.lit(EASY_KEPT)),
    )
    return named.select(pl.col(name).cast(dtype) for name, dtype in tables.SUBSETS.schema.items()).sort("response_id")


def what_if(recipe: SelectionRecipe, facts: pl.LazyFrame, cv_thresholds: Sequence[float]) -> pl.DataFrame:
    """What the recipe would choose at other variation thresholds, everything else as it is; nothing is written.

    Args:
        recipe: the recipe as it stands.
        facts: `considered` rows; collected once, so that a threshold costs no join.
        cv_thresholds: tried one after the other, each in every category.

    Returns:
        One row per (cv_threshold, category) and one per threshold for `all`: num_responses, num_queries,
        response_tokens, share_of_responses and share_of_tokens (0 to 1 within the threshold, null with nothing
        chosen), num_also_chosen_now (responses the recipe as it stands chooses too).
    """
    rows = facts.collect()
    now = decide(recipe, rows.lazy()).filter(pl.col("reason").is_null()).select("response_id").collect()
    grid = [_mix(_at_threshold(recipe, threshold), rows, now, threshold) for threshold in cv_thresholds]
    return pl.concat(grid) if grid else pl.DataFrame(schema=_WHAT_IF)


def draw(column: str, seed: int, purpose: str) -> pl.Expr:
    """A number from 0 to below 1 for each id of `column`, equal on every machine and in every company of other rows.

    The id's trailing 64 bits, shifted by a hash of seed and purpose, go through the splitmix64 mixing steps; 53 bits
    of the result are kept. Draws for different purposes or seeds are independent, so a query kept as easy is not
    thereby first in a quota. Ids are `fingerprint.content_id`s; anything that is not hex raises when collected.
    """
    shift = np.uint64(int.from_bytes(hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest()))

    def mixed(ids: pl.Series) -> pl.Series:
        bits = ids.to_numpy() + shift
        for right, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(right))) * np.uint64(factor)
        return pl.Series(ids.name, ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) / 2.0**53)

    trailing = pl.col(column).str.slice(16, 16).str.to_integer(base=16, dtype=pl.UInt64)
    return trailing.map_batches(mixed, return_dtype=pl.Float64)


_WHAT_IF = pl.Schema(
    {
        "cv_threshold": pl.Float64,
        "category": pl.String,
        "num_responses": pl.Int64,
        "num_queries": pl.Int64,
        "response_tokens": pl.Int64,
        "share_of_responses": pl.Float64,
        "share_of_tokens": pl.Float64,
        "num_also_chosen_now": pl.Int64,
    }
)


def _rules(rules: Sequence[CategoryRule]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (str(rule.category), rule.lowest_score, rule.cv_threshold, rule.easy_keep_probability, rule.quota)
            for rule in rules
        ],
        schema={
            "category": pl.String,
            "lowest_score": pl.Float64,
            "cv_threshold": pl.Float64,
            "easy_keep_probability": pl.Float64,
            "quota": pl.Int64,
        },
        orient="row",
    )


def _first_reason() -> pl.Expr:
    """The first rule a response breaks on its own; limits per query and category come after it."""
    unsolved = (pl.col("highest_score") <= pl.col("lowest_score")).fill_null(value=True)
    easy = ~pl.col("is_challenging").fill_null(value=False)
    return (
        pl.when(pl.col("lowest_score").is_null())
        .then(pl.lit(NO_RULE))
        .when(pl.col("verify_score").is_null())
        .then(pl.lit(UNDECIDED))
        .when(pl.col("shard").is_null())
        .then(pl.lit(NOT_GRADED))
        .when("query_waits")
        .then(pl.lit(WAITS))
        .when(unsolved)
        .then(pl.lit(UNSOLVED))
        .when(pl.col("verify_score") <= pl.col("lowest_score"))
        .then(pl.lit(LOW_SCORE))
        .when(easy & (pl.col("easy_draw") >= pl.col("easy_keep_probability")))
        .then(pl.lit(EASY))
        .when(~pl.col("is_assessed"))
        .then(pl.lit(NOT_ASSESSED))
        .when(pl.col("quality_reason").is_not_null())
        .then(pl.lit(QUALITY) + pl.col("quality_reason"))
    )


def _reject(rows: pl.LazyFrame, rejected: pl.Expr, reason: str) -> pl.LazyFrame:
    """Give `reason` to rows that have none yet and for which `rejected` is true (null: not rejected)."""
    applies = pl.col("reason").is_null() & rejected.fill_null(value=False)
    return rows.with_columns(reason=pl.when(applies).then(pl.lit(reason)).otherwise(pl.col("reason")))


def _at_threshold(recipe: SelectionRecipe, threshold: float) -> SelectionRecipe:
    return replace(recipe, rules=tuple(replace(rule, cv_threshold=threshold) for rule in recipe.rules))


def _mix(recipe: SelectionRecipe, facts: pl.DataFrame, now: pl.DataFrame, threshold: float) -> pl.DataFrame:
    kept = (
        decide(recipe, facts.lazy())
        .filter(pl.col("reason").is_null())
        .with_columns(is_chosen_now=pl.col("response_id").is_in(now.get_column("response_id").implode()))
        .collect()
    )
    every = pl.concat([kept, kept.with_columns(category=pl.lit("all"))]).group_by("category")
    counted = every.agg(
        pl.len().cast(pl.Int64).alias("num_responses"),
        pl.col("query_id").n_unique().cast(pl.Int64).alias("num_queries"),
        pl.col("response_tokens").cast(pl.Int64).sum(),
        pl.col("is_chosen_now").sum().cast(pl.Int64).alias("num_also_chosen_now"),
    )
    # A category with nothing chosen is a row of zeros, because that is what one wants to see.
    names = pl.DataFrame({"category": [*(str(rule.category) for rule in recipe.rules), "all"]})
    full = names.join(counted, on="category", how="left", maintain_order="left").with_columns(
        pl.col("num_responses", "num_queries", "response_tokens", "num_also_chosen_now").fill_null(0),
        cv_threshold=pl.lit(float(threshold)),
    )
    shares = full.with_columns(
        share_of_responses=pl.when(kept.height > 0).then(pl.col("num_responses") / kept.height),
        share_of_tokens=pl.when(kept.get_column("response_tokens").sum() > 0).then(
            pl.col("response_tokens") / max(kept.get_column("response_tokens").sum(), 1)
        ),
    )
    return shares.select(pl.col(name).cast(dtype) for name, dtype in _WHAT_IF.items())
