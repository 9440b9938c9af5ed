"""Difficulty: the paper's worked numbers, and what may never move a grade."""

import math
import random
import statistics

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.categories import Category
from amr_pipeline.difficulty import (
    JOINT,
    coefficient_of_variation,
    difficulty,
    pass_rate_by_category,
    tier,
    wilson_high,
    wilson_low,
)
from amr_pipeline_tests.verdict_rows import NOW, query, verdicts

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.3, 0.7, 1 / 3, 0.9, 1.0, None]), max_size=6)
ANSWERS = st.dictionaries(
    st.tuples(st.integers(0, 5).map(query), st.sampled_from(["weak", "middle", "strong"])), SCORES, max_size=12
)


def graded(rows: pl.DataFrame) -> pl.DataFrame:
    return difficulty(rows.lazy(), fingerprints=[NOW], num_shards=4).collect()


def row_of(rows: pl.DataFrame, query_id: str, distiller: str) -> dict[str, object]:
    return graded(rows).row(
        by_predicate=(pl.col("query_id") == query_id) & (pl.col("distiller") == distiller), named=True
    )


def frame(answers: dict[tuple[str, str], list[float | None]], category: Category = Category.CODE) -> pl.DataFrame:
    return verdicts(((query_id, name, scores) for (query_id, name), scores in answers.items()), category)


@pytest.mark.parametrize(
    ("scores", "population", "sample"),
    [
        # Printed in the paper (n - 1): 0.63, 0.10, 0.18; Eq. 6 as printed divides by n.
        ([0.9, 0.1, 0.7, 0.3, 0.5], 0.566, 0.632),
        ([0.6, 0.8, 0.7, 0.7, 0.7], 0.090, 0.101),
        ([0.3, 0.5, 0.4, 0.4, 0.4], 0.158, 0.177),
        ([1, 1, 1, 0], 0.577, 0.667),
        ([1, 1, 0, 0], 1.0, 1.155),
        ([1, 0, 0, 0], 1.732, 2.0),
        ([1, 1, 1, 1], 0.0, 0.0),
    ],
    ids=["Q_B", "Q_C", "Q_D", "3/4", "2/4", "1/4", "4/4"],
)
def test_the_papers_worked_numbers_in_both_forms(scores, population, sample):
    rows = verdicts([(query(1), "r1", scores)], Category.CODE)
    assert row_of(rows, query(1), "r1")["coefficient_of_variation"] == pytest.approx(population, abs=5e-4)
    sampled = pl.DataFrame({"scores": [scores]}).select(coefficient_of_variation(sample=True)).item()
    assert sampled == pytest.approx(sample, abs=5e-4)


def test_the_papers_printed_figures_are_the_sample_form():
    printed = {(0.9, 0.1, 0.7, 0.3, 0.5): 0.63, (0.6, 0.8, 0.7, 0.7, 0.7): 0.10, (0.3, 0.5, 0.4, 0.4, 0.4): 0.18}
    for scores, figure in printed.items():
        value = pl.DataFrame({"scores": [scores]}).select(coefficient_of_variation(sample=True)).item()
        assert round(value, 2) == figure


@given(ANSWERS)
@settings(max_examples=40, deadline=None)
def test_rows_keep_the_data_dictionarys_promises(answers):
    grades = graded(frame(answers))
    assert grades.schema == tables.DIFFICULTY.schema
    assert tables.DIFFICULTY.violations(grades) == {}


@given(ANSWERS, st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_passes_and_rows_never_matters(answers, rng):
    rows = frame(answers)
    shuffled = rows[rng.sample(range(rows.height), rows.height)]
    assert graded(shuffled).equals(graded(rows))


@given(ANSWERS)
@settings(max_examples=40, deadline=None)
def test_the_joint_row_is_the_pooled_responses(answers):
    grades = graded(frame(answers))
    pooled: dict[tuple[str, str], list[float | None]] = {}
    for (query_id, _), scores in answers.items():
        pooled.setdefault((query_id, "all"), []).extend(scores)
    expected = graded(frame({(query_id, "one"): scores for (query_id, _), scores in pooled.items()}))
    joint = grades.filter(pl.col("distiller") == JOINT)
    assert joint.equals(expected.filter(pl.col("distiller") == JOINT))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None)
def test_mean_and_variation_are_those_of_the_textbook(scores):
    row = row_of(verdicts([(query(0), "r1", scores)], Category.CODE), query(0), "r1")
    assert row["mean_score"] == pytest.approx(statistics.fmean(scores))
    assert row["highest_score"] == max(scores)
    mean = statistics.fmean(scores)
    if mean == 0:
        assert row["coefficient_of_variation"] is None
    elif mean > 1e-100:  # squares of smaller numbers leave the range of a float
        assert row["coefficient_of_variation"] == pytest.approx(statistics.pstdev(scores) / mean, abs=1e-9)


def test_equal_scores_vary_by_exactly_nothing():
    row = row_of(verdicts([(query(0), "r1", [0.7] * 3)], Category.CONVERSATION), query(0), "r1")
    assert row["coefficient_of_variation"] == 0.0


@given(st.integers(0, 4), st.integers(0, 4))
def test_with_binary_scores_variation_is_a_function_of_pass_rate(passed, failed):
    if passed == 0:
        return
    rate = passed / (passed + failed)
    row = row_of(verdicts([(query(0), "r1", [1] * passed + [0] * failed)]), query(0), "r1")
    assert row["coefficient_of_variation"] == pytest.approx(math.sqrt((1 - rate) / rate))


def test_undecided_is_counted_beside_and_never_in_a_denominator():
    with_undecided = row_of(verdicts([(query(0), "r1", [1, None, 0, None])]), query(0), "r1")
    without = row_of(verdicts([(query(0), "r1", [1, 0])]), query(0), "r1")
    assert with_undecided.pop("num_undecided") == 2
    assert without.pop("num_undecided") == 0
    assert with_undecided == without


def test_with_nothing_decided_every_measure_is_null():
    row = row_of(verdicts([(query(0), "r1", [None, None])]), query(0), "r1")
    assert row["tier"] == "undecided"
    assert row["num_responses"] == 0
    measures = ("pass_rate", "pass_rate_low", "pass_rate_high", "mean_score", "highest_score")
    assert all(row[name] is None for name in (*measures, "coefficient_of_variation"))


def test_nothing_scored_is_unsolved_and_its_variation_undefined():
    row = row_of(verdicts([(query(0), "r1", [0, 0, 0, 0])]), query(0), "r1")
    assert (row["tier"], row["pass_rate"], row["coefficient_of_variation"]) == ("unsolved", 0.0, None)


@pytest.mark.parametrize(
    ("rate", "name"),
    [
        (1.0, "trivial"),
        (0.75, "easy"),
        (0.626, "easy"),
        (5 / 8, "medium"),
        (0.5, "medium"),
        (3 / 8, "medium"),
        (0.374, "hard"),
        (0.25, "hard"),
        (1 / 12, "hard"),
        (0.0, "unsolved"),
        (None, "undecided"),
    ],
)
def test_tiers(rate, name):
    assert pl.DataFrame({"pass_rate": [rate]}, schema={"pass_rate": pl.Float64}).select(tier()).item() == name


@pytest.mark.parametrize(
    ("passed", "decided", "low", "high"),
    # From the closed formula, worked by hand with z = 1.96.
    [(0, 4, 0.0, 0.4899), (4, 4, 0.5101, 1.0), (2, 4, 0.1500, 0.8500), (1, 4, 0.0456, 0.6994), (5, 10, 0.2366, 0.7634)],
)
def test_wilson_intervals(passed, decided, low, high):
    counts = pl.DataFrame({"num_passed": [passed], "num_responses": [decided]})
    found = counts.select(wilson_low().alias("low"), wilson_high().alias("high")).row(0)
    assert found == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_rate_and_stays_in_range(counts):
    passed, decided = counts
    row = pl.DataFrame({"num_passed": [passed], "num_responses": [decided]}).select(
        wilson_low().alias("low"), wilson_high().alias("high")
    )
    low, high = row.row(0)
    assert 0 <= low <= passed / decided <= high <= 1


def test_verdicts_of_former_verifiers_do_not_count():
    now = verdicts([(query(0), "r1", [1, 1])])
    former = verdicts([(query(0), "r1", [0, 0])], fingerprint="verifier-before")
    row = graded(pl.concat([former, now])).row(0, named=True)
    assert (row["num_responses"], row["pass_rate"]) == (2, 1.0)
    assert graded(pl.concat([former, now])).equals(graded(now))


def test_science_scores_keep_their_own_range():
    row = row_of(verdicts([(query(0), "r1", [5, 4.99, 2.5])], Category.SCIENCE), query(0), "r1")
    assert (row["num_passed"], row["highest_score"]) == (1, 5.0)


def test_the_shard_is_that_of_the_query_id():
    grades = graded(verdicts([(query(index), "r1", [1]) for index in (0, 63, 64, 255)]))
    shards = dict(grades.select("query_id", "shard").iter_rows())
    assert shards == {query(0): "00", query(63): "00", query(64): "01", query(255): "03"}


def test_nothing_judged_gives_an_empty_table():
    assert graded(tables.VERDICTS.empty()).equals(tables.DIFFICULTY.empty())


def test_pass_rate_by_category_pools_responses_and_its_interval_counts_queries():
    rng = random.Random(1)
    rows = verdicts([(query(index), "r1", [rng.choice([0, 1])] * 4) for index in range(50)])
    measured = pass_rate_by_category(graded(rows).lazy()).collect().row(by_predicate=pl.col("distiller") == "r1")
    found = dict(zip(pass_rate_by_category(graded(rows).lazy()).collect().columns, measured, strict=True))
    assert (found["num_queries"], found["num_responses"]) == (50, 200)
    half = (found["pass_rate_high"] - found["pass_rate_low"]) / 2
    rate = found["pass_rate"]
    # All four passes agree, so 200 responses know no more than 50 queries do.
    assert half == pytest.approx(1.96 * math.sqrt(rate * (1 - rate) / 49), rel=1e-3)


def test_pass_rate_by_category_does_not_claim_certainty_where_all_agree():
    rows = verdicts([(query(index), "r1", [1, 1, None]) for index in range(4)])
    measured = pass_rate_by_category(graded(rows).lazy()).collect().to_dicts()[0]
    assert (measured["pass_rate"], measured["pass_rate_high"], measured["num_undecided"]) == (1.0, 1.0, 4)
    assert measured["pass_rate_low"] == pytest.approx(0.5101, abs=1e-4)


def test_pass_rate_by_category_is_null_with_nothing_decided():
    measured = pass_rate_by_category(graded(verdicts([(query(0), "r1", [None])])).lazy()).collect()
    assert measured.get_column("pass_rate").to_list() == [None, None]
    assert measured.get_column("pass_rate_low").to_list() == [None, None]
