"""A forecast from what is stored: owed to the row, lengths and rates from history, nothing guessed."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.forecast import forecast_of, forecast_text
from amr_pipeline.assets.resources import Platform
from amr_pipeline.responses.cost import Cost, with_cost
from amr_pipeline.responses.forecast import Rate
from amr_pipeline.studies.study import StudyError
from amr_pipeline_tests.assets.judged import Stored, instruction_study


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Two shards of 20 queries, four passes each; every stored response has 50 tokens."""
    told = Stored(tmp_path, instruction_study(), num_queries=20)
    for row in told.study.distillers:
        for shard in told.study.shards:
            key = f"{row.name}|{shard}"
            frame = told.store.read("responses", key).with_columns(response_tokens=pl.lit(50, dtype=pl.Int32))
            notes = with_cost({}, row.distiller_fingerprint, Cost(runs=1, response_tokens=4_000, gpu_seconds=40.0))
            told.store.write("responses", key, frame, fingerprints={}, notes=notes)
    return told


def platform(stored: Stored, **variables: str) -> Platform:
    return Platform.of(deployment_from_environment({"AMR_HOME": str(stored.deployment.home), **variables}))


def test_what_is_stored_is_not_owed(stored: Stored):
    (nothing,) = forecast_of(stored.study, stored.platform, stored.study.distiller("strong"))
    assert (nothing.owed, nothing.expected.tokens) == (0, 0.0)


def test_more_passes_owe_their_difference_at_the_length_of_history(stored: Stored):
    more = replace(stored.study, distillers=tuple(replace(row, num_passes=6) for row in stored.study.distillers))
    *_, every = forecast_of(more, platform(stored, AMR_PRICE_PER_GPU_HOUR="1.8"), more.distiller("weak"))
    assert (every.owed, every.expected.tokens) == (2 * 40, 4_000.0)
    assert every.expected.basis == "160 responses of 40 queries"
    assert (every.expected.low, every.expected.high) == (4_000.0, 4_000.0), "all of one length"
    assert every.rate == Rate(tokens_per_gpu_second=100.0, basis="measured")
    assert (every.gpu_seconds, every.money) == (40.0, 0.02)


def test_parts_of_an_unfinished_version_are_not_owed(stored: Stored):
    more = replace(stored.study, distillers=tuple(replace(row, num_passes=6) for row in stored.study.distillers))
    fresh = (
        stored.store.read("responses", "weak|00")
        .head(3)
        .with_columns(response_id=pl.concat_str(pl.lit("x"), "response_id"), pass_index=pl.lit(5, dtype=pl.Int32))
    )
    writer = stored.store.writer("responses", "weak|00", fingerprints={})
    writer.append(fresh.unique("query_id"))
    writer.commit_part()
    *_, every = forecast_of(more, stored.platform, more.distiller("weak"))
    assert every.owed == 2 * 40 - fresh["query_id"].n_unique()


def test_another_distiller_has_no_history_and_takes_the_deployments_rate(stored: Stored):
    fresh = replace(stored.study.distiller("strong"), name="fresh", revision="2")
    study = replace(stored.study, distillers=(*stored.study.distillers, fresh))
    set_here = platform(stored, AMR_TOKENS_PER_GPU_SECOND="20,strong=5")
    *_, every = forecast_of(study, set_here, fresh)
    assert (every.owed, every.expected.tokens, every.expected.high) == (160, 8_000.0, None)
    assert every.expected.basis == "declared, no interval"
    assert every.rate == Rate(tokens_per_gpu_second=20.0, basis="set")
    assert (every.gpu_seconds, every.money) == (400.0, None)
    named = platform(stored, AMR_TOKENS_PER_GPU_SECOND="20,fresh=5")
    assert forecast_of(study, named, fresh)[-1].gpu_seconds == 1600.0
    assert forecast_of(study, stored.platform, fresh)[-1].gpu_seconds is None


def test_a_changed_row_is_another_distiller(stored: Stored):
    changed = replace(stored.study.distiller("strong"), revision="2")
    study = replace(stored.study, distillers=(stored.study.distiller("weak"), changed))
    *_, every = forecast_of(study, stored.platform, changed)
    assert every.owed == 160
    assert every.rate is None, "the former model's rate is not this one's"


def test_the_text_says_what_is_missing_and_refuses_strangers(stored: Stored):
    study = replace(stored.study, num_shards=4)
    said = forecast_text(study, platform(stored, AMR_BUDGET_TOKENS="1000"), ["weak"])
    assert "2 of 4 shards have no queries yet" in said
    assert "unknown where nothing says what a GPU-hour costs: AMR_PRICE_PER_GPU_HOUR" in said
    assert "The budget of one run is 1,000 tokens" in said
    assert "strong" not in said
    assert "strong" in forecast_text(stored.study, stored.platform)
    with pytest.raises(StudyError, match="no distiller nobody"):
        forecast_text(stored.study, stored.platform, ["nobody"])
