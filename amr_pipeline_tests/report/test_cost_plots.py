import pytest

from amr_pipeline.report.cost_plots import kept_bars, token_bars
from amr_pipeline.responses.cost import SPENT
from amr_pipeline_tests.report.test_cost_page import KEPT, SPENT_ROWS
from amr_pipeline_tests.report.test_plots import size_of


@pytest.mark.parametrize("png", [token_bars(SPENT_ROWS), kept_bars(KEPT)], ids=["tokens", "kept"])
def test_pictures_are_drawn(png: bytes):
    width, height = size_of(png)
    assert width > 900
    assert height > 200


def test_more_distillers_make_a_taller_picture_and_nothing_a_small_one():
    one = SPENT_ROWS.filter(SPENT_ROWS["distiller"] == "weak")
    assert size_of(token_bars(one))[1] < size_of(token_bars(SPENT_ROWS))[1]
    assert size_of(token_bars(SPENT.to_frame()))[1] < 200
    assert size_of(kept_bars(KEPT[1:2]))[1] < 200, "a recipe that keeps nothing has no bar"
