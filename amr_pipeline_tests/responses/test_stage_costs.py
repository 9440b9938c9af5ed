"""What every stage took, and what a kept token took through all of them, by numbers worked out by hand."""

from dataclasses import replace

import polars as pl
import pytest

from amr_pipeline.responses.cost import SPENT, Cost, with_cost, with_costs
from amr_pipeline.responses.prices import Prices, TokenPrice
from amr_pipeline.responses.stage_costs import (
    ALL,
    STAGE_COSTS,
    Costs,
    KeptCost,
    Took,
    add_up_outcomes,
    became,
    kept_costs,
    of_responses,
    stage_costs,
    took,
    trained_cost,
)

NAMES = list(SPENT)


def spent(*told: tuple[object, ...]) -> pl.DataFrame:
    """Distiller, category, finish reason, responses, tokens, responses with a record, GPU-seconds; half of it engines'."""
    rows = [
        (distiller, category, reason, True, number, 2, tokens, recorded, seconds / 2, seconds, 0.0, 0.0)
        for distiller, category, reason, number, tokens, recorded, seconds in told
    ]  # type: ignore[misc]
    return pl.DataFrame(rows, schema=SPENT, orient="row")


SPENT_ROWS = spent(
    ("weak", "math", "stop", 3, 90, 3.0, 60.0),
    ("weak", "math", "length", 1, 60, 1.0, 40.0),
    ("weak", "code", "stop", 1, 9, 1.0, 8.0),
    ("other", "math", "stop", 9, 999, 9.0, 999.0),
)


def judged(science: float) -> dict[str, object]:
    return with_costs({}, {"math": Cost(runs=1, responses=7, engine_seconds=science, gpu_seconds=2 * science)})


LATER = stage_costs(
    [
        ("verdicts", "weak", judged(10.0)),
        ("verdicts", "weak", judged(5.0)),
        ("verdicts", "other", judged(100.0)),
        ("response_quality", "weak", with_costs({}, {"code": Cost(runs=1, responses=1, engine_seconds=3.0)})),
        ("second_opinions", "stage1", with_costs({}, {})),
    ]
)
STAGES = pl.concat([of_responses(SPENT_ROWS), LATER])
SUBSET = pl.DataFrame({"category": ["math"], "response_tokens": [30]}, schema_overrides={"response_tokens": pl.Int32})
PRICED = Prices(gpu_hours={"": 36.0})


def test_partitions_add_up_by_stage_name_and_category():
    found = {row[:3]: row[3:] for row in LATER.iter_rows()}
    assert found["verdicts", "weak", "math"] == (14.0, 15.0, 30.0, True)
    assert found["response_quality", "weak", "code"] == (1.0, 3.0, 0.0, True)
    assert ("second_opinions", "stage1", ALL) not in found, "no model was asked, which is known"
    assert stage_costs([]).schema == STAGE_COSTS


def test_training_runs_add_up_whatever_their_identity_and_no_record_is_said():
    notes = with_cost(with_cost({}, "identity 1", Cost(engine_seconds=2.0)), "identity 2", Cost(engine_seconds=3.0))
    found = stage_costs([("checkpoints", "run", notes), ("checkpoints", "old", {"other": 1})])
    assert [row[:2] + row[4:] for row in found.drop("category").iter_rows()] == [
        ("checkpoints", "old", 0.0, False),
        ("checkpoints", "run", 0.0, True),
    ]
    assert found.filter(pl.col("name") == "run")["engine_seconds"].item() == 5.0
    assert found["category"].to_list() == [ALL, ALL]


def test_a_part_of_the_responses_on_record_is_no_record_of_all():
    halves = spent(("weak", "math", "stop", 1, 9, 0.8, 1.0), ("weak", "math", "length", 4, 9, 3.2, 1.0))
    assert of_responses(halves)["is_recorded"].to_list() == [False]
    thirds = spent(("weak", "math", "stop", 3, 9, 0.1 + 0.2 + 2.7, 1.0))
    assert of_responses(thirds)["is_recorded"].to_list() == [True]


def test_a_kept_token_bears_all_that_was_done_for_it():
    code, math, every = kept_costs("stage1", ("weak",), SPENT_ROWS, STAGES, SUBSET, PRICED)
    assert (math.written, math.kept, math.written_per_kept) == (150, 30, 5.0)
    assert math.stages["responses"] == Took(engine_seconds=50.0, gpu_seconds=100.0, money=1.0)
    assert math.stages["verdicts"] == Took(engine_seconds=15.0, gpu_seconds=30.0, money=pytest.approx(0.3))
    assert math.total == Took(engine_seconds=65.0, gpu_seconds=130.0, money=pytest.approx(1.3))
    assert (code.written, code.kept, code.written_per_kept) == (9, 0, None)
    assert code.stages["response_quality"] == Took(engine_seconds=3.0, gpu_seconds=0.0, money=0.0)
    assert (every.category, every.written, every.kept) == (ALL, 159, 30)
    assert every.total == Took(engine_seconds=72.0, gpu_seconds=138.0, money=pytest.approx(1.38))
    assert kept_costs("stage1", ("weak",), SPENT_ROWS, STAGES, SUBSET, Prices())[-1].total.money is None


def test_a_partition_without_a_record_leaves_its_stage_unknown_in_every_category():
    gap = stage_costs([("verdicts", "weak", {})])
    stages = pl.concat([STAGES, gap])
    for one in kept_costs("stage1", ("weak",), SPENT_ROWS, stages, SUBSET, PRICED):
        assert one.stages["verdicts"].gpu_seconds is None
        assert one.stages["responses"].gpu_seconds is not None
        assert one.total == Took(engine_seconds=None, gpu_seconds=None, money=None)
    (*_, others) = kept_costs("stage2", ("other",), SPENT_ROWS, stages, SUBSET, PRICED)
    assert others.total.gpu_seconds == 999.0 + 200.0


def test_what_a_server_bills_and_what_judges_take_add_up():
    prices = Prices(
        gpu_hours={"": 36.0}, tokens={"weak": TokenPrice(prompts=0.0, responses=1e6)}, servers=frozenset(["weak"])
    )
    (*_, every) = kept_costs("stage1", ("weak",), SPENT_ROWS, STAGES, SUBSET, prices)
    assert every.total.money == pytest.approx(159 + 0.3)


def test_a_training_run_bears_its_measuring():
    noted = [
        ("checkpoints", "run", with_cost({}, "i", Cost(engine_seconds=100.0, gpu_seconds=800.0))),
        ("benchmark_responses", "run", with_costs({}, {"math": Cost(engine_seconds=10.0, gpu_seconds=10.0)})),
        ("benchmark_scores", "run", with_costs({}, {})),
        ("checkpoints", "another", with_cost({}, "i", Cost(engine_seconds=1e6, gpu_seconds=1e6))),
    ]
    found = trained_cost("run", "stage1", kept=30, trained=120, stages=stage_costs(noted), prices=PRICED)
    assert found.stages["checkpoints"].gpu_seconds == 800.0
    assert found.stages["benchmark_scores"] == Took(engine_seconds=0.0, gpu_seconds=0.0, money=0.0)
    assert found.total == Took(engine_seconds=110.0, gpu_seconds=810.0, money=pytest.approx(8.1))


def test_tokens_are_known_by_what_was_found_of_them():
    quality = pl.DataFrame(
        {
            "response_id": list("abcdef"),
            "category": ["math"] * 5 + ["code"],
            "response_tokens": [1, 2, 4, 8, 16, 32],
            "quality_reason": [None, "perplexity", None, "perplexity", None, None],
        }
    )
    verdicts = pl.DataFrame(
        {"response_id": list("abcde"), "verdict": ["passed", "passed", "failed", "failed", "undecided"]}
    )
    found = became("weak", quality, verdicts)
    assert {row[1:3]: row[4] for row in found.iter_rows()} == {
        ("math", "fit for subsets"): 1,
        ("math", "rejected for quality"): 2,
        ("math", "failed"): 12,
        ("math", "undecided"): 16,
        ("code", "not judged"): 32,
    }
    twice = add_up_outcomes(pl.concat([found, found]))
    assert twice["tokens"].sum() == 2 * 63
    assert twice.height == found.height


def test_the_report_knows_whether_it_is_whole_and_has_gpus():
    kept = list[KeptCost]()
    costs = Costs(
        spent=SPENT_ROWS, outcomes=became("weak", *empty()), stages=STAGES, kept=kept, trained=[], prices=PRICED
    )
    assert costs.is_whole
    assert costs.has_gpus
    assert not replace(costs, stages=pl.concat([STAGES, stage_costs([("verdicts", "weak", {})])])).is_whole
    assert not replace(costs, stages=STAGES.with_columns(gpu_seconds=pl.lit(0.0))).has_gpus
    assert took(STAGES.clear(), PRICED) == Took(engine_seconds=0.0, gpu_seconds=0.0, money=0.0)


def empty() -> tuple[pl.DataFrame, pl.DataFrame]:
    quality = {
        "response_id": pl.String,
        "category": pl.String,
        "response_tokens": pl.Int32,
        "quality_reason": pl.String,
    }
    return pl.DataFrame(schema=quality), pl.DataFrame(schema={"response_id": pl.String, "verdict": pl.String})
