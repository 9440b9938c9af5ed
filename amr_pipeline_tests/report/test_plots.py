"""Pictures are PNGs that show the numbers given, whatever the numbers are."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.categories import Category
from amr_pipeline.difficulty import difficulty
from amr_pipeline.report import plots
from amr_pipeline_tests.verdict_rows import NOW, query, verdicts


def grades(**by_category: list) -> pl.DataFrame:
    rows = pl.concat([verdicts(scores, Category(name)) for name, scores in by_category.items()])
    return difficulty(rows.lazy(), fingerprints=[NOW], num_shards=4).collect()


MIXED = grades(
    math=[(query(index), name, [1, 0, index % 2, 1]) for index in range(9) for name in ("weak", "strong")],
    conversation=[(query(50 + index), "strong", [0.2 * (index % 5), 0.7, None, 0.9]) for index in range(9)],
)
NOTHING_DECIDED = grades(math=[(query(0), "weak", [None, None])])
EMPTY = tables.DIFFICULTY.empty()
ODD_NAMES = MIXED.with_columns(distiller=pl.col("distiller").replace("weak", "a$b_{c}^\\frac"))


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, after checking signature and checksums of the chunks."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    place = 8
    while place < len(png):
        length = struct.unpack(">I", png[place : place + 4])[0]
        chunk = png[place + 4 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length])[0] == zlib.crc32(chunk)
        place += 12 + length
    width, height = struct.unpack(">II", png[16:24])
    return width, height


OF_DIFFICULTY = [plots.pass_rate_bars, plots.tier_bars, plots.pass_rate_distribution, plots.variation_scatter]


@pytest.mark.parametrize("draw", OF_DIFFICULTY)
@pytest.mark.parametrize(
    "frame", [MIXED, NOTHING_DECIDED, EMPTY, ODD_NAMES], ids=["mixed", "undecided", "empty", "odd"]
)
def test_difficulty_is_drawn_whatever_there_is(draw, frame):
    width, height = size_of(draw(frame))
    assert width > 400
    assert height > 100


def test_equal_numbers_give_equal_pictures_and_others_do_not():
    assert plots.pass_rate_bars(MIXED) == plots.pass_rate_bars(MIXED.reverse())
    assert plots.pass_rate_bars(MIXED) != plots.pass_rate_bars(MIXED.filter(pl.col("category") == "math"))


@pytest.mark.parametrize(
    "counts",
    [{}, {"none": 0}, {"one reason": 1}, {"a$reason_with {math}": 3, "a long reason " * 12: 2, "rare": 100_000}],
)
def test_counts_are_drawn(counts):
    assert size_of(plots.count_bars(counts, "queries dropped"))[0] > 400


def test_more_reasons_make_a_taller_picture():
    few, many = ({f"reason {index}": 1 for index in range(number)} for number in (5, 15))
    assert size_of(plots.count_bars(many, "rows"))[1] > size_of(plots.count_bars(few, "rows"))[1]


POINT = {"learning_rate": 8e-5, "mean": 0.5, "low": 0.4, "high": 0.6}


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [POINT],
        [POINT, POINT | {"learning_rate": 8e-6, "mean": 0.0, "low": 0.0, "high": 0.0}],
        [POINT, {"learning_rate": 1e-3, "mean": None, "low": None, "high": None}],
    ],
)
def test_a_sweep_is_drawn_with_any_number_of_scores(rows):
    size_of(plots.sweep_curve(rows, "AIME_2024$"))


def test_runs_without_a_score_leave_a_sweep_as_it_is():
    without = {"learning_rate": 1.0, "mean": None, "low": None, "high": None}
    assert plots.sweep_curve([POINT], "exam") == plots.sweep_curve([POINT, without], "exam")


CURVE = [{"step": step, "loss": 5 / (1 + step)} for step in range(40)]


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"a": []},
        {"a": [{"step": 1, "loss": float("nan")}]},
        {"a": CURVE, "diverged": [*CURVE[:5], {"step": 6, "loss": float("inf")}, {"step": 7, "loss": 4e4}]},
        {f"run_{index}": CURVE for index in range(20)},
    ],
)
def test_loss_curves_are_drawn_even_where_a_run_diverged(curves):
    size_of(plots.loss_curves(curves))


def test_smoothing_keeps_a_constant_and_the_number_of_points():
    assert plots._smoothed([2.0] * 30) == [2.0] * 30
    noisy = np.random.default_rng(0).normal(size=200).tolist()
    assert len(plots._smoothed(noisy)) == 200
    assert np.std(plots._smoothed(noisy)) < np.std(noisy)


@pytest.mark.parametrize(
    ("rate", "text"), [(8e-5, "8e-5"), (1.5e-4, "1.5e-4"), (0.03, "3e-2"), (1e-3, "1e-3"), (0.5, "5e-1")]
)
def test_learning_rates_are_written_as_in_rows(rate, text):
    assert plots._scientific(rate) == text


@pytest.mark.parametrize(("share", "text"), [(0.004, "<1%"), (0.006, "1%"), (1.0, "100%")])
def test_a_small_share_does_not_round_to_nothing(share, text):
    assert plots._share(share) == text


def test_definitions_load_without_matplotlib():
    program = (
        "import sys; import amr_pipeline.report.plots, amr_pipeline.report.pages, amr_pipeline.report.card; "
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
