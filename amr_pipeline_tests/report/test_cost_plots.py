import polars as pl
import pytest

from amr_pipeline.report.cost_plots import kept_bars, outcome_bars, stage_bars, token_bars
from amr_pipeline.responses.cost import SPENT
from amr_pipeline_tests.report.test_cost_page import NOTHING
from amr_pipeline_tests.report.test_cost_rows import OUTCOMES, SPENT_ROWS, STAGES, costs
from amr_pipeline_tests.report.test_plots import size_of

ALL = costs()


@pytest.mark.parametrize(
    "png",
    [token_bars(SPENT_ROWS), outcome_bars(OUTCOMES), stage_bars(ALL), kept_bars(ALL.kept)],
    ids=["tokens", "outcomes", "stages", "kept"],
)
def test_pictures_are_drawn(png: bytes):
    width, height = size_of(png)
    assert width > 900
    assert height > 200


def test_more_distillers_make_a_taller_picture_and_nothing_a_small_one():
    one = SPENT_ROWS.filter(SPENT_ROWS["distiller"] == "weak")
    assert size_of(token_bars(one))[1] < size_of(token_bars(SPENT_ROWS))[1]
    assert size_of(token_bars(SPENT.to_frame()))[1] < 200
    nothing = [one for one in ALL.kept if not one.kept]
    assert nothing
    assert size_of(kept_bars(nothing))[1] < 200, "a recipe that keeps nothing has no bar"
    assert size_of(stage_bars(NOTHING))[1] < 200
    assert size_of(outcome_bars(NOTHING.outcomes))[1] < 200


def test_a_stage_without_time_has_no_bar():
    two = costs(stages=STAGES.filter(pl.col("stage").is_in(["responses", "verdicts"])))
    assert size_of(stage_bars(two))[1] < size_of(stage_bars(ALL))[1]
