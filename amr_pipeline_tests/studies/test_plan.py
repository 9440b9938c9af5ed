"""What a study owes follows from its rows."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.categories import Category
from amr_pipeline.studies.loading import load_study
from amr_pipeline.studies.plan import MOST_KEYS, plan
from amr_pipeline.studies.study import AdaptivePasses, JsonLines, ResponseColumns
from amr_pipeline_tests.studies.small import STRONG, WEAK, small_study


@given(st.integers(0, 10_000), st.integers(0, 50_000))
def test_owed_is_expected_minus_present_and_never_negative(num_queries, present):
    found = plan(small_study(), num_queries, {"strong": present})
    weak, strong = found.distillers
    assert weak.owed == weak.expected == 4 * num_queries
    assert strong.owed == max(0, 4 * num_queries - present)
    assert strong.tokens == 50.0 * strong.owed
    assert found.owed == weak.owed + strong.owed


def test_a_distiller_without_an_expected_length_is_named_and_in_no_sum():
    found = plan(small_study(), 100)
    assert found.unknown_lengths == ("weak",)
    assert found.tokens == 100 * 4 * 50
    assert "without weak: no length expected" in found.text()


def test_a_distiller_is_asked_only_its_categories():
    only_math = replace(WEAK, categories=(Category.MATH,))
    study = small_study(distillers=(only_math, STRONG))
    found = plan(study, {Category.MATH: 10, Category.CODE: 5})
    assert [row.num_queries for row in found.distillers] == [10, 15]
    with pytest.raises(ValueError, match="'weak' answers only math; pass num_queries by category"):
        plan(study, 15)


def test_imported_responses_cost_no_tokens():
    imported = replace(
        WEAK, engine="imported", reads=JsonLines(path="r.jsonl"), responses_at=ResponseColumns(response="response")
    )
    found = plan(small_study(distillers=(imported, STRONG)), 10)
    assert found.distillers[0].tokens == 0
    assert found.unknown_lengths == ()


def test_a_distiller_behind_a_server_takes_no_gpu_and_its_tokens_count():
    far = replace(STRONG, engine="http")
    found = plan(small_study(distillers=(WEAK, far)), 10).distillers[1]
    assert (found.gpus_per_replica, found.tokens) == (0, 10 * 4 * 50)


@pytest.mark.parametrize(
    ("num_queries", "present", "message"),
    [
        (-1, {}, "negative"),
        ({Category.MATH: -1}, {}, "negative"),
        (1, {"strong": -1}, "negative"),
        (1, {"x": 1}, "'x'"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(num_queries, present, message):
    with pytest.raises(ValueError, match=message):
        plan(small_study(), num_queries, present)


@pytest.mark.parametrize("study", [small_study(), load_study("micro", {}), load_study("deepdistill", {})])
def test_partitions_are_those_the_assets_have_and_dimensions_stay_small(study):
    found = plan(study, 10)
    assert found.partitions == {name: len(stored_partitions(study, name)) for name in found.partitions}
    assert found.too_large == {}


def test_a_dimension_that_grew_too_large_is_named():
    many = tuple(replace(WEAK, name=f"d{index}", model=f"m{index}") for index in range(MOST_KEYS))
    assert plan(small_study(distillers=(*many, STRONG)), 1).too_large == {"distiller": MOST_KEYS + 1}


def test_the_text_is_aligned_and_complete():
    lines = plan(small_study(), 1_000, {"strong": 500}).text().splitlines()
    assert lines[0] == "Study small: 1,000 queries"
    assert lines[1].startswith("7,500 of 8,000 responses owed, 1.75e+05 tokens")
    header, weak, strong = lines[3:6]
    assert weak.split() == ["weak", "1,000", "4", "4,000", "4,000", "unknown", "1"]
    assert strong.split() == ["strong", "1,000", "4", "4,000", "3,500", "1.75e+05", "1"]
    assert header.index("owed") + len("owed") == weak.rindex("4,000") + len("4,000")


def test_adaptive_passes_are_planned_at_the_most_they_may_come_to():
    deep = replace(WEAK, num_passes=8, passes_policy=AdaptivePasses())
    found = plan(small_study(distillers=(deep, STRONG)), 10)
    assert (found.distillers[0].expected, found.distillers[0].passes) == (80, "<= 8 (4-16)")
    assert "<= 8 (4-16)" in found.text()
    assert found.distillers[1].passes == "4"
