"""The micro world is what its study says: distillers apart, a judge that agrees, weights of a few megabytes, a sweep
whose best rate is neither the usual one nor the highest. Figures are those that the commands which make them stored.
"""

import json
from itertools import pairwise
from pathlib import Path

import pytest

import amr_pipeline
from amr_pipeline.categories import Category
from amr_pipeline.studies.micro import LEARNING_RATES, STUDY, SWEEP
from amr_pipeline.tables import TIERS

WEIGHTS = Path(amr_pipeline.__file__).parent / "studies" / "micro_weights"
MEASURED = json.loads((WEIGHTS / "measured.json").read_text())
"""Written by `amr make-micro-weights`."""
DEMO = json.loads((WEIGHTS.parent.parent.parent / "benchmarks" / "results" / "demo.json").read_text())
"""Written by `python -m benchmarks.demo FILE`."""


@pytest.mark.parametrize(
    "rates",
    [{row.name: MEASURED[row.name]["pass rate"] for row in STUDY.distillers}, DEMO["pass_rate"]],
    ids=["when they were made", "in the demo"],
)
def test_distillers_are_visibly_apart_in_most_categories(rates: dict[str, dict[str, float]]):
    assert list(rates) == ["weak", "middle", "strong"]
    assert all(set(row) == set(map(str, Category)) for row in rates.values())
    apart = [
        category
        for category in map(str, Category)
        if all(rates[better][category] - rates[worse][category] >= 0.15 for worse, better in pairwise(rates))
    ]
    assert len(apart) >= 3, rates


def test_queries_of_the_demo_are_in_every_tier():
    assert {tier: count > 0 for tier, count in DEMO["queries"].items() if tier != "undecided"} == {
        tier: True for tier in TIERS if tier != "undecided"
    }


def test_the_judge_agrees_with_the_truth_and_its_agreement_is_recorded():
    assert MEASURED["judge agreement"] >= 0.95


def test_weights_are_at_most_eight_megabytes_together():
    folders = {"weak", "middle", "strong", "base", "judge"}
    assert {path.name for path in WEIGHTS.iterdir() if path.is_dir()} == folders
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 8_000_000


def test_the_sweep_goes_from_the_usual_rate_to_one_that_is_too_high():
    rates = [recipe.learning_rate for recipe in SWEEP]
    assert len(rates) >= 5
    assert rates == sorted(rates) == list(LEARNING_RATES.values())
    assert rates[0] == pytest.approx(8e-6)


def test_the_best_rate_of_the_sweep_lies_inside_it():
    found = {row["learning_rate"]: row for row in DEMO["sweep"] if row["sweep"] == SWEEP[0].sweep}
    assert sorted(found) == [recipe.learning_rate for recipe in SWEEP]
    best = max(found.values(), key=lambda row: row["mean"])
    lowest, highest = found[SWEEP[0].learning_rate], found[SWEEP[-1].learning_rate]
    assert best["low"] > max(lowest["high"], highest["high"]), "intervals do not even touch"
