import polars as pl

from amr_pipeline import tables
from amr_pipeline.regrading import Regrade, Version, subset_changes, tier_changes
from amr_pipeline.report.flip_page import ROWS_SHOWN, RegradeEffect, direction_rows, flip_page, verifier_rows
from amr_pipeline.verdicts.ledger import flips
from amr_pipeline_tests.verdict_rows import query, verdicts


def effect(num_queries: int) -> RegradeEffect:
    """Every query flips its first pass from passed to failed."""
    before = verdicts([(query(index), "weak", [1.0, 0.0]) for index in range(num_queries)], fingerprint="old")
    after = verdicts([(query(index), "weak", [0.0, 0.0]) for index in range(num_queries)], fingerprint="new")
    after = after.with_columns(evidence=pl.lit("<script>alert(1)</script>"))
    pair = [
        Version(
            table="verdicts", partition="weak|00", number=number, created_at=f"2025-0{number}", verifiers={"math": name}
        )
        for number, name in ((1, "old"), (2, "new"))
    ]
    return RegradeEffect(
        regrade=Regrade(before={"math": "old"}, after={"math": "new"}, pairs=((pair[0], pair[1]),)),
        flips=flips(before, after),
        tiers=tier_changes(tables.DIFFICULTY.empty(), tables.DIFFICULTY.empty()),
        rows=subset_changes(tables.SUBSETS.empty(), tables.SUBSETS.empty()),
        num_compared=2 * num_queries,
        now_decided=1,
        now_undecided=4,
    )


def test_the_page_names_what_changed_and_escapes_evidence():
    shown = flip_page("Flips", [effect(3)], 7)
    assert "3 of 6" in shown
    assert "passed to failed" in shown
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert verifier_rows(effect(1).regrade)[1] == [["math", "old", "new"]]


def test_undecided_is_told_apart_from_flips():
    rows = direction_rows(effect(3))[1]
    assert [row[3] for row in rows] == [3, 1, 4]


def test_long_lists_are_cut_and_say_so():
    shown = flip_page("Flips", [effect(ROWS_SHOWN + 9)], 1)
    assert f"the first {ROWS_SHOWN} of {ROWS_SHOWN + 9}" in shown
    assert shown.count("&lt;script&gt;") == ROWS_SHOWN


def test_without_a_re_grade_the_page_says_so():
    assert "No verifier has changed" in flip_page("Flips", [], 0)
