from collections.abc import Sequence

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.second_opinions import drawn, false_pass_rates
from amr_pipeline.studies.study import SecondOpinion, SymbolicMathVerifier
from amr_pipeline_tests.verdict_rows import query, response

OPINION = SecondOpinion(recipe="stage1", verifier=SymbolicMathVerifier(), num_responses=10, seed=3)


def subset(num_math: int, num_code: int = 0) -> pl.DataFrame:
    rows = [
        {
            "selection_recipe": "stage1",
            "response_id": response(query(index), "r1", 0),
            "query_id": query(index),
            "shard": "00",
            "category": "math" if index < num_math else "code",
            "distiller": "r1",
            "pass_index": 0,
            "verify_score": 1.0,
            "pass_rate": 0.5,
            "coefficient_of_variation": 1.0,
            "response_tokens": 10,
            "chosen_because": "challenging",
        }
        for index in range(num_math + num_code)
    ]
    return pl.DataFrame(rows, schema=tables.SUBSETS.schema)


def opinions(chosen: pl.DataFrame, outcomes: Sequence[str]) -> pl.DataFrame:
    """`tables.SECOND_OPINIONS` rows of the first math rows of a subset, with these outcomes."""
    mine = chosen.filter(pl.col("category") == "math").head(len(outcomes))
    return mine.select(
        "selection_recipe",
        "response_id",
        "query_id",
        "category",
        "distiller",
        "pass_index",
        pl.Series("verdict", outcomes, dtype=pl.String),
        pl.Series("verify_score", [{"passed": 1.0, "failed": 0.0}.get(one) for one in outcomes], dtype=pl.Float64),
        pl.Series("cause", [None if one != "undecided" else "timeout" for one in outcomes], dtype=pl.String),
        pl.lit("again/math_verify").alias("verifier"),
        pl.lit("again-now").alias("verifier_fingerprint"),
        pl.lit("").alias("evidence"),
    )


@given(st.integers(0, 40), st.integers(0, 5), st.randoms())
def test_the_draw_is_of_the_category_bounded_and_blind_to_order(num_math: int, num_code: int, chance):
    rows = subset(num_math, num_code)
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=chance.randint(0, 999))
    found = drawn(rows, OPINION)
    assert found.height == min(num_math, OPINION.num_responses)
    assert set(found["category"]) <= {"math"}
    assert found["response_id"].to_list() == drawn(shuffled, OPINION)["response_id"].to_list()


def test_a_subset_that_grows_keeps_most_of_what_was_drawn():
    before, after = (set(drawn(subset(number), OPINION)["response_id"]) for number in (40, 44))
    assert len(before & after) >= 6


def test_rates_count_the_decided_only():
    chosen = subset(20, 3)
    said = opinions(chosen, ["passed"] * 6 + ["failed"] * 2 + ["undecided"] * 2)
    (row,) = false_pass_rates(said, chosen).rows(named=True)
    assert (row["num_chosen"], row["num_judged"], row["num_rejected"], row["num_undecided"]) == (20, 8, 2, 2)
    assert (row["false_pass_rate"], row["second_verifier"]) == (0.25, "again")
    assert row["false_pass_rate_low"] < 0.25 < row["false_pass_rate_high"]
    nothing = false_pass_rates(opinions(chosen, ["undecided"]), chosen).row(0, named=True)
    assert nothing["false_pass_rate"] is nothing["false_pass_rate_low"] is nothing["false_pass_rate_high"] is None
    assert false_pass_rates(tables.SECOND_OPINIONS.empty(), chosen).is_empty()
