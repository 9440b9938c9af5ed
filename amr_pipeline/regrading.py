"""Re-grading: what a changed verifier did to verdicts, tiers and subsets, from versions that were stored anyway.

A version of a partition names the verifiers that decided it, by category (`notes` of its commit). Where two versions
that follow each other name different ones, a re-grade lies between them, and its effect is the difference of the two.
A version made while only some of its inputs were re-graded names none and is passed over, so that half a re-grade is
never reported as an effect.

Responses that were added between the two versions change tiers too; the report compares what stands in both.

Belongs here: which versions to compare, and the differences. Does not belong here: reading versions (`assets`), words
and tables of the page (`report`), flips of single verdicts (`verdicts.ledger`).
Source: design, verdicts. Ours: the paper has nothing like it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

Verifiers = Mapping[str, str]
"""Verifier fingerprint by category."""

_Named = tuple[tuple[str, str], ...]

ENTERS, LEAVES = "enters", "leaves"


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One stored version of a partition.

    Attributes:
        verifiers: whose verdicts it rests on; None when it rests on those of several sets, or does not say.
        created_at: UTC, as commits write it.
    """

    table: str
    partition: str
    number: int
    created_at: str
    verifiers: Verifiers | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Regrade:
    """A change of verifiers, with the pairs of versions between which it lies.

    Attributes:
        before, after: the verifiers in force.
        pairs: (version before, version after), one per partition that it reached.
    """

    before: Verifiers
    after: Verifiers
    pairs: tuple[tuple[Version, Version], ...]

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories whose verifier changed, sorted."""
        names = {*self.before, *self.after}
        return tuple(sorted(name for name in names if self.before.get(name) != self.after.get(name)))

    @property
    def begun_at(self) -> str:
        """When the first partition was re-graded."""
        return min(after.created_at for _, after in self.pairs)

    def of(self, table: str) -> list[tuple[Version, Version]]:
        """The pairs of one table."""
        return [pair for pair in self.pairs if pair[0].table == table]


def regrades(versions: Iterable[Sequence[Version]]) -> list[Regrade]:
    """Every re-grade that the stored versions show, the latest first.

    The same change made again later (there, back, and there again) is a re-grade of its own.

    Args:
        versions: for each partition its versions, oldest first.
    """
    found: dict[tuple[_Named, _Named, int], list[tuple[Version, Version]]] = {}
    for history in versions:
        known = [version for version in history if version.verifiers is not None]
        times: Counter[tuple[_Named, _Named]] = Counter()
        for before, after in pairwise(known):
            if before.verifiers != after.verifiers:
                change = (_named(before), _named(after))
                found.setdefault((*change, times[change]), []).append((before, after))
                times[change] += 1
    made = [Regrade(before=dict(old), after=dict(new), pairs=tuple(pairs)) for (old, new, _), pairs in found.items()]
    return sorted(made, key=lambda one: (one.begun_at, one.categories), reverse=True)


def _named(version: Version) -> _Named:
    return tuple(sorted((version.verifiers or {}).items()))


def flip_counts(flips: pl.DataFrame) -> pl.DataFrame:
    """Flips (`ledger.flips`) by category, verifier and direction: num_responses, num_queries; largest first."""
    counted = flips.group_by("category", "verifier", "verdict_before", "verdict_after").agg(
        pl.len().cast(pl.Int64).alias("num_responses"),
        pl.col("query_id").n_unique().cast(pl.Int64).alias("num_queries"),
    )
    return counted.sort(
        "num_responses", "category", "verifier", "verdict_before", descending=[True, False, False, False]
    )


def tier_changes(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Queries whose tier differs between two sets of `tables.DIFFICULTY` rows, one row per (query_id, distiller).

    category, tier_before, tier_after, pass_rate_before, pass_rate_after (0 to 1, null: nothing was decided). Rows
    that stand in one of the two only are left out: a new query or distiller is no effect of a verifier.
    """
    key = ["query_id", "distiller"]
    old = before.select(*key, pl.col("tier").alias("tier_before"), pl.col("pass_rate").alias("pass_rate_before"))
    new = after.select(
        *key, "category", pl.col("tier").alias("tier_after"), pl.col("pass_rate").alias("pass_rate_after")
    )
    changed = new.join(old, on=key, how="inner").filter(pl.col("tier_before") != pl.col("tier_after"))
    columns = ["category", "tier_before", "tier_after", "pass_rate_before", "pass_rate_after"]
    return changed.select(*key, *columns).sort(key)


def subset_changes(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Responses that enter or leave a subset between two sets of `tables.SUBSETS` rows.

    One row per (selection_recipe, response_id): query_id, category, distiller, verify_score where it stands, and
    `change`, which is `enters` or `leaves`.
    """
    key = ["selection_recipe", "response_id"]
    columns = [*key, "query_id", "category", "distiller", "verify_score"]
    entered = after.join(before, on=key, how="anti").select(columns).with_columns(change=pl.lit(ENTERS))
    left = before.join(after, on=key, how="anti").select(columns).with_columns(change=pl.lit(LEAVES))
    return pl.concat([entered, left]).sort("selection_recipe", "change", "response_id")
