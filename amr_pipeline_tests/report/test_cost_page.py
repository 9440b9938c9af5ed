import polars as pl

from amr_pipeline.report.cost_page import cost_page
from amr_pipeline.responses.cost import SPENT
from amr_pipeline.responses.prices import Prices, TokenPrice
from amr_pipeline.responses.stage_costs import BECAME, STAGE_COSTS, Costs
from amr_pipeline_tests.report.test_cost_rows import PRICED, SPENT_ROWS, STAGES, costs

NOTHING = Costs(
    spent=SPENT.to_frame(),
    outcomes=BECAME.to_frame(),
    stages=STAGE_COSTS.to_frame(),
    kept=[],
    trained=[],
    prices=PRICED,
)


def test_the_page_escapes_names_and_shows_every_part():
    shown = cost_page("Cost", costs())
    assert "<b>strong</b>" not in shown
    assert shown.count("<img") == 4
    for heading in (
        "What became of the tokens",
        "Time and money by stage",
        "What a kept token took",
        "Training and measuring",
    ):
        assert f">{heading}<" in shown
    assert "1,060" in shown, "all response tokens"


def test_the_page_says_where_times_are_lower_bounds_and_which_prices_are_missing():
    shown = cost_page("Cost", costs(Prices(servers=frozenset(["weak"]))))
    assert "lower bounds" in shown
    assert "AMR_PRICE_PER_GPU_HOUR" in shown
    assert "what tokens of weak cost (AMR_PRICE_PER_MILLION_TOKENS)" in shown
    named = cost_page("Cost", costs(Prices(gpu_hours={"strong": 4.0})))
    assert "No price of a GPU-hour is set but for strong (AMR_PRICE_PER_GPU_HOUR)" in named
    said = Prices(
        gpu_hours={"": 1.0}, tokens={"weak": TokenPrice(prompts=1.0, responses=1.0)}, servers=frozenset(["weak"])
    )
    whole = cost_page("Cost", costs(said, STAGES.filter("is_recorded"), SPENT_ROWS.filter(pl.col("is_expected"))))
    for absent in ("lower bounds", "AMR_PRICE_PER_GPU_HOUR", "AMR_PRICE_PER_MILLION_TOKENS"):
        assert absent not in whole


def test_nothing_spent_is_a_page_too():
    shown = cost_page("Cost", NOTHING)
    assert shown.count("<img") == 1
    assert "lower bounds" not in shown
