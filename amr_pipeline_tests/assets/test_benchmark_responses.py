"""Benchmark responses are paid for once, whatever is killed or changed; engines are stood in for."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.assets import engine_times, evaluation, verdicts
from amr_pipeline.assets.benchmark_responses import Answering, ResponsesOwedError
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.engine_times import EngineTimes
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.publication import Publication
from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines.commits import CommitConflict
from amr_pipeline.responses import progress
from amr_pipeline.responses.cost import EngineTime, noted_costs
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.studies.micro import STUDY as MICRO
from amr_pipeline.studies.micro import SWEEP
from amr_pipeline.studies.study import (
    InstructionVerifier,
    JudgeModel,
    PromptSuffix,
    ScienceVerifier,
    Scorer,
    Study,
    TrainingRecipe,
)
from amr_pipeline.verdicts.verifier import JudgeReply, JudgeRequest
from amr_pipeline_tests.trained_on import SUBSET

RECIPE = SWEEP[0]
NUM_PROBLEMS, NUM_SAMPLES = 5, 4
STUDY = replace(
    MICRO,
    benchmarks=tuple(replace(row, num_samples=NUM_SAMPLES) for row in MICRO.benchmarks),
    verifiers=(InstructionVerifier(),),
    training_recipes=(RECIPE,),
)


class Engine:
    """`Platform.write_with_checkpoint`: counts what it writes and dies after so many answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.seeds: list[int] = []
        self.dies_after: int | None = None

    def write(
        self, origin: TrainingRecipe, weights: Path, sampling: object, requests: Iterable[GenerationRequest]
    ) -> Iterator[GeneratedResponse]:
        for number, request in enumerate(requests):
            if number == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(request.response_id)
            self.seeds.append(request.seed)
            yield GeneratedResponse(
                response_id=request.response_id,
                text="in lower case" if number % 2 else "IN CAPITALS",
                finish_reason="stop",
                prompt_tokens=9,
                response_tokens=3,
                engine="e",
            )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    stand_in = Engine()
    monkeypatch.setattr(Platform, "write_with_checkpoint", lambda _, *arguments: stand_in.write(*arguments))
    monkeypatch.setattr(Platform, "checkpoint", lambda _, row: Path(row["path"]))
    return stand_in


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    opened = Platform.of(deployment_from_environment({"AMR_HOME": str(tmp_path)}))
    problems = {"benchmark": "held_out", "query_id": [f"q{row}" for row in range(NUM_PROBLEMS)]}
    problems |= {
        "category": "instruction_following",
        "messages": [[{"role": "user", "content": "Write."}]] * NUM_PROBLEMS,
    }
    problems |= {"source_row": "0", "licence": "MIT"}
    problems |= {"constraints": '[{"id": "change_case:english_lowercase", "kwargs": {}}]'}
    _write(opened, tables.BENCHMARK_QUERIES, "held_out", problems)
    _checkpoint(opened, "first weights")
    return opened


def _write(platform: Platform, table: tables.Table, partition: str, columns: dict[str, Any]) -> None:
    absent = {name: None for name in table.schema if name not in columns}
    platform.tables().write(table.name, partition, pl.DataFrame(columns | absent), fingerprints={})


def _checkpoint(platform: Platform, digest: str) -> None:
    run = platform.tracking(STUDY.name).record_training(RECIPE, identity=digest, subset=SUBSET, tags={}, curve=[])
    row = {"training_recipe": [RECIPE.name], "path": "training/x", "digest": digest, "mlflow_run_id": run}
    row |= {"subset_version": 1, "subset_digest": "s", "first_loss": 1.0}
    row |= dict.fromkeys(("num_examples", "num_dropped", "num_steps", "trained_tokens"), 1)
    _write(platform, tables.CHECKPOINTS, RECIPE.name, row)


def answer(platform: Platform, study: Study = STUDY) -> int:
    return Answering(platform, study, study.training_recipes[0]).finish(Publication(table=tables.BENCHMARK_RESPONSES))


def scores(platform: Platform, study: Study = STUDY) -> pl.DataFrame:
    return evaluation._measure(study, platform, RECIPE.name)[0]


def test_what_came_before_an_error_is_not_asked_again(platform: Platform, engine: Engine):
    engine.dies_after = 8
    with pytest.raises(KeyboardInterrupt):
        answer(platform)
    assert platform.tables().latest("benchmark_responses", RECIPE.name) is None, "no reader sees half of it"
    with pytest.raises(LookupError):
        scores(platform)
    engine.dies_after = None
    assert answer(platform) == NUM_PROBLEMS * NUM_SAMPLES - 8
    assert len(engine.asked) == NUM_PROBLEMS * NUM_SAMPLES
    rows = platform.tables().read("benchmark_responses", RECIPE.name)
    assert set(rows["response_id"]) == set(engine.asked)
    assert rows.height == rows["response_id"].n_unique() == NUM_PROBLEMS * NUM_SAMPLES
    assert answer(platform) == 0
    assert Lineage(STUDY, platform.tables()).is_current("benchmark_responses", RECIPE.name)


def test_what_a_checkpoint_took_is_on_the_record_and_adds_up_over_attempts(
    platform: Platform, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    clock = count()  # a second whenever it is read
    monkeypatch.setattr(engine_times, "EngineTime", lambda gpus: EngineTime(gpus, lambda: float(next(clock))))
    monkeypatch.setattr(Platform, "gpus_held", lambda _, row: 2.0 if row == RECIPE else 0.0)
    engine.dies_after = 8
    with pytest.raises(KeyboardInterrupt):
        answer(platform)
    store = platform.tables()
    begun = store.latest_any("benchmark_responses", RECIPE.name)
    assert begun is not None
    first = noted_costs(begun.notes)["instruction_following"]
    assert (first.runs, first.responses, first.response_tokens) == (1, 8, 24)
    assert first.gpu_seconds == 2 * first.engine_seconds > 0
    engine.dies_after = None
    answer(platform)
    whole = store.latest("benchmark_responses", RECIPE.name)
    assert whole is not None
    both = noted_costs(whole.notes)["instruction_following"]
    assert (both.runs, both.responses) == (2, NUM_PROBLEMS * NUM_SAMPLES)
    assert both.gpu_seconds == 2 * both.engine_seconds > first.gpu_seconds


def test_a_judge_of_benchmarks_is_on_the_record_of_their_scores(
    platform: Platform, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    problems = {"benchmark": "held_out", "query_id": [f"q{row}" for row in range(NUM_PROBLEMS)]}
    problems |= {"category": "science", "messages": [[{"role": "user", "content": "Why?"}]] * NUM_PROBLEMS}
    problems |= {"source_row": "0", "licence": "MIT", "reference": "Because of this"}
    _write(platform, tables.BENCHMARK_QUERIES, "held_out", problems)
    row = ScienceVerifier(
        judge=JudgeModel(scorer=Scorer(model="m", revision="r", max_model_len=9), prompt="deepdistill_science")
    )
    study = replace(STUDY, verifiers=(row,))

    def judge(requests: Iterable[JudgeRequest]) -> Iterator[JudgeReply]:
        for request in requests:
            yield JudgeReply(request_id=request.request_id, text="5")

    monkeypatch.setattr(verdicts, "judge_of", lambda platform, row: judge)
    answer(platform, study)
    times = EngineTimes(platform, "benchmark_scores")
    frame, _ = evaluation._measure(study, platform, RECIPE.name, times)
    assert set(frame["verdict"]) == {"passed"}
    cost = noted_costs(times.notes(RECIPE.name))["science"]
    assert (cost.runs, cost.responses) == (1, NUM_PROBLEMS * NUM_SAMPLES)
    assert cost.engine_seconds > 0


def test_both_steps_say_how_far_they_are(
    platform: Platform, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO", logger="amr_pipeline.progress"):
        answer(platform)
        scores(platform)
    said = [line.partition(",")[0] for line in caplog.messages]
    assert f"benchmark responses of {RECIPE.name}: 5/20 (25 %)" in said
    assert f"benchmark verdicts of {RECIPE.name}: 20/20 (100 %)" in said


def test_a_changed_verifier_judges_the_stored_text_and_generates_nothing(platform: Platform, engine: Engine):
    answer(platform)
    asked, before = list(engine.asked), scores(platform)
    platform.tables().write(
        "benchmark_scores",
        RECIPE.name,
        before,
        fingerprints=Lineage(STUDY, platform.tables()).fingerprints("benchmark_scores", RECIPE.name),
    )
    assert set(before["verdict"]) == {"passed", "failed"}
    changed = replace(STUDY, verifiers=(InstructionVerifier(reading="loose"),))
    lineage = Lineage(changed, platform.tables())
    assert lineage.is_current("benchmark_responses", RECIPE.name)
    assert not lineage.is_current("benchmark_scores", RECIPE.name)
    assert answer(platform, changed) == 0
    assert (
        scores(platform, changed)
        .select("response_id", "verdict")
        .sort("response_id")
        .equals(before.select("response_id", "verdict").sort("response_id"))
    )
    assert engine.asked == asked


def test_more_samples_ask_for_the_new_ones_only(platform: Platform, engine: Engine):
    answer(platform)
    more = replace(STUDY, benchmarks=(replace(STUDY.benchmarks[0], num_samples=NUM_SAMPLES + 1),))
    with pytest.raises(ResponsesOwedError, match=r"5 of 25 .* materialize benchmark_responses"):
        scores(platform, more)
    assert answer(platform, more) == NUM_PROBLEMS
    assert scores(platform, more).height == NUM_PROBLEMS * (NUM_SAMPLES + 1)


@pytest.mark.parametrize("change", ["weights", "sampling", "prompt", "context"])
def test_what_decides_a_response_makes_another_one_on_equal_draws(platform: Platform, engine: Engine, change: str):
    answer(platform)
    first, seeds = set(engine.asked), list(engine.seeds)
    engine.asked.clear()
    engine.seeds.clear()
    study = STUDY
    if change == "weights":
        _checkpoint(platform, "other weights")
    if change == "sampling":
        (row,) = STUDY.benchmarks
        study = replace(STUDY, benchmarks=(replace(row, sampling=replace(row.sampling, temperature=0.1)),))
    if change == "prompt":
        suffix = PromptSuffix(category=MICRO.verifiers[3].category, text="Now.")
        study = replace(STUDY, training_recipes=(replace(RECIPE, prompt_suffixes=(suffix,)),))
    if change == "context":
        study = replace(STUDY, training_recipes=(replace(RECIPE, evaluation_context_tokens=128),))
    assert answer(platform, study) == NUM_PROBLEMS * NUM_SAMPLES
    assert first.isdisjoint(engine.asked)
    assert engine.seeds == seeds
    assert platform.tables().read("benchmark_responses", RECIPE.name).height == 2 * NUM_PROBLEMS * NUM_SAMPLES
    assert set(scores(platform, study)["response_id"]) == set(engine.asked)


def test_two_runs_on_one_checkpoint_do_not_wedge_it(platform: Platform, engine: Engine):
    slow = Answering(platform, STUDY, RECIPE)
    answer(platform)
    with pytest.raises(CommitConflict):
        slow.finish(Publication(table=tables.BENCHMARK_RESPONSES))
    assert answer(platform) == 0
    assert platform.tables().read("benchmark_responses", RECIPE.name).height == NUM_PROBLEMS * NUM_SAMPLES
