"""Tables that people read after a run: every number arrives, aligned, and a missing one is not a zero."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.categories import Category
from amr_pipeline.difficulty import difficulty
from amr_pipeline.report.summary import counts_plot, flip_lines, markdown_table, pass_rates, text_table, tiers
from amr_pipeline.verdicts.ledger import FLIPS
from amr_pipeline_tests.verdict_rows import NOW, query, verdicts


def grades(**by_category: list) -> pl.DataFrame:
    rows = pl.concat([verdicts(scores, Category(name)) for name, scores in by_category.items()])
    return difficulty(rows.lazy(), fingerprints=[NOW], num_shards=4).collect()


MIXED = grades(
    math=[(query(0), "weak", [0, 0]), (query(1), "weak", [1, None]), (query(0), "strong", [1, 1])],
    code=[(query(2), "strong", [1.0, 0.5])],
)


def test_text_tables_align_numbers_right_and_words_left():
    assert text_table(["name", "rows"], [["a", 5], ["long name", 1234], ["b", None]]).split("\n") == [
        "name        rows",
        "---------  -----",
        "a              5",
        "long name  1,234",
        "b              -",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (1234567, "1,234,567"), (0.5, "0.500"), (0.00012, "0.00012"), (True, "True"), ("x", "x")],
)
def test_cells_show_what_they_hold(value: object, text: str):
    assert markdown_table(["a"], [[value]]).split("\n")[-1] == f"| {text} |"


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["C", "Z"])), min_size=2, max_size=2), max_size=5))
def test_no_value_breaks_out_of_its_cell(rows: list[list[str]]):
    lines = markdown_table(["a", "b"], rows).split("\n")
    assert len(lines) == 2 + len(rows)
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)


def test_pass_rates_are_over_decided_responses_and_leave_the_joint_row_out():
    header, rows = pass_rates(MIXED, ["weak", "strong", "absent"])
    assert header == ["distiller", "code", "math", "decided", "undecided"]
    assert rows == [["weak", None, 1 / 3, 3, 1], ["strong", 0.5, 1.0, 4, 0], ["absent", None, None, 0, 0]]


def test_every_query_is_in_one_tier():
    header, rows = tiers(MIXED)
    assert header == ["joint tier", "code", "math", "all"]
    assert [row[0] for row in rows] == ["trivial", "easy", "medium", "hard", "unsolved", "undecided"]
    assert all(row[1] + row[2] == row[3] for row in rows)
    assert sum(row[3] for row in rows) == MIXED.filter(pl.col("distiller") == "joint").height == 3


def test_nothing_graded_is_still_a_table():
    empty = tables.DIFFICULTY.empty()
    assert pass_rates(empty, ["weak"]) == (["distiller", "decided", "undecided"], [["weak", 0, 0]])
    assert sum(row[-1] for row in tiers(empty)[1]) == 0


def test_counts_are_drawn_largest_first_and_none_is_no_text():
    lines = counts_plot({"rare": 1, "many": 240, "never": 0, "half": 120}).split("\n")[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| many", "| half", "| rare"]
    assert [line.count("█") for line in lines] == [24, 12, 1]
    assert counts_plot({}) == counts_plot({"never": 0}) == ""


def test_flips_are_counted_by_direction_and_a_few_are_shown():
    rows = [
        {"response_id": f"r{index}", "query_id": "q", "category": "math", "distiller": "d", "score_before": 0.0,
         "verdict_before": "failed" if index else "passed", "verdict_after": "passed" if index else "failed",
         "score_after": 1.0, "evidence_after": "3 =\x1b[2J 3"}
        for index in range(8)
    ]  # fmt: skip
    said = "\n".join(flip_lines(pl.DataFrame(rows, schema=FLIPS)))
    assert said.startswith("8 decided verdicts flipped")
    assert "failed -> passed         7" in said
    assert "passed -> failed         1" in said
    assert "r0 d: now failed, 3 = [2J 3" in said
    assert "r5" not in said
    assert said.endswith("and 3 more")
    assert flip_lines(pl.DataFrame(schema=FLIPS)) == ["No decided verdict flipped."]
