"""Responses and what reads them: what is missing stays owed, what was edited is another response."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import dagster as dg
import polars as pl
import pytest

from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.materialization import AFTER_RESPONSES, ORDER, materialize_owed
from amr_pipeline.assets.overview import status_table
from amr_pipeline.assets.resources import Platform
from amr_pipeline.responses.budget import Budget
from amr_pipeline.responses.cost import noted_cost
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.studies.study import Distiller
from amr_pipeline_tests.assets.imported_world import ImportedWorld
from amr_pipeline_tests.assets.judged import Stored, instruction_study

KEY = "one|00"


def test_a_pass_that_the_file_lacks_stays_owed_and_is_taken_when_it_comes(world: ImportedWorld):
    world.answer("one", {"Who first?": ["a"], "Who second?": ["c", "d"], "Who third?": ["e, f", "g"]})
    world.materialize()
    assert world.store.read("responses", KEY).height == 5
    assert world.owed("responses") == [KEY]
    with world.session() as session:
        lines = status_table(world.study, session.platform).splitlines()
    (line,) = (line for line in lines if line.startswith("responses"))
    assert line.split()[-2:] == ["1", "1"]
    assert world.materialize() == {"responses": 1}, "asked again, and nothing follows from no news"


def test_an_edited_file_of_responses_is_owed_and_what_was_corrected_is_another_response(finished: ImportedWorld):
    before = finished.store.read("responses", KEY)
    finished.answer("one", {"Who first?": ["a", "z"], "Who second?": ["c", "d"], "Who third?": ["e, f", "g"]})
    assert finished.owed("responses") == [KEY]
    finished.materialize()
    after = finished.store.read("responses", KEY)
    assert set(before["response_id"]) <= set(after["response_id"]), "the ledger keeps what was paid for"
    fresh = after.join(before, on="response_id", how="anti")
    assert sorted(fresh["text"]) == ["a", "c", "d", "e, f", "g", "z"]
    rates = finished.store.read("difficulty", "00").filter(pl.col("distiller") == "one")["pass_rate"]
    assert sorted(rates) == [0.5, 1.0, 1.0]


def test_an_edited_file_of_queries_is_owed(finished: ImportedWorld):
    assert finished.owed("raw_queries") == []
    finished.ask("Who first?", "Who second?", "Who fourth?")
    assert finished.owed("raw_queries") == ["s"]
    finished.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    assert finished.store.read("queries", "00").height == 3


def test_dead_responses_make_no_ngram_frequent(world: ImportedWorld):
    world.change("highest_perplexity=None", "highest_perplexity=None, ngram_tokens=2, ngram_occurrences=2")
    world.answer("one", {"Who first?": ["same words", "x same words"], "Who second?": ["same words y", "z"]})
    world.materialize(assets=AFTER_RESPONSES[:2] + ORDER[:4])
    assert world.store.read("frequent_ngrams", "all")["ngram"].to_list() == ["same words"]
    world.answer("one", {"Who first?": ["same words", "x same words"], "Who second?": ["y", "z"]})
    world.materialize(assets=AFTER_RESPONSES[:2] + ORDER[:4])
    assert world.store.read("frequent_ngrams", "all").is_empty(), "the corrected response is not seen any more"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """Two distillers of four passes owe one more each, 12 in all; a stub writes ten tokens a response at once."""

    def write(_: Platform, row: Distiller, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedResponse]:
        for request in requests:
            yield GeneratedResponse(
                response_id=request.response_id,
                text="One, two",
                finish_reason="stop",
                prompt_tokens=1,
                response_tokens=10,
                engine="stub 1",
            )

    monkeypatch.setattr(Platform, "generate", write)
    monkeypatch.setattr(Platform, "gpus_held", lambda _, row: 2.0)
    told = Stored(tmp_path, instruction_study())
    more = tuple(replace(row, num_passes=5) for row in told.study.distillers)
    told.study = replace(told.study, distillers=tuple(replace(row, mean_response_tokens=10) for row in more))
    return told


def walk(stored: Stored, budget: str | None, *assets: str) -> tuple[list[str], list[str], dict[str, Any]]:
    """What ran, what was said, and the checks of responses with their metadata."""
    variables = {"AMR_HOME": str(stored.deployment.home), "AMR_MAX_ENGINES": "1"}
    deployment = deployment_from_environment(variables | ({"AMR_BUDGET_TOKENS": budget} if budget else {}))
    definitions, said = assemble(deployment, stored.study), []
    with dg.DagsterInstance.ephemeral() as instance:
        walked = materialize_owed(
            definitions, stored.study, Platform.of(deployment), instance, assets=assets, say=said.append
        )
        logs = [
            entry
            for run in instance.get_runs()
            for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        ]
    checks = [cast(Any, entry.dagster_event).asset_check_evaluation_data for entry in logs]
    return [turn.asset for turn in walked if turn.partitions], said, {check.check_name: check for check in checks}


def test_a_budget_ends_the_run_and_the_walk_without_an_error(asked: Stored):
    ran, said, checks = walk(asked, "30", "responses", "frequent_ngrams")
    assert ran == ["responses"], "what follows would judge and train on a part"
    assert "budget reached" in said[-1]
    check = checks["the_budget_left_nothing_owed"]
    assert not check.passed
    assert check.metadata["budget"].value == "spent 30 of 30 tokens (0 left)"
    assert check.metadata["owed"].value == 12 - 3
    assert not checks["every_expected_response_is_present"].passed
    assert (
        sum(
            asked.store.read("responses", f"{name}|{shard}").height
            for name in ("weak", "strong")
            for shard in asked.study.shards
        )
        == 48 + 3
    )

    ran, _, checks = walk(asked, "100", "responses", "frequent_ngrams")
    assert ran == ["responses", "frequent_ngrams"], "what was left is within this one"
    assert checks["the_budget_left_nothing_owed"].passed
    assert checks["every_expected_response_is_present"].passed
    row = asked.study.distiller("weak")
    commits = [asked.store.latest("responses", f"weak|{shard}") for shard in asked.study.shards]
    costs = [noted_cost(commit.notes, row.distiller_fingerprint) for commit in commits if commit]
    assert sum(cost.responses for cost in costs) == 6, "both runs are on the records"
    assert all(cost.gpu_seconds == 2 * cost.engine_seconds > 0 for cost in costs)


def test_no_engine_is_asked_once_the_budget_is_spent(asked: Stored, monkeypatch: pytest.MonkeyPatch):
    started: list[str] = []
    write = Platform.generate
    monkeypatch.setattr(
        Platform, "generate", lambda self, row, requests: started.append(row.name) or write(self, row, requests)
    )
    walk(asked, "10", "responses")
    assert len(started) == 1


def test_responses_that_exist_already_are_within_every_budget(world: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Platform, "budget", lambda _: Budget(tokens=1))
    world.materialize(assets=ORDER[:5])
    assert world.owed("responses") == []
