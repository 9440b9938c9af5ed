"""A forecast's interval holds the sum that comes, history beats declarations, and what is unknown stays unknown."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.categories import Category
from amr_pipeline.responses.expected import expected_responses, owed_responses
from amr_pipeline.responses.forecast import FEWEST_QUERIES, Lengths, Rate, forecast, lengths, num_owed, tokens_ahead
from amr_pipeline.responses.prices import Prices, TokenPrice
from amr_pipeline.studies.study import AdaptivePasses
from amr_pipeline_tests.studies.small import STRONG, WEAK


def responses(tokens: np.ndarray, category: str = "math", first: int = 0) -> pl.DataFrame:
    """A row of `tokens` per query, a column per pass."""
    queries = [f"{first + place:032x}" for place in range(len(tokens)) for _ in range(tokens.shape[1])]
    return pl.DataFrame(
        {"query_id": queries, "category": category, "response_tokens": tokens.ravel()},
        schema_overrides={"response_tokens": pl.Int32},
    )


def heavy(draws: np.random.Generator, queries: int, passes: int, shared: float) -> np.ndarray:
    """Lognormal lengths, `shared` of whose spread belongs to the query: the mean is 1.6 times the median."""
    of_query = draws.normal(0, np.sqrt(shared), (queries, 1))
    of_pass = draws.normal(0, np.sqrt(1 - shared), (queries, passes))
    return np.round(1000 * np.exp(of_query + of_pass)).astype(int)


@pytest.mark.parametrize("shared", [0.0, 0.6])
@pytest.mark.parametrize(("known", "ahead"), [(400, 100), (400, 4_000), (2_000, 400)])
def test_the_interval_holds_the_sum_that_comes(shared: float, known: int, ahead: int):
    draws, held, trials = np.random.default_rng(7), 0, 300
    for _ in range(trials):
        found = tokens_ahead(ahead * 4, lengths(responses(heavy(draws, known, 4, shared)))["math"])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= heavy(draws, ahead, 4, shared).sum() <= found.high
    # 95 % with the luck of 300 trials, and a little less because tails are heavy.
    assert 0.91 <= held / trials <= 0.985


def test_passes_of_one_query_count_as_one_draw():
    draws = np.random.default_rng(1)
    alike = np.repeat(heavy(draws, 500, 1, 0.0), 4, axis=1)
    apart = alike.reshape(4, 500).T
    wide, narrow = (tokens_ahead(4_000, lengths(responses(tokens))["math"]) for tokens in (alike, apart))
    assert wide.high is not None
    assert narrow.high is not None
    assert wide.tokens == narrow.tokens
    assert 1.6 < (wide.high - wide.tokens) / (narrow.high - narrow.tokens) < 2.4  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]


@given(st.lists(st.lists(st.integers(0, 5_000), min_size=2, max_size=2), min_size=2, max_size=20), st.data())
def test_partitions_add_up(tokens: list[list[int]], data: st.DataObject):
    cut = data.draw(st.integers(1, len(tokens) - 1))
    whole = lengths(responses(np.array(tokens)))["math"]
    parts = [
        lengths(responses(np.array(part), first=first))["math"]
        for first, part in ((0, tokens[:cut]), (cut, tokens[cut:]))
    ]
    assert sum(parts, Lengths()) == whole
    assert whole.responses == 2 * len(tokens)
    sums = np.array(tokens).sum(axis=1)
    residuals = sums - sums.mean()
    assert whole.variance == pytest.approx(
        (residuals**2).sum() / whole.responses * len(tokens) / (len(tokens) - 1), rel=1e-6, abs=1e-3
    )


KNOWN = {
    "math": Lengths(
        queries=100, responses=400, tokens=40_000, tokens_squared=2e7, responses_squared=1600, products=160_000
    )
}


def test_history_beats_what_the_row_declares_and_says_what_it_rests_on():
    math_, every = forecast(STRONG, {"math": 10, "code": 0}, KNOWN)
    assert (math_.category, every.category, every.owed) == ("math", "all", 10)
    assert math_.expected.tokens == 1000.0
    assert math_.expected.basis == "400 responses of 100 queries"
    # residuals squared 2e7 - 2 * 100 * 160,000 + 100**2 * 1600 = 4e6; per response 1e4, times 100/99.
    variance = 1e4 * 100 / 99
    assert math_.expected.high == pytest.approx(1000 + 1.959964 * (variance * 10 * (1 + 10 / 400)) ** 0.5)
    assert every.expected.high == math_.expected.high


def test_without_history_the_row_declares_and_without_that_it_is_unknown():
    code, math_, every = forecast(STRONG, {"math": 10, "code": 2}, KNOWN)
    assert (code.expected.tokens, code.expected.high, code.expected.basis) == (100.0, None, "declared, no interval")
    assert math_.expected.high is not None
    assert (every.expected.tokens, every.expected.high) == (1100.0, None), "no interval of a part, none of the sum"
    (only, every) = forecast(WEAK, {"math": 10}, {})
    assert (only.expected.tokens, every.expected.tokens) == (None, None)
    assert "unknown" in only.expected.basis
    other, _ = forecast(WEAK, {"code": 2}, KNOWN)
    assert (other.expected.tokens, other.expected.basis) == (200.0, "other categories, no interval")


def test_a_short_history_has_a_mean_and_no_interval():
    tokens = np.full((FEWEST_QUERIES - 1, 1), 7)
    found = tokens_ahead(10, lengths(responses(tokens))["math"])
    assert (found.tokens, found.high) == (70.0, None)
    assert "too few" in found.basis
    assert tokens_ahead(10, lengths(responses(np.full((FEWEST_QUERIES, 1), 7)))["math"]).high == 70.0


def test_time_and_money_need_a_rate_and_a_price():
    rate = Rate(tokens_per_gpu_second=10.0, basis="set")
    (*_, known) = forecast(STRONG, {"math": 36}, {}, rate=rate, prices=Prices(gpu_hours={"": 4.0}))
    assert (known.expected.tokens, known.gpu_seconds, known.money) == (1800.0, 180.0, 0.2)
    its_own = Prices(gpu_hours={"": 4.0, STRONG.name: 40.0})
    assert forecast(STRONG, {"math": 36}, {}, rate=rate, prices=its_own)[-1].money == 2.0
    (*_, unpriced) = forecast(STRONG, {"math": 36}, {}, rate=rate)
    assert (unpriced.gpu_seconds, unpriced.money) == (180.0, None)
    (*_, unrated) = forecast(STRONG, {"math": 36}, {}, prices=Prices(gpu_hours={"": 4.0}))
    assert (unrated.gpu_seconds, unrated.money) == (None, None)
    (*_, without_gpu) = forecast(
        replace(STRONG, gpus_per_replica=0), {"math": 36}, {}, prices=Prices(gpu_hours={"": 4.0})
    )
    assert (without_gpu.gpu_seconds, without_gpu.money) == (0.0, 0.0)


def test_behind_a_server_money_is_what_its_tokens_cost():
    far = replace(STRONG, name="far", engine="http")
    prices = Prices(gpu_hours={"": 4.0}, tokens={"far": TokenPrice(prompts=9.0, responses=2.0)})
    (*_, known) = forecast(far, {"math": 36}, {}, prices=prices)
    assert (known.expected.tokens, known.gpu_seconds, known.money) == (1800.0, 0.0, 0.0036)
    (*_, unpriced) = forecast(far, {"math": 36}, {}, prices=Prices(gpu_hours={"": 4.0}))
    assert unpriced.money is None, "not nothing"


def test_nothing_owed_and_imported_responses_cost_nothing():
    (nothing,) = forecast(STRONG, {}, KNOWN, prices=Prices(gpu_hours={"": 1.0}))
    assert (nothing.owed, nothing.expected.tokens, nothing.money) == (0, 0.0, 0.0)
    *_, imported = forecast(replace(STRONG, engine="imported"), {"math": 5}, {}, prices=Prices(gpu_hours={"": 1.0}))
    assert (imported.owed, imported.expected.tokens, imported.money) == (5, 0.0, 0.0)


QUERIES = pl.DataFrame(
    {"query_id": [f"{index:032x}" for index in range(4)], "category": ["math", "code", "math", "science"]}
)


@given(st.sets(st.integers(0, 11)), st.booleans(), st.integers(0, 4))
def test_what_is_owed_is_counted_as_the_ledger_lists_it(present: set[int], is_former: bool, dropped: int):
    row = replace(WEAK, num_passes=2, categories=(Category.MATH, Category.CODE))
    stored = expected_responses(QUERIES, replace(row, num_passes=3, categories=()))[sorted(present)]
    stored = stored.with_columns(distiller_fingerprint=pl.lit("f" if is_former else row.distiller_fingerprint))
    today = QUERIES[dropped:]
    listed = dict(owed_responses(today, stored, row).group_by("category").len().iter_rows())
    counted = num_owed(today, stored, row)
    assert {name: count for name, count in counted.items() if count} == listed


@given(st.sets(st.integers(0, 15)), st.lists(st.integers(0, 4), min_size=4, max_size=4), st.integers(0, 4))
def test_passes_that_are_due_are_counted_as_the_ledger_lists_them(present: set[int], due: list[int], dropped: int):
    policy = AdaptivePasses(first=1, most=4)
    row = replace(WEAK, num_passes=2, passes_policy=policy, categories=(Category.MATH, Category.CODE))
    stored = expected_responses(QUERIES, replace(row, categories=()))[sorted(present)]
    stored = stored.with_columns(distiller_fingerprint=pl.lit(row.distiller_fingerprint))
    num_due = QUERIES.select("query_id").with_columns(pl.Series("num_due", due, dtype=pl.Int64))[dropped:]
    listed = dict(owed_responses(QUERIES, stored, row, num_due).group_by("category").len().iter_rows())
    counted = num_owed(QUERIES, stored, row, num_due)
    assert {name: count for name, count in counted.items() if count} == listed
