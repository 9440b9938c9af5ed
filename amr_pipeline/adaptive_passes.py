"""Adaptive passes: how many passes each query is due, from the verdicts on those it has.

A query gets the first passes of its policy. It is due further ones while its tier is open: while the Wilson interval of
its pass rate reaches over a cut between tiers. The cuts that count are those at 3/8 and 5/8. That a query passes always
(trivial) or never (unsolved) no number of passes can prove, so an interval that leaves only trivial and easy, or only
hard and unsolved, settles the tier as well.

What is due is a function of stored verdicts and today's queries, never of what is being generated, so that two runs ask
for the same, and a killed one is gone on with. It changes only when verdicts do: generating and judging take turns, a
round each, until nothing more is due. Every partition has its own budget, `num_passes` for each of its queries, so that
none waits for another; shards are draws of the queries by a hash, and need much the same.

Reads verdicts, writes no table. Belongs here: arithmetic on frames. Does not belong here: rounds (`assets`), which ids
are owed (`responses.expected`).
"""

from collections.abc import Collection, Iterable, Sequence
from statistics import NormalDist

import polars as pl

from amr_pipeline.difficulty import EASY_ABOVE, HARD_BELOW, pass_rate, tier, wilson_high, wilson_low
from amr_pipeline.studies.study import AdaptivePasses, Distiller
from amr_pipeline.verdicts.ledger import settled

_COUNTS = ("num_asked", "num_judged", "num_responses", "num_passed")

STATES = {
    "spared": "not asked: cheaper distillers settle its tier",
    "waiting": "a verdict on its passes, or cheaper distillers, are still to come",
    "settled": "its interval leaves one side of the cuts",
    "without a decision": "every pass is judged and none is decided; more passes would not be either",
    "exhausted": "it has the most passes that the policy allows",
    "open": "none of these: it is due further passes, as far as the budget goes",
}
"""What a query can be, and what that means."""


def pass_counts(queries: pl.DataFrame, verdicts: pl.DataFrame, fingerprints: Collection[str]) -> pl.DataFrame:
    """What is known of every query's passes, in the order of `queries`.

    One row per query: query_id, num_asked (passes that were judged once, or lie before one that was), num_judged (with
    a verdict by today's verifier that another attempt would not change), num_responses (decided ones), num_passed.

    Args:
        queries: query_id of the queries that the distiller answers.
        verdicts: rows on one distiller's responses that count, of verifiers of any age.
        fingerprints: of the verifiers in force.
    """
    asked = verdicts.group_by("query_id").agg((pl.col("pass_index").max() + 1).alias("num_asked"))
    today = settled(verdicts.filter(pl.col("verifier_fingerprint").is_in(list(fingerprints))))
    judged = today.group_by("query_id").agg(
        pl.len().alias("num_judged"),
        (pl.col("verdict") != "undecided").sum().alias("num_responses"),
        (pl.col("verdict") == "passed").sum().alias("num_passed"),
    )
    counted = queries.select("query_id").join(asked, on="query_id", how="left", maintain_order="left")
    return counted.join(judged, on="query_id", how="left", maintain_order="left").with_columns(
        pl.col(name).fill_null(0).cast(pl.Int64) for name in _COUNTS
    )


def is_settled(confidence: float) -> pl.Expr:
    """Whether the interval of num_passed / num_responses lies on one side of the cuts at 3/8 and 5/8, or between."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    low, high = wilson_low(z=z), wilson_high(z=z)
    inside = (low >= HARD_BELOW) & (high <= EASY_ABOVE)
    return ((low > EASY_ABOVE) | (high < HARD_BELOW) | inside).fill_null(False)


def due_passes(
    counts: pl.DataFrame, policy: AdaptivePasses, num_passes: int, cheaper: pl.DataFrame | None = None
) -> pl.DataFrame:
    """`counts` with `state` (`STATES`) and `num_due`: the passes of every query that should exist.

    Up to `num_passes` every open query goes on by itself. Beyond, it lives on what others save: queries with the widest
    intervals first, equal ones by their id. However many passes are due, they never exceed `num_passes` per query
    together, unless more were asked already.

    Args:
        counts: `pass_counts` of one partition.
        policy: the distiller's.
        num_passes: the distiller's.
        cheaper: `of_cheaper_distillers`, where the policy names some.
    """
    rows = _with_states(counts, policy, cheaper).with_columns(
        is_extra=pl.col("num_held") >= num_passes,
        kept=pl.when(pl.col("state").is_in(["waiting", "open"]))
        .then(pl.max_horizontal("num_held", pl.lit(num_passes)))
        .otherwise(pl.col("num_held")),
    )
    budget = num_passes * rows.height
    left, saved = budget - int(rows.get_column("num_held").sum()), budget - int(rows.get_column("kept").sum())
    limit = pl.when(pl.col("is_extra")).then(policy.most).otherwise(num_passes)
    granted = (
        rows.filter(pl.col("state") == "open")
        .with_columns(cost=pl.min_horizontal(pl.col("num_held") + policy.step, limit) - pl.col("num_held"))
        .sort("width", "query_id", descending=[True, False])
        .with_columns(running=pl.col("cost").cum_sum().over("is_extra"))
        .filter(pl.col("running") <= pl.when(pl.col("is_extra")).then(min(saved, left)).otherwise(left))
        .select("query_id", "cost")
    )
    due = rows.join(granted, on="query_id", how="left", maintain_order="left")
    num_due = pl.col("num_held") + pl.col("cost").fill_null(0)
    return due.with_columns(num_due=num_due).select(*counts.columns, "state", "num_due")


def _with_states(counts: pl.DataFrame, policy: AdaptivePasses, cheaper: pl.DataFrame | None) -> pl.DataFrame:
    """`counts` with num_held (passes due already), state, and the width of the interval."""
    others = counts.select("query_id", cheaper=pl.lit("open")) if cheaper is None else cheaper
    others = counts.join(others, on="query_id", how="left", maintain_order="left").with_columns(
        pl.col("cheaper").fill_null("open")
    )
    held = pl.when(pl.col("cheaper") == "open").then(pl.max_horizontal("num_asked", pl.lit(policy.first)))
    z = NormalDist().inv_cdf((1 + policy.confidence) / 2)
    state = (
        pl.when(pl.col("cheaper") == "settled")
        .then(pl.lit("spared"))
        .when((pl.col("cheaper") == "waiting") | (pl.col("num_judged") < pl.col("num_held")))
        .then(pl.lit("waiting"))
        .when(pl.col("num_responses") == 0)
        .then(pl.lit("without a decision"))
        .when(is_settled(policy.confidence))
        .then(pl.lit("settled"))
        .when(pl.col("num_held") >= policy.most)
        .then(pl.lit("exhausted"))
        .otherwise(pl.lit("open"))
    )
    # Rounded, so that equal intervals are equal whichever instructions a machine computes them with.
    width = (wilson_high(z=z) - wilson_low(z=z)).round(9)
    return others.with_columns(num_held=held.otherwise(pl.col("num_asked"))).with_columns(state=state, width=width)


def of_cheaper_distillers(counts: Sequence[pl.DataFrame], confidence: float) -> pl.DataFrame:
    """What cheaper distillers together say of each query: query_id and `cheaper`, settled, waiting or open.

    Args:
        counts: per distiller, `pass_counts` with `is_finished`, whether the query gets no further passes from it.
        confidence: of the interval over all their passes.
    """
    pooled = (
        pl.concat(frame.select("query_id", "num_responses", "num_passed", "is_finished") for frame in counts)
        .group_by("query_id")
        .agg(pl.col("num_responses", "num_passed").sum(), pl.col("is_finished").all())
    )
    said = (
        pl.when(~pl.col("is_finished"))
        .then(pl.lit("waiting"))
        .when(is_settled(confidence))
        .then(pl.lit("settled"))
        .otherwise(pl.lit("open"))
    )
    return pooled.select("query_id", cheaper=said)


def replay(passed: pl.DataFrame, policy: AdaptivePasses, num_passes: int) -> pl.DataFrame:
    """What the policy would have asked of queries whose passes are all known: `due_passes` after the last round.

    Args:
        passed: query_id, pass_index and passed, with at least `policy.most` passes of every query.
        policy: the policy.
        num_passes: passes per query that it may spend on average.
    """
    queries = passed.select("query_id").unique().sort("query_id")
    due = queries.with_columns(num_due=pl.lit(0, dtype=pl.Int64))
    while True:
        known = passed.join(due, on="query_id").filter(pl.col("pass_index") < pl.col("num_due"))
        sums = known.group_by("query_id").agg(pl.len().alias("num_asked"), pl.col("passed").sum().alias("num_passed"))
        counts = due.select("query_id").join(sums, on="query_id", how="left", maintain_order="left")
        counts = counts.with_columns(num_judged=pl.col("num_asked"), num_responses=pl.col("num_asked"))
        now = due_passes(
            counts.select("query_id", *(pl.col(name).fill_null(0).cast(pl.Int64) for name in _COUNTS)),
            policy,
            num_passes,
        )
        if now.get_column("num_due").equals(due.get_column("num_due")):
            return now
        due = now.select("query_id", "num_due")


def passes_spent(
    queries: pl.DataFrame, verdicts: pl.DataFrame, fingerprints: Collection[str], distiller: Distiller
) -> dict[str, int | float | None]:
    """What one adaptive distiller's passes came to, beside `num_passes` for every query.

    Its numbers: queries; `fixed`, passes that fixed ones would be; `spent`; `saved`; `not asked`, `settled early` (with
    fewer than `num_passes`) and `given more`, queries; of the last, how many `moved` to another tier by what they were
    given, and the mean 95 % interval's width `before` and `after`, None where none was given more. What fewer passes
    did to the tiers of queries that settled early, no stored verdict can say.

    Args:
        queries: query_id of the queries that the distiller answers.
        verdicts: as in `pass_counts`.
        fingerprints: as in `pass_counts`.
        distiller: a distiller with a policy.
    """
    policy, num_passes = distiller.passes_policy, distiller.num_passes
    assert policy is not None, "asked of adaptive distillers only"
    after = _graded(pass_counts(queries, verdicts, fingerprints))
    before = _graded(pass_counts(queries, verdicts.filter(pl.col("pass_index") < num_passes), fingerprints))
    more = after.join(before, on="query_id", suffix="_before").filter(pl.col("num_asked") > num_passes)
    early = after.filter(is_settled(policy.confidence) & (pl.col("num_asked") < num_passes))
    fixed, spent = num_passes * queries.height, int(after.get_column("num_asked").sum())
    return {
        "queries": queries.height,
        "fixed": fixed,
        "spent": spent,
        "saved": fixed - spent,
        "not asked": after.filter(pl.col("num_asked") == 0).height,
        "settled early": early.height,
        "given more": more.height,
        "moved": more.filter(pl.col("tier") != pl.col("tier_before")).height,
        "before": _mean(more, "width_before"),
        "after": _mean(more, "width"),
    }


def all_spent(parts: Iterable[dict[str, int | float | None]]) -> dict[str, int | float | None]:
    """`passes_spent` of some shards as one: sums, and means over the queries that were given more."""
    rows = pl.DataFrame(list(parts), schema=_SPENT)
    means = {name: (pl.col(name) * pl.col("given more")).sum() / pl.col("given more").sum() for name in _MEANS}
    found = rows.select(pl.exclude(_MEANS).sum(), **means).row(0, named=True)
    return found if found["given more"] else found | dict.fromkeys(_MEANS)


_MEANS = ("before", "after")
_SUMS = ("queries", "fixed", "spent", "saved", "not asked", "settled early", "given more", "moved")
_SPENT = {**dict.fromkeys(_SUMS, pl.Int64), **dict.fromkeys(_MEANS, pl.Float64)}


def _graded(counts: pl.DataFrame) -> pl.DataFrame:
    rated = counts.with_columns(pass_rate().alias("pass_rate"), width=wilson_high() - wilson_low())
    return rated.with_columns(tier().alias("tier"))


def _mean(rows: pl.DataFrame, column: str) -> float | None:
    # Nothing decided says nothing: the interval is then the whole range.
    values = rows.get_column(column).fill_null(1.0).to_list()
    return sum(values) / len(values) if values else None
