from dataclasses import replace

import polars as pl

from amr_pipeline.report.cost_page import UNKNOWN, cost_page, cost_sections, forecast_rows, kept_rows, spent_rows
from amr_pipeline.responses.cost import SPENT, KeptCost
from amr_pipeline.responses.forecast import Expectation, Forecast, Rate
from amr_pipeline.responses.prices import Prices, TokenPrice

ROWS = [
    ("weak", "math", "stop", True, 3, 30, 300, 3.0, 1800.0, 3600.0, 0.0, 0.0),
    ("weak", "math", "length", True, 1, 10, 700, 1.0, 1800.0, 3600.0, 0.0, 0.0),
    ("weak", "code", "stop", False, 2, 5, 50, 0.0, 0.0, 0.0, 0.0, 0.0),
    ("<b>strong</b>", "math", "looping", True, 1, 5, 10, 1.0, 36.0, 36.0, 0.0, 0.0),
]
SPENT_ROWS = pl.DataFrame(ROWS, schema=SPENT, orient="row")
PRICED = Prices(gpu_hour=2.0)
KEPT = [
    KeptCost(recipe="stage1", category="math", written=1000, kept=250, gpu_seconds=7200.0, money=4.0),
    KeptCost(recipe="stage1", category="code", written=50, kept=0, gpu_seconds=0.0, money=0.0),
    KeptCost(recipe="stage1", category="all", written=1050, kept=250, gpu_seconds=None, money=None),
]


def line(rows: tuple, *named: str) -> dict[str, object]:
    header, body = rows
    (found,) = (dict(zip(header, row, strict=True)) for row in body if tuple(row[: len(named)]) == named)
    return found


def test_tokens_stand_by_how_they_ended_and_sums_are_sums():
    rows = spent_rows(SPENT_ROWS, PRICED)
    math_, every = line(rows, "weak", "math"), line(rows, "weak", "all")
    assert (math_["tokens, stop"], math_["tokens, truncated"], math_["responses"]) == (300, 700, 4)
    assert (math_["GPU-hours"], math_["engine-hours"], math_["money"]) == ("2", "1", "4.00")
    assert (every["tokens, stop"], every["tokens no longer expected"]) == (350, 50)
    assert every["responses with a record"] == "67%"
    assert line(rows, "weak", "code")["GPU-hours"] == UNKNOWN, "no record is not no time"
    assert [row[1] for row in rows[1] if "strong" in str(row[0])] == ["math"], "one category needs no sum"


def test_what_is_unknown_is_said():
    assert line(spent_rows(SPENT_ROWS, Prices()), "weak", "math")["money"] == UNKNOWN
    rows = kept_rows(KEPT)
    math_ = line(rows, "stage1", "math")
    assert (math_["written per kept"], math_["GPU-seconds per 1,000 kept"]) == ("4.00", "28,800")
    assert math_["money per million kept"] == "16,000"
    assert line(rows, "stage1", "code")["written per kept"] == "none kept"
    assert line(rows, "stage1", "all")["money per million kept"] == UNKNOWN


def test_the_page_escapes_names_and_says_where_times_are_lower_bounds():
    shown = cost_page("Cost", SPENT_ROWS, cost_sections(SPENT_ROWS, KEPT, Prices()), Prices())
    assert "<b>strong</b>" not in shown
    assert "lower bounds" in shown
    assert "AMR_PRICE_PER_GPU_HOUR" in shown
    assert "1,060" in shown, "all response tokens"
    assert shown.count("<img") == 2
    whole = SPENT_ROWS.filter(pl.col("is_expected"))
    assert "lower bounds" not in cost_page("Cost", whole, cost_sections(whole, [], PRICED), PRICED)
    assert "no token" not in cost_page("Cost", SPENT.to_frame(), cost_sections(SPENT.to_frame(), [], PRICED), PRICED)


def test_behind_a_server_tokens_cost_and_those_that_were_lost_too():
    lost = {"lost_prompt_tokens": pl.lit(60.0), "lost_response_tokens": pl.lit(400.0)}
    far = SPENT_ROWS.filter(pl.col("finish_reason") == "length").with_columns(**lost)
    price = {"weak": TokenPrice(prompts=10_000.0, responses=20_000.0)}
    billed = Prices(tokens=price, servers=frozenset(["weak"]))
    row = line(spent_rows(far, billed), "weak", "math")
    assert row["tokens lost at most"] == 460
    assert row["money"] == f"{(10 + 60) * 0.01 + (700 + 400) * 0.02:.2f}", "and no GPU that is held meanwhile"
    assert line(spent_rows(far, Prices(gpu_hour=1.0, servers=frozenset(["weak"]))), "weak")["money"] == UNKNOWN
    shown = cost_page("Cost", far, cost_sections(far, [], Prices(servers=billed.servers)), Prices())
    assert "what tokens of weak cost (AMR_PRICE_PER_MILLION_TOKENS)" in shown


def test_a_forecast_names_its_basis_and_what_nobody_knows():
    known = Forecast(
        distiller="weak",
        category="all",
        owed=1200,
        expected=Expectation(tokens=7_200_000.0, low=7e6, high=7.4e6, basis="history"),
        rate=Rate(tokens_per_gpu_second=1000.0, basis="measured"),
        gpu_seconds=7200.0,
        money=4.5,
    )
    unknown = Forecast(
        distiller="new",
        category="all",
        owed=5,
        expected=Expectation(tokens=None, basis="unknown"),
        rate=None,
        gpu_seconds=None,
        money=None,
    )
    in_math = replace(known, category="math")
    rows = forecast_rows([in_math, known, unknown])
    assert [tuple(row[:2]) for row in rows[1]] == [("weak", "math"), ("new", "all")], "one category needs no sum"
    in_code = replace(known, category="code")
    assert len(forecast_rows([in_code, in_math, known])[1]) == 3
    first, second = line(rows, "weak"), line(rows, "new")
    assert (first["tokens"], first["95 % interval"]) == ("7,200,000", "7,000,000 to 7,400,000")
    assert (first["tokens/GPU-s"], first["GPU-hours"], first["money"]) == ("1,000 measured", "2", "4.50")
    assert [second[name] for name in ("tokens", "tokens/GPU-s", "GPU-hours", "money")] == [UNKNOWN] * 4
    assert second["95 % interval"] == "none"
