"""pass@1 with an interval over problems, and paired comparison of two runs."""

import random
from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.evaluation import (
    Interval,
    PairedComparison,
    benchmark_summary,
    compare,
    compare_all,
    holm,
    mean_with_interval,
    problem_scores,
)
from amr_pipeline_tests.verdict_rows import query

Passes = list[bool | None]


def scores(runs: dict[str, list[Passes]], benchmark: str = "exam", tokens: int = 10) -> pl.DataFrame:
    """`tables.BENCHMARK_SCORES` rows: for every run, the passes of problem 0, 1, ... (None: undecided)."""
    rows = [
        {
            "training_recipe": run,
            "benchmark": benchmark,
            "query_id": query(problem),
            "category": "math",
            "pass_index": index,
            "text": "",
            "finish_reason": "stop" if passed else "length",
            "response_tokens": tokens,
            "verdict": "undecided" if passed is None else "passed" if passed else "failed",
            "verify_score": None if passed is None else float(passed),
            "cause": "timeout" if passed is None else None,
        }
        for run, problems in runs.items()
        for problem, passes in enumerate(problems)
        for index, passed in enumerate(passes)
    ]
    return tables.BENCHMARK_SCORES.conform(pl.DataFrame(rows, schema=tables.BENCHMARK_SCORES.schema, strict=False))


def summary(runs: dict[str, list[Passes]]) -> list[dict[str, object]]:
    return benchmark_summary(scores(runs).lazy()).to_dicts()


def test_pass_at_1_is_the_mean_over_problems_of_the_mean_over_passes():
    row = summary({"a": [[True, True, False, False], [True]]})[0]
    assert row["pass_at_1"] == pytest.approx(0.75)
    assert (row["num_problems"], row["num_samples"]) == (2, 5)


def test_undecided_passes_enter_no_mean_and_are_counted():
    row = summary({"a": [[True, None, None, None], [False, True], [None]]})[0]
    assert row["pass_at_1"] == pytest.approx(0.75)
    assert (row["num_undecided"], row["num_unscored"], row["num_problems"]) == (4, 1, 3)


def test_nothing_decided_has_no_score():
    row = summary({"a": [[None], [None]]})[0]
    assert (row["pass_at_1"], row["pass_at_1_low"], row["num_unscored"]) == (None, None, 2)


def test_stop_ratio_and_mean_length():
    row = summary({"a": [[True, True, False, False]]})[0]
    assert (row["stop_ratio"], row["mean_response_tokens"]) == (0.5, 10.0)


def test_the_papers_32b_score_is_a_count_of_480():
    # 75.8 % on 30 problems with 16 passes each is 364 of 480.
    passes = [[True] * 16] * 22 + [[True] * 12 + [False] * 4] + [[False] * 16] * 7
    assert round(100 * summary({"stage1": passes})[0]["pass_at_1"], 1) == 75.8


def test_an_interval_knows_problems_and_not_passes():
    few = mean_with_interval([0.0, 1.0] * 15)
    many = mean_with_interval([0.0, 1.0] * 150)
    assert few is not None
    assert many is not None
    assert (few.high - few.low) == pytest.approx(2 * 1.96 * 0.5 / 30**0.5, rel=0.1)
    assert (many.high - many.low) == pytest.approx(2 * 1.96 * 0.5 / 300**0.5, rel=0.1)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30), st.randoms())
@settings(max_examples=25, deadline=None)
def test_an_interval_holds_its_mean_and_does_not_depend_on_order(rates, rng):
    interval = mean_with_interval(rates)
    assert interval is not None
    assert 0 <= interval.low <= interval.mean + 1e-12
    assert interval.mean - 1e-12 <= interval.high <= 1
    assert mean_with_interval(rng.sample(rates, len(rates))) == interval


@pytest.mark.parametrize(("rate", "low", "high"), [(1.0, 0.4385, 1.0), (0.0, 0.0, 0.5615), (0.5, 0.1247, 0.8753)])
def test_agreement_of_few_problems_is_not_certainty(rate, low, high):
    interval = mean_with_interval([rate] * 3)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=2e-3)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(120):
        interval = mean_with_interval(rng.beta(2, 3, size=30).tolist())
        assert interval is not None
        covered += interval.low <= 0.4 <= interval.high
    assert covered >= 105  # 120 x 0.95 = 114; fewer than 105 has probability below 0.001


def test_scores_per_problem():
    rows = problem_scores(scores({"a": [[True, False, None]]}).lazy()).collect().to_dicts()
    assert rows[0] == {
        "training_recipe": "a",
        "benchmark": "exam",
        "query_id": query(0),
        "num_samples": 3,
        "num_decided": 2,
        "num_undecided": 1,
        "num_stopped": 1,
        "response_tokens": 30,
        "pass_rate": 0.5,
    }


def paired(first: list[Passes], second: list[Passes]) -> PairedComparison:
    return compare(scores({"new": first, "old": second}).lazy(), "new", "old", "exam")


def test_a_clear_gain_is_better_and_seen_from_the_other_side_worse():
    strong: list[Passes] = [[True]] * 8 + [[False]] * 2
    weak: list[Passes] = [[False]] * 10
    assert paired(strong, weak).outcome == "better"
    assert paired(weak, strong).outcome == "worse"
    assert paired(strong, weak).difference.mean == pytest.approx(0.8)
    assert paired(weak, strong).p_value == paired(strong, weak).p_value


def test_equal_runs_are_not_distinguishable():
    comparison = paired([[True], [False]], [[True], [False]])
    assert (comparison.outcome, comparison.p_value, comparison.difference.mean) == ("not distinguishable", 1.0, 0.0)


def test_few_problems_cannot_prove_anything_however_large_the_gain():
    comparison = paired([[True] * 16] * 5, [[False] * 16] * 5)
    # All five moved the same way: 2 of 32 sign patterns are as extreme.
    assert comparison.p_value == pytest.approx(2 / 32)
    assert comparison.outcome == "not distinguishable"


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 4]), st.sampled_from([0, 1, 2, 4])), min_size=1, max_size=7))
@settings(max_examples=25, deadline=None)
def test_the_p_value_is_the_share_of_sign_patterns_at_least_as_extreme(pairs):
    def passes(counts):
        return [[True] * count + [False] * (4 - count) for count in counts]

    comparison = paired(passes([a for a, _ in pairs]), passes([b for _, b in pairs]))
    moved = [a - b for a, b in pairs if a != b]
    patterns = list(product((-1, 1), repeat=len(moved)))
    extreme = sum(
        abs(sum(sign * value for sign, value in zip(pattern, moved, strict=True))) >= abs(sum(moved))
        for pattern in patterns
    )
    assert comparison.p_value == pytest.approx(extreme / len(patterns))


def test_drawn_sign_flips_agree_with_the_exact_test():
    from amr_pipeline import evaluation

    rng = np.random.default_rng(3)
    differences = rng.choice([-0.5, 0.25, 0.5], size=12)
    exact = evaluation._sign_flip_p_value(differences)
    padded = evaluation._sign_flip_p_value(np.concatenate([differences, [1e-12] * 3]))
    assert padded == pytest.approx(exact, abs=0.02)


def test_a_test_without_an_effect_rarely_finds_one():
    rng = random.Random(5)
    found = 0
    for _ in range(60):
        first = [[rng.random() < 0.5 for _ in range(4)] for _ in range(14)]
        second = [[rng.random() < 0.5 for _ in range(4)] for _ in range(14)]
        found += paired(first, second).outcome != "not distinguishable"
    assert found <= 8  # 60 x 0.05 = 3; more than 8 has probability below 0.005


def test_only_problems_that_both_have_decided_are_compared():
    comparison = paired([[True], [True], [None]], [[False], [None], [True]])
    assert comparison.num_problems == 1


def test_pairing_is_by_problem_and_not_by_position():
    rows = scores({"new": [[True], [False]], "old": [[True], [False]]})
    backwards = pl.concat(
        [rows.filter(pl.col("training_recipe") == "new"), rows.filter(pl.col("training_recipe") == "old").reverse()]
    )
    assert compare(backwards.lazy(), "new", "old", "exam").difference.mean == 0.0
    assert compare(backwards.lazy(), "new", "old", "exam").p_value == 1.0


def test_nothing_in_common_is_an_error():
    with pytest.raises(ValueError, match="no decided problem of 'exam' in common"):
        paired([[True]], [[None]])


def comparison(p_value: float, difference: float = 0.1) -> PairedComparison:
    return PairedComparison(
        run="a",
        baseline="b",
        benchmark="exam",
        num_problems=10,
        difference=Interval(mean=difference, low=0, high=1),
        p_value=p_value,
        corrected_p_value=p_value,
        outcome="better",
    )


def test_holms_correction_on_a_worked_case():
    corrected = holm([comparison(0.01), comparison(0.04), comparison(0.03), comparison(0.005)])
    assert [each.corrected_p_value for each in corrected] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [each.outcome for each in corrected] == ["better", "not distinguishable", "not distinguishable", "better"]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_a_corrected_p_value_is_never_smaller_and_keeps_the_order(p_values):
    corrected = [each.corrected_p_value for each in holm([comparison(value) for value in p_values])]
    assert all(0 <= value <= 1 for value in corrected)
    assert all(after >= before for before, after in zip(p_values, corrected, strict=True))
    assert [value for _, value in sorted(zip(p_values, corrected, strict=True))] == sorted(corrected)


def test_every_other_run_is_compared_with_the_baseline_on_every_benchmark():
    better: list[Passes] = [[True]] * 12
    worse: list[Passes] = [[False]] * 12
    rows = pl.concat(
        [
            scores({"base": worse, "lr_high": better, "lr_low": worse}),
            scores({"base": worse, "lr_high": worse, "lr_never": [[None]]}, benchmark="quiz"),
        ]
    )
    found = {(each.benchmark, each.run): each.outcome for each in compare_all(rows.lazy(), "base")}
    assert found == {
        ("exam", "lr_high"): "better",
        ("exam", "lr_low"): "not distinguishable",
        ("quiz", "lr_high"): "not distinguishable",
    }
