"""The cost report of a small stored study, by numbers worked out by hand."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from amr_pipeline.assets.costs import report, spent_on
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.resources import Platform
from amr_pipeline.responses.cost import Cost, with_cost, with_costs
from amr_pipeline_tests.assets.conftest import undone
from amr_pipeline_tests.assets.judged import Stored, instruction_study

WALK = ("frequent_ngrams", "response_quality", "verdicts", "difficulty", "subsets", "cost_report")


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Six queries; passes of 10, 20, 30 and 40 tokens, the third cut off; the first and the fourth pass.

    Of the strong distiller every shard has a record of 150 GPU-seconds.
    """
    told = Stored(tmp_path_factory.mktemp("costs"), instruction_study())
    for row in told.study.distillers:
        for shard in told.study.shards:
            key, place = f"{row.name}|{shard}", pl.col("pass_index")
            frame = told.store.read("responses", key).with_columns(
                response_tokens=(10 * (place + 1)).cast(pl.Int32),
                finish_reason=pl.when(place == 2).then(pl.lit("length")).otherwise(pl.lit("stop")),
            )
            took = Cost(runs=1, responses=12, response_tokens=300, engine_seconds=75.0, gpu_seconds=150.0)
            notes = with_cost({}, row.distiller_fingerprint, took) if row.name == "strong" else {}
            told.store.write("responses", key, frame, fingerprints={}, notes=notes)
    told.walk(WALK)
    return told


@pytest.fixture
def stored(walked: Stored) -> Iterator[Stored]:
    with undone(walked.deployment.home):
        yield walked


def numbers(stored: Stored, environment: dict[str, str]) -> dict[str, str]:
    home = str(Path(stored.deployment.home))
    platform = Platform.of(deployment_from_environment({"AMR_HOME": home, **environment}))
    metadata = report(stored.study, platform).metadata or {}
    return {name: str(getattr(value, "value", value)) for name, value in metadata.items()}


def cells(table: str, *named: str) -> list[str]:
    (found,) = (line for line in table.splitlines() if line.startswith("| " + " | ".join(named) + " |"))
    return [cell.strip() for cell in found.strip("| ").split("|")]


def test_a_kept_token_costs_what_was_written_for_it(stored: Stored):
    said = numbers(stored, {"AMR_PRICE_PER_GPU_HOUR": "3.6"})
    kept = said["What a kept token took, numbers"]
    # Six queries x 100 tokens written; of each the passes of 10 and 40 are kept; 300 GPU-seconds at 0.001 a second.
    assert cells(kept, "stage1", "all") == ["stage1", "all", "600", "300", "2.00", "1,000", "0", "0", "1,000", "1,000"]
    spent = said["Tokens by how responses ended, numbers"]
    strong = cells(spent, "strong", "instruction_following")
    assert strong[2:8] == ["24", "24", "420", "180", "0", "0"]
    assert strong[8:] == ["0", "0", "100%", "0.0417", "0.0833", "0.30"]
    weak = cells(spent, "weak", "instruction_following")
    assert weak[10:] == ["0%", "unknown", "unknown", "unknown"], "no record is said, not guessed"
    assert said["response tokens"] == "1200"
    page = stored.store.files.read("reports/cost_report.html").decode()
    assert "lower bounds" in page


def test_tokens_are_followed_to_what_was_found_of_them(stored: Stored):
    became = cells(numbers(stored, {})["What became of the tokens, numbers"], "strong", "instruction_following")
    # Passes of 10 and 40 tokens pass; that of 30 has a comma, and that of 20 passes only where it is read loosely.
    assert became[2:] == ["300", "0", "300", "0", "0", "50%"]


def test_what_a_judge_took_stands_beside_what_it_judged(stored: Stored):
    shards = stored.study.shards
    for shard in shards:
        rows, found = (
            stored.store.read("verdicts", f"strong|{shard}"),
            stored.store.latest("verdicts", f"strong|{shard}"),
        )
        assert found is not None
        took = {"instruction_following": Cost(runs=1, responses=12, engine_seconds=30.0, gpu_seconds=60.0)}
        notes = with_costs(found.notes, took)
        fingerprints = found.fingerprints | {"code": "another"}
        stored.store.write("verdicts", f"strong|{shard}", rows, fingerprints=fingerprints, notes=notes)
    said = numbers(stored, {"AMR_PRICE_PER_GPU_HOUR": "3.6"})
    assert cells(said["Time and money by stage, numbers"], "judging", "strong") == [
        *("judging", "strong", "24", "0.0167", "0.0333", "0.12"),
    ]
    by_category = cells(said["Time by distiller and category, numbers"], "strong", "instruction_following")
    assert by_category[2:] == ["0.0833", "0", "0.0333", "0.117", "0.42"]
    kept = cells(said["What a kept token took, numbers"], "stage1", "all")
    assert kept[5:] == ["1,000", "0", "400", "1,400", "1,400"], "120 GPU-seconds on top of 300"


def test_without_a_price_money_is_unknown(stored: Stored):
    said = numbers(stored, {})
    assert cells(said["What a kept token took, numbers"], "stage1", "all")[-1] == "unknown"
    assert cells(said["What a kept token took, numbers"], "stage1", "all")[-2] == "1,000"


def test_what_is_no_longer_expected_was_paid_for_too(stored: Stored):
    first = stored.study.shards[0]
    stored.store.write("queries", first, stored.store.read("queries", first).head(2), fingerprints={})
    fewer = replace(stored.study, distillers=tuple(replace(row, num_passes=3) for row in stored.study.distillers))
    spent = spent_on(fewer, stored.store).filter(pl.col("distiller") == "strong")
    assert spent["response_tokens"].sum() == 600
    # A dropped query is 100 tokens, the fourth pass of the other five 40 each.
    assert spent.filter(~pl.col("is_expected"))["response_tokens"].sum() == 300
    assert spent["gpu_seconds"].sum() == pytest.approx(300.0)


def test_the_report_is_owed_again_when_responses_or_subsets_change(stored: Stored):
    assert stored.walk(WALK) == []
    key = "strong|00"
    longer = stored.store.read("responses", key).with_columns(response_tokens=pl.lit(1000, dtype=pl.Int32))
    stored.store.write("responses", key, longer, fingerprints={})
    assert "cost_report" in stored.walk(("cost_report",))
    assert stored.walk(("cost_report",)) == []
