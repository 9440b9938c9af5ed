"""Tables of costs: what stands in them, and how what nobody knows reads."""

from dataclasses import replace

import polars as pl

from amr_pipeline.report.cost_rows import (
    UNKNOWN,
    category_rows,
    forecast_rows,
    kept_rows,
    outcome_rows,
    spent_rows,
    stage_rows,
    total_of,
    trained_rows,
)
from amr_pipeline.responses.cost import SPENT, Cost, with_cost, with_costs
from amr_pipeline.responses.forecast import Expectation, Forecast, Rate
from amr_pipeline.responses.prices import Prices, TokenPrice
from amr_pipeline.responses.stage_costs import (
    ALL,
    BECAME,
    Costs,
    kept_costs,
    of_responses,
    stage_costs,
    trained_cost,
)

ROWS = [
    ("weak", "math", "stop", True, 3, 30, 300, 3.0, 1800.0, 3600.0, 0.0, 0.0),
    ("weak", "math", "length", True, 1, 10, 700, 1.0, 1800.0, 3600.0, 0.0, 0.0),
    ("weak", "code", "stop", False, 2, 5, 50, 0.0, 0.0, 0.0, 0.0, 0.0),
    ("<b>strong</b>", "math", "looping", True, 1, 5, 10, 1.0, 36.0, 36.0, 0.0, 0.0),
]
SPENT_ROWS = pl.DataFrame(ROWS, schema=SPENT, orient="row")
OUTCOMES = pl.DataFrame(
    [
        ("weak", "math", "fit for subsets", 2, 250),
        ("weak", "math", "failed", 2, 750),
        ("weak", "code", "undecided", 2, 50),
        ("<b>strong</b>", "math", "not judged", 1, 10),
    ],
    schema=BECAME,
    orient="row",
)
LATER = stage_costs(
    [
        (
            "response_quality",
            "weak",
            with_costs({}, {"math": Cost(responses=4, engine_seconds=36.0, gpu_seconds=72.0)}),
        ),
        ("verdicts", "weak", with_costs({}, {"math": Cost(responses=9, engine_seconds=18.0, gpu_seconds=18.0)})),
        ("verdicts", "<b>strong</b>", {}),
        ("checkpoints", "run", with_cost({}, "i", Cost(engine_seconds=3600.0, gpu_seconds=7200.0))),
        ("benchmark_responses", "run", with_costs({}, {"math": Cost(engine_seconds=360.0, gpu_seconds=360.0)})),
    ]
)
STAGES = pl.concat([of_responses(SPENT_ROWS), LATER])
SUBSET = pl.DataFrame({"category": ["math"], "response_tokens": [250]})
PRICED = Prices(gpu_hours={"": 2.0})


def costs(prices: Prices = PRICED, stages: pl.DataFrame = STAGES, spent: pl.DataFrame = SPENT_ROWS) -> Costs:
    return Costs(
        spent=spent,
        outcomes=OUTCOMES,
        stages=stages,
        kept=kept_costs("stage1", ("weak",), spent, stages, SUBSET, prices),
        trained=[trained_cost("run", "stage1", kept=250, trained=500, stages=stages, prices=prices)],
        prices=prices,
    )


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
    assert line(spent_rows(SPENT_ROWS, Prices()), "weak", "math")["money"] == UNKNOWN


def test_behind_a_server_tokens_cost_and_those_that_were_lost_too():
    lost = {"lost_prompt_tokens": pl.lit(60.0), "lost_response_tokens": pl.lit(400.0)}
    far = SPENT_ROWS.filter(pl.col("finish_reason") == "length").with_columns(**lost)
    price = {"weak": TokenPrice(prompts=10_000.0, responses=20_000.0)}
    billed = Prices(tokens=price, servers=frozenset(["weak"]))
    row = line(spent_rows(far, billed), "weak", "math")
    assert row["tokens lost at most"] == 460
    assert row["money"] == f"{(10 + 60) * 0.01 + (700 + 400) * 0.02:.2f}", "and no GPU that is held meanwhile"
    assert line(spent_rows(far, Prices(gpu_hours={"": 1.0}, servers=frozenset(["weak"]))), "weak")["money"] == UNKNOWN


def test_tokens_stand_by_what_was_found_of_them():
    rows = outcome_rows(OUTCOMES)
    every = line(rows, "weak", "all")
    assert (every["tokens, fit for subsets"], every["tokens, failed"], every["tokens, undecided"]) == (250, 750, 50)
    assert every["share fit for subsets"] == "24%"
    assert line(rows, "<b>strong</b>", "math")["share fit for subsets"] == "0%"


def test_stages_add_up_to_everything_and_a_gap_is_unknown_or_a_lower_bound():
    rows = stage_rows(costs())
    written = line(rows, "writing", "weak")
    assert (written["answers"], written["engine-hours"], written["GPU-hours"], written["money"]) == (
        4,
        "1",
        "2",
        "4.00",
    )
    assert line(rows, "judging", "weak")["GPU-hours"] == "0.005"
    assert line(rows, "judging", "<b>strong</b>")["GPU-hours"] == UNKNOWN
    assert line(rows, "judging", ALL)["GPU-hours"] == "0.005"
    assert line(rows, "training", "run")["GPU-hours"] == "2"
    every = line(rows, "everything", ALL)
    seconds = 7236 + 72 + 18 + 7200 + 360
    assert every["GPU-hours"] == f"{seconds / 3600:.3g}"
    assert every["money"] == f"{seconds / 3600 * 2:.2f}"
    assert total_of(costs())["GPU-hours on record"] == every["GPU-hours"]
    assert total_of(costs())["money"] == every["money"]


def test_a_distillers_time_stands_by_category_and_by_what_was_done():
    rows = category_rows(costs())
    math_ = line(rows, "weak", "math")
    assert (math_["GPU-hours, writing"], math_["GPU-hours, perplexity"]) == ("2", "0.02")
    assert (math_["GPU-hours, judging"], math_["GPU-hours, all"]) == ("0.005", "2.02")
    assert math_["money"] == "4.05"
    assert line(rows, "<b>strong</b>", "math")["GPU-hours, judging"] == "0"


def test_a_kept_token_took_all_of_it_and_engines_where_no_gpu_was_held():
    math_ = line(kept_rows(costs()), "stage1", "math")
    assert (math_["written per kept"], math_["tokens kept"]) == ("4.00", 250)
    assert math_["GPU-seconds per 1,000 kept, writing"] == "28,800"
    assert math_["GPU-seconds per 1,000 kept, all"] == "29,160"
    assert math_["money per million kept"] == "16,200"
    assert "GPU-seconds per 1,000 kept, second opinions" not in math_, "there are none"
    code = line(kept_rows(costs()), "stage1", "code")
    assert (code["written per kept"], code["GPU-seconds per 1,000 kept, all"]) == ("none kept", "none kept")
    assert line(kept_rows(costs()), "stage1", ALL)["money per million kept"] == UNKNOWN, "two responses have no record"
    assert line(kept_rows(costs(Prices())), "stage1", "math")["money per million kept"] == UNKNOWN
    no_gpu = {"gpu_seconds": pl.lit(0.0)}
    here = costs(PRICED, STAGES.with_columns(**no_gpu), SPENT_ROWS.with_columns(**no_gpu))
    assert line(kept_rows(here), "stage1", "math")["engine-seconds per 1,000 kept, writing"] == "14,400"
    assert "engine-hours on record" in total_of(here)


def test_a_training_run_stands_beside_what_it_was_trained_on():
    row = line(trained_rows(costs()), "run")
    assert (row["subset"], row["tokens kept"], row["tokens trained on"]) == ("stage1", 250, 500)
    assert (row["GPU-hours, training"], row["GPU-hours, benchmark responses"]) == ("2", "0.1")
    assert (row["GPU-hours, all"], row["money"]) == ("2.1", "4.20")
    assert row["GPU-seconds per 1,000 kept"] == f"{7560 / 250 * 1000:,.0f}"
    assert row["money per million kept"] == "16,800"


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
