"""The flip report: what each change of a verifier did, for a person who has to decide whether it was for the better.

Belongs here: the order and the words of the page. Does not belong here: which versions to compare, and the differences
(`regrading`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from amr_pipeline.difficulty import JOINT
from amr_pipeline.regrading import Regrade, flip_counts
from amr_pipeline.report.layouts import Rows
from amr_pipeline.report.pages import Section, page

ROWS_SHOWN = 50
"""Rows listed per table; the numbers above it count all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegradeEffect:
    """One re-grade with its differences, over all partitions that it reached.

    Attributes:
        flips: `ledger.flips`; tiers: `regrading.tier_changes`; rows: `regrading.subset_changes`.
        num_compared: responses that both sides decided.
        now_decided, now_undecided: responses that only one side decided; they are no flips.
    """

    regrade: Regrade
    flips: pl.DataFrame
    tiers: pl.DataFrame
    rows: pl.DataFrame
    num_compared: int
    now_decided: int
    now_undecided: int


def flip_page(title: str, effects: Sequence[RegradeEffect], num_regrades: int) -> str:
    """The page: a line of numbers, then the re-grades, the latest first.

    Args:
        title: the page's heading.
        effects: the re-grades to show, the latest first.
        num_regrades: how many the stored versions know.
    """
    if not effects:
        said = "No verifier has changed since the first verdicts were stored."
        return page(title, {"re-grades": "0"}, [Section(heading="Nothing to compare yet", text=said)])
    latest = effects[0]
    numbers = {
        "re-grades": f"{num_regrades:,}",
        "verdicts flipped by the latest": f"{latest.flips.height:,} of {latest.num_compared:,}",
        "queries in another tier": f"{joint_tiers(latest).height:,}",
        "rows entering or leaving a subset": f"{latest.rows.height:,}",
    }
    return page(title, numbers, [section for effect in effects for section in _sections(effect)])


def joint_tiers(effect: RegradeEffect) -> pl.DataFrame:
    """Tier changes over all distillers of a query."""
    return effect.tiers.filter(pl.col("distiller") == JOINT)


def verifier_rows(regrade: Regrade) -> Rows:
    """Fingerprints before and after, of the categories whose verifier changed."""
    rows = [[name, regrade.before.get(name), regrade.after.get(name)] for name in regrade.categories]
    return ["category", "verifier before", "verifier after"], rows


def direction_rows(effect: RegradeEffect) -> Rows:
    """Flips by verifier and direction, and verdicts that only one side decided."""
    rows = [
        [row["category"], row["verifier"], f"{row['verdict_before']} to {row['verdict_after']}", row["num_responses"],
         row["num_queries"]]
        for row in flip_counts(effect.flips).iter_rows(named=True)
    ]  # fmt: skip
    rows.append(["all", "-", "undecided to decided (no flip)", effect.now_decided, None])
    rows.append(["all", "-", "decided to undecided (no flip)", effect.now_undecided, None])
    return ["category", "verifier and stage", "direction", "responses", "queries"], rows


def tier_rows(tiers: pl.DataFrame) -> Rows:
    """Queries by tier before and after, over all distillers."""
    counted = (
        tiers.group_by("category", "tier_before", "tier_after").len().sort("category", "tier_before", "tier_after")
    )
    return ["category", "joint tier before", "joint tier after", "queries"], counted.rows()


def entering_rows(rows: pl.DataFrame) -> Rows:
    """Rows that enter or leave, by subset and category."""
    counted = rows.group_by("selection_recipe", "category", "change").len()
    return ["subset", "category", "", "responses"], counted.sort("selection_recipe", "category", "change").rows()


def _sections(effect: RegradeEffect) -> list[Section]:
    regrade = effect.regrade
    reached = {table: len(regrade.of(table)) for table in ("verdicts", "difficulty", "subsets")}
    tiers = joint_tiers(effect)
    sections = [
        Section(
            heading=f"Re-grade of {', '.join(regrade.categories)}, begun {regrade.begun_at}",
            text=f"{reached['verdicts']:,} partitions of verdicts, {reached['difficulty']:,} shards of difficulty and "
            f"{reached['subsets']:,} subsets have a version before and one after it. {effect.num_compared:,} "
            "responses were decided by both verifiers.",
            rows=verifier_rows(regrade),
        ),
        Section(heading="Verdicts that flipped", rows=direction_rows(effect)),
        Section(heading="Queries that changed tier", rows=tier_rows(tiers)),
        Section(heading="Rows that enter or leave a subset", rows=entering_rows(effect.rows)),
    ]
    listed = (
        ("Flipped verdicts", effect.flips.drop("score_before", "score_after")),
        ("Queries in another tier", effect.tiers),
        ("Rows entering or leaving", effect.rows),
    )
    for heading, frame in listed:
        if frame.height:
            shown = frame.head(ROWS_SHOWN)
            count = f", the first {ROWS_SHOWN} of {frame.height:,}" if frame.height > ROWS_SHOWN else ""
            sections.append(Section(heading=heading + count, rows=(shown.columns, shown.rows())))
    return sections
