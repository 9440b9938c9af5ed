"""What a training run is made from, and what its commit says of it; the training itself is stood in for."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.assets import lineage
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.training import Prepared, Training
from amr_pipeline.engines import deepspeed_training, mlflow_runs
from amr_pipeline.engines.deepspeed_loop import TrainingJob
from amr_pipeline.engines.deepspeed_training import TrainingResult
from amr_pipeline.engines.model_folders import folder_digest
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.responses.cost import Cost, noted_costs
from amr_pipeline.studies.micro import ANNEALING, STUDY, SWEEP
from amr_pipeline.studies.study import Study

CURVE = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in range(1, 11)]


def filled(store: TableStore, num_responses: int) -> None:
    """Subsets of the first few responses of one query each, all in shard 00."""
    rows = range(num_responses)
    queries = {"query_id": [f"q{row}" for row in rows], "shard": "00", "category": "math", "licence": "MIT"}
    queries |= {"messages": [[{"role": "user", "content": f"{row} + 1 ="}] for row in rows], "source": "math"}
    responses = {"response_id": [f"r{row}" for row in rows], "query_id": queries["query_id"], "category": "math"}
    responses |= {"distiller": "strong", "distiller_fingerprint": "f", "pass_index": 0, "finish_reason": "stop"}
    responses |= {"text": [f"<answer>{row + 1}</answer>" for row in rows], "response_tokens": 3, "engine": "e"}
    _write(store, tables.QUERIES, "00", queries | {"source_row": [str(row) for row in rows]})
    _write(store, tables.RESPONSES, "strong|00", responses)
    chosen(store, responses)


def chosen(store: TableStore, responses: dict[str, Any]) -> None:
    """Subsets of these responses."""
    subset = {name: responses[name] for name in ("response_id", "query_id", "category", "distiller", "pass_index")}
    subset |= {"shard": "00", "verify_score": 1.0, "pass_rate": 0.5, "coefficient_of_variation": 1.0}
    subset |= {"response_tokens": 3, "chosen_because": "challenging"}
    for recipe in STUDY.selection_recipes:
        _write(store, tables.SUBSETS, recipe.name, subset | {"selection_recipe": recipe.name})


def fewer(store: TableStore) -> None:
    """Subsets that lost a response, as another run may commit them at any time."""
    left = store.read("responses", "strong|00").head(5)
    chosen(store, left.to_dict(as_series=False))


def _write(store: TableStore, table: tables.Table, partition: str, columns: dict[str, Any]) -> None:
    absent = {name: None for name in table.schema if name not in columns}
    store.write(table.name, partition, pl.DataFrame(columns | absent), fingerprints={})


def exported(folder: Path, weights: str) -> None:
    """A model folder with a real tokenizer, and what a training leaves in it that is no model."""
    shutil.copytree(lineage.PACKAGE / "studies" / "micro_weights" / "base", folder, dirs_exist_ok=True)
    (folder / "model.safetensors").write_text(weights)
    (folder / "optimizer.pt").write_text("never read")


class Trainer:
    """`deepspeed_training.train`, but the weights are a file; what happens meanwhile is the test's."""

    def __init__(self) -> None:
        self.jobs: list[TrainingJob] = []
        self.meanwhile = lambda: None

    def train(self, jobs: list[TrainingJob], **_: object) -> list[TrainingResult]:
        self.jobs += jobs
        self.meanwhile()
        for job in jobs:
            exported(Path(job.folder) / "export", job.name)
        made = {"num_steps": 10, "resumed_from_step": None, "seconds": 0.1, "curve": CURVE}
        made |= {"spent_seconds": 3.0, "gpu_seconds": 24.0}
        folders = [Path(job.folder) / "export" for job in jobs]
        return [TrainingResult(checkpoint=one, digest=folder_digest(one), **made) for one in folders]  # type: ignore[arg-type]


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    opened = Platform.of(deployment_from_environment({"AMR_HOME": str(tmp_path)}))
    filled(opened.tables(), 8)
    return opened


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    stand_in = Trainer()
    monkeypatch.setattr(deepspeed_training, "train", stand_in.train)
    return stand_in


def training(platform: Platform, study: Study = STUDY) -> Training:
    context: Any = SimpleNamespace(log=SimpleNamespace(info=print), run=SimpleNamespace(run_id="dagster-run"))
    return Training(context, platform, study)


def prepared(platform: Platform) -> Prepared:
    return training(platform).prepare(SWEEP[3])


@pytest.mark.parametrize(
    "file",
    ["training/packing.py", "engines/deepspeed_loop.py", "engines/deepspeed_training.py", "responses/prompts.py"],
)
def test_changed_training_code_trains_anew(platform: Platform, monkeypatch: pytest.MonkeyPatch, file: str):
    before = prepared(platform).job
    assert prepared(platform).job == before
    digest, changed = lineage.files_digest, lineage.PACKAGE / file
    monkeypatch.setattr(lineage, "files_digest", lambda paths: digest(paths) + ("changed" if changed in paths else ""))
    lineage.code_digest.cache_clear()
    after = prepared(platform).job
    lineage.code_digest.cache_clear()
    assert after.identity != before.identity
    assert after.folder != before.folder


def test_another_recipe_or_subset_trains_anew(platform: Platform):
    one = prepared(platform).job
    assert training(platform).prepare(replace(SWEEP[3], seed=9)).job.identity != one.identity
    fewer(platform.tables())
    assert prepared(platform).job.identity != one.identity


def test_a_checkpoint_names_the_subset_that_was_read_whatever_is_committed_meanwhile(
    platform: Platform, trainer: Trainer
):
    store = platform.tables()
    read = store.latest("subsets", "stage1")
    assert read is not None
    trainer.meanwhile = lambda: fewer(store)
    training(platform).train([SWEEP[3]])
    row, commit = (
        store.read("checkpoints", SWEEP[3].name).row(0, named=True),
        store.latest("checkpoints", SWEEP[3].name),
    )
    assert (row["subset_version"], row["subset_digest"], row["num_examples"]) == (read.version, read.digest, 8)
    assert commit is not None
    assert commit.fingerprints["inputs"] == {"subsets/stage1": read.digest}
    assert not Lineage(STUDY, store).is_current("checkpoints", SWEEP[3].name)


def test_what_training_took_is_on_the_record_once_for_each_run(platform: Platform, trainer: Trainer):
    store, name = platform.tables(), SWEEP[3].name

    def noted() -> list[Cost]:
        commit = store.latest("checkpoints", name)
        assert commit is not None
        return list(noted_costs(commit.notes).values())

    training(platform).train([SWEEP[3]])
    (first,) = noted()
    assert (first.engine_seconds, first.gpu_seconds, first.runs) == (3.0, 24.0, 1)
    assert first.response_tokens == store.read("checkpoints", name)["trained_tokens"].item()
    training(platform).train([SWEEP[3]])
    assert noted() == [first], "a finished run that is committed again took nothing more"
    fewer(store)
    training(platform).train([SWEEP[3]])
    assert [cost.gpu_seconds for cost in noted()] == [24.0, 24.0], "another subset is another run"


def test_a_subset_committed_between_fingerprints_and_reading_is_not_read(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    store = platform.tables()
    named = Lineage.fingerprints

    def slow(self: Lineage, table: str, partition: str) -> dict[str, object]:
        found = named(self, table, partition)
        fewer(store)
        return found

    monkeypatch.setattr(Lineage, "fingerprints", slow)
    assert prepared(platform).rows.num_examples == 8


def test_a_continued_run_needs_the_checkpoint_that_it_names(platform: Platform):
    with pytest.raises(LookupError, match=f"checkpoints {ANNEALING.continues}: no complete version"):
        training(platform).prepare(ANNEALING)


def test_a_checkpoint_lies_where_the_tables_are_and_a_continued_run_starts_from_it(trainer: Trainer, tmp_path: Path):
    here, there = (
        Platform.of(deployment_from_environment({"AMR_HOME": str(tmp_path / home), "AMR_STORAGE": storage}))
        for home, storage in ((name, f"memory://{tmp_path.name}/tables") for name in ("here", "there"))
    )
    filled(here.tables(), 8)
    training(here).train([STUDY.training_recipe(str(ANNEALING.continues))])
    row = here.tables().read("checkpoints", str(ANNEALING.continues)).row(0, named=True)
    shutil.rmtree(tmp_path / "here")
    job = training(there).prepare(ANNEALING).job
    assert {path.suffix for path in Path(job.model).iterdir()} == {".safetensors", ".json", ".jinja"}
    assert folder_digest(Path(job.model)) == row["digest"]
    assert there.checkpoint(row) == Path(job.model)


def test_runs_side_by_side_share_one_experiment_and_one_sweep(
    platform: Platform, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
):
    created: list[str] = []
    create = mlflow_runs.MlflowClient.create_run

    def counted(self: Any, experiment: str, *, tags: dict[str, str], run_name: str) -> Any:
        created.append(run_name)
        return create(self, experiment, tags=tags, run_name=run_name)

    monkeypatch.setattr(mlflow_runs.MlflowClient, "create_run", counted)
    in_threads: list[int] = []
    trainer.meanwhile = lambda: in_threads.append(len(created))
    training(platform).train(SWEEP[:4])
    assert min(in_threads) == 1, "the sweep is open before the first thread starts"
    assert sorted(created) == sorted([SWEEP[0].sweep, *(recipe.name for recipe in SWEEP[:4])])  # type: ignore[list-item]
    assert set(platform.tracking(STUDY.name).run_ids(str(SWEEP[0].sweep))) == {recipe.name for recipe in SWEEP[:4]}
