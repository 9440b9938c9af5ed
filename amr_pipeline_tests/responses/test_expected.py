from dataclasses import replace

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.categories import Category
from amr_pipeline.responses.expected import (
    expected_responses,
    longest_first,
    num_expected,
    owed_responses,
    still_expected,
)
from amr_pipeline.studies.study import AdaptivePasses
from amr_pipeline_tests.studies.small import STRONG, WEAK

DISTILLERS = (replace(WEAK, num_passes=2), replace(STRONG, num_passes=1, categories=(Category.MATH,)))
QUERIES = pl.DataFrame(
    {"query_id": [f"{index:032x}" for index in range(4)], "category": ["math", "code", "math", "science"]}
)


def test_every_pass_of_every_answered_query_is_expected_once():
    weak, strong = (expected_responses(QUERIES, row) for row in DISTILLERS)
    assert weak["pass_index"].to_list() == [0, 1] * 4
    assert strong["query_id"].to_list() == [QUERIES["query_id"][0], QUERIES["query_id"][2]]
    assert pl.concat([weak, strong])["response_id"].n_unique() == 10


@given(st.sets(st.integers(0, 3)), st.permutations(range(24)))
def test_rows_that_are_still_expected_are_those_whose_id_is(asked: set[int], order: list[int]):
    former = (replace(row, num_passes=3, categories=()) for row in (*DISTILLERS, replace(WEAK, revision="2")))
    rows = pl.concat(
        expected_responses(QUERIES, row).with_columns(
            distiller=pl.lit(row.name), distiller_fingerprint=pl.lit(row.distiller_fingerprint)
        )
        for row in former
    )[order]
    today = QUERIES.filter(pl.Series([index in asked for index in range(4)]))
    expected = {name for row in DISTILLERS for name in expected_responses(today, row)["response_id"]}
    found = still_expected(rows, today.select("query_id"), DISTILLERS)
    assert found.equals(rows.filter(pl.col("response_id").is_in(expected)))


def test_adaptive_passes_owe_what_each_query_is_due_and_count_up_to_the_most():
    deep = replace(WEAK, num_passes=3, passes_policy=AdaptivePasses(first=1, most=5), categories=(Category.MATH,))
    first, second = QUERIES["query_id"][0], QUERIES["query_id"][2]
    assert num_expected(QUERIES, deep) == 2, "the first passes; what follows depends on verdicts"
    every = expected_responses(QUERIES, deep)
    assert every.height == 10
    present = every.filter(pl.col("pass_index").is_in([0, 4])).with_columns(
        distiller=pl.lit("weak"), distiller_fingerprint=pl.lit(deep.distiller_fingerprint)
    )
    due = pl.DataFrame({"query_id": [second, first, "gone"], "num_due": [3, 1, 5]})
    owed = owed_responses(QUERIES, present, deep, due)
    assert owed.select("query_id", "pass_index").rows() == [(second, 1), (second, 2)]
    assert set(owed["response_id"]) < set(every["response_id"])
    assert still_expected(present, QUERIES, [deep]).height == 4, "a pass that was paid for counts"
    assert still_expected(present, QUERIES, [replace(deep, passes_policy=None)]).height == 2


def test_the_longest_come_first_as_far_as_stored_responses_tell():
    owed = pl.DataFrame(
        {"query_id": ["a", "b", "c", "d", "e"], "category": ["math", "math", "code", "math", "chat"], "other": range(5)}
    )
    known = pl.DataFrame(
        {
            "query_id": ["b", "b", "a", "gone", "gone"],
            "category": ["math", "math", "math", "code", "math"],
            "response_tokens": [900, 1100, 10, 500, 0],
        }
    )
    # d has math's mean, c has code's; of e nothing is known
    assert longest_first(owed, known)["query_id"].to_list() == ["b", "d", "c", "a", "e"]
    assert longest_first(owed, known.clear()).equals(owed)


@given(st.permutations(range(8)), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 500)), max_size=12))
def test_order_is_all_that_lengths_change(order: list[int], lengths: list[tuple[int, int]]):
    owed = pl.DataFrame({"query_id": [f"q{index}" for index in order], "category": ["math"] * 8, "pass_index": order})
    known = pl.DataFrame(
        {
            "query_id": [f"q{index}" for index, _ in lengths],
            "category": ["code"] * len(lengths),
            "response_tokens": [tokens for _, tokens in lengths],
        },
        schema={"query_id": pl.String, "category": pl.String, "response_tokens": pl.Int64},
    )
    found = longest_first(owed, known)
    assert found.columns == owed.columns
    assert found.sort("query_id").equals(owed.sort("query_id"))
