"""What is owed is expected minus present, whatever the order."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.worklist import owed

keys = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 4)), max_size=25)


def frame(rows: list[tuple[str, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"query": pl.String, "pass_index": pl.Int64}, orient="row")


@given(keys.map(lambda rows: list(dict.fromkeys(rows))), keys)
def test_owed_is_the_set_difference_in_the_order_expected(expected, present):
    rows = owed(frame(expected), frame(present), ["query", "pass_index"]).rows()
    assert rows == [row for row in expected if row not in set(present)]


@given(keys.map(lambda rows: list(dict.fromkeys(rows))), keys)
def test_paying_what_is_owed_leaves_nothing_owed(expected, present):
    first = owed(frame(expected), frame(present), ["query", "pass_index"])
    assert owed(frame(expected), pl.concat([frame(present), first]), ["query", "pass_index"]).is_empty()


def test_only_the_key_decides_and_other_columns_come_along():
    expected = frame([("a", 0), ("b", 0)]).with_columns(text=pl.Series(["A", "B"]))
    present = pl.DataFrame({"query": ["a"], "pass_index": [0], "unrelated": [True]})
    assert owed(expected, present, ["query", "pass_index"]).rows() == [("b", 0, "B")]


def test_a_repeated_expected_key_is_refused():
    with pytest.raises(ValueError, match="1 of 2 expected rows repeat"):
        owed(frame([("a", 0), ("a", 0)]), frame([]), ["query", "pass_index"])


def test_present_with_another_key_type_is_an_error_and_not_silently_everything_owed():
    present = pl.DataFrame({"query": ["a"], "pass_index": ["0"]})
    with pytest.raises(pl.exceptions.PolarsError):
        owed(frame([("a", 0)]), present, ["query", "pass_index"])
