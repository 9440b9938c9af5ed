from dataclasses import replace

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.categories import Category
from amr_pipeline.responses.expected import expected_responses, still_expected
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
