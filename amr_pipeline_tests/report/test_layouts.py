"""Results laid out: the right numbers in the right row, intervals and verdicts in words."""

import pytest

from amr_pipeline.evaluation import Interval, PairedComparison, benchmark_summary
from amr_pipeline.report import layouts
from amr_pipeline.report.summary import markdown_table, text_table
from amr_pipeline.subsets import considered, what_if
from amr_pipeline_tests.released import RECIPE, world
from amr_pipeline_tests.test_evaluation import scores
from amr_pipeline_tests.verdict_rows import NOW


def records(rows):
    header, body = rows
    assert all(len(row) == len(header) for row in body)
    assert text_table(header, body)
    assert markdown_table(header, body)
    return [dict(zip(header, row, strict=True)) for row in body]


@pytest.mark.parametrize(
    ("numbers", "signed", "text"),
    [
        ((0.5, 0.25, 0.75), False, "0.500 (0.250 to 0.750)"),
        ((-0.1, -0.2, 0.05), True, "-0.100 (-0.200 to +0.050)"),
        ((None, None, None), False, "-"),
    ],
)
def test_a_number_is_shown_with_its_interval(numbers, signed, text):
    assert layouts.with_interval(*numbers, signed=signed) == text


def test_pass_rates_by_category_with_the_joint_row_last():
    rows = records(layouts.pass_rate_rows(world().difficulty))
    math = [row for row in rows if row["category"] == "math"]
    assert [row["distiller"] for row in math] == ["1.5b", "r1", "all together"]
    assert math[0]["pass rate (95 % interval)"].startswith("0.250 (")
    assert (math[0]["queries"], math[0]["decided"], math[0]["undecided"]) == (2, 4, 1)
    assert math[1]["pass rate (95 % interval)"].startswith("0.667 (")


def test_scores_of_runs():
    summary = benchmark_summary(scores({"b": [[True, False], [None, None]], "a": [[None]]}).lazy())
    rows = records(layouts.score_rows(summary))
    assert [(row["run"], row["pass@1 (95 % interval)"][:5], row["undecided"]) for row in rows] == [
        ("a", "-", 1),
        ("b", "0.500", 2),
    ]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("better", "new is better than old"),
        ("worse", "new is worse than old"),
        ("not distinguishable", "new is not distinguishable from old"),
    ],
)
def test_comparisons_are_said_in_words(outcome, words):
    comparison = PairedComparison(
        run="new",
        baseline="old",
        benchmark="exam",
        num_problems=30,
        difference=Interval(mean=0.1, low=-0.05, high=0.25),
        p_value=0.01,
        corrected_p_value=0.02,
        outcome=outcome,
    )
    (row,) = records(layouts.comparison_rows([comparison]))
    assert (row["verdict"], row["p, corrected"]) == (words, "0.02")
    assert row["difference in pass@1 (95 % interval)"] == "+0.100 (-0.050 to +0.250)"


def test_the_mix_of_a_subset_adds_up():
    rows = records(layouts.mix_rows(world().selection.chosen))
    assert [row["category"] for row in rows] == ["instruction_following", "math", "all"]
    assert [row["responses"] for row in rows] == [1, 4, 5]
    assert [row["queries"] for row in rows] == [1, 2, 3]
    assert [row["share"] for row in rows] == ["20.0%", "80.0%", "100.0%"]
    assert rows[-1]["tokens"] == 500


def test_rules_of_a_recipe():
    rows = records(layouts.rule_rows(RECIPE))
    assert rows[0] == {
        "category": "math",
        "score": "> 0.99",
        "coefficient of variation": "> 0.05",
        "easy queries kept": "0%",
        "at most": "all",
    }


def test_a_what_if_grid():
    here = world()
    facts = considered(
        RECIPE,
        difficulty=here.difficulty.lazy(),
        verdicts=here.verdicts.lazy(),
        response_quality=here.response_quality.lazy(),
        fingerprints=[NOW],
    )
    rows = records(layouts.what_if_rows(what_if(RECIPE, facts, [0.05, 99.0])))
    assert [row["responses"] for row in rows if row["category"] == "all"] == [5, 0]
    assert [row["share"] for row in rows if row["category"] == "all"] == ["100.0%", "-"]


def test_counts_are_ordered_and_shared():
    rows = records(layouts.count_rows({"b": 1, "a": 1, "c": 2}, "queries"))
    assert [(row[""], row["queries"], row["share"]) for row in rows] == [
        ("c", 2, "50.0%"),
        ("a", 1, "25.0%"),
        ("b", 1, "25.0%"),
    ]
    assert records(layouts.count_rows({}, "queries")) == []


def test_what_adaptive_passes_came_to():
    spent = {"queries": 4, "fixed": 16, "spent": 12, "saved": 4, "not asked": 0, "settled early": 2, "given more": 1}
    (row,) = records(layouts.spent_rows({"weak": {**spent, "moved": 1, "before": 0.5, "after": None}}))
    assert (row["distiller"], row["passes if fixed"], row["passes spent"], row["saved"]) == ("weak", 16, 12, 4)
    assert (row["of these moved to another tier"], row["and after"]) == (1, None)
