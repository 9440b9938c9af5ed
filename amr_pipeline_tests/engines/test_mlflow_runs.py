import json
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from amr_pipeline.engines.mlflow_runs import MlflowRuns
from amr_pipeline.studies.micro import ANNEALING, SWEEP
from amr_pipeline_tests.trained_on import SUBSET

CURVE = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in range(1, 1001)]


def test_a_sweep_is_one_parent_and_re_runs_add_nothing(tmp_path: Path):
    runs = MlflowRuns(f"sqlite:///{tmp_path / 'm.db'}", artifacts=tmp_path / "a", study="micro")
    ids = {
        recipe.name: runs.record_training(recipe, identity="1", subset=SUBSET, tags={"t": "v"}, curve=CURVE)
        for recipe in SWEEP[:2]
    }
    again = MlflowRuns(f"sqlite:///{tmp_path / 'm.db'}", artifacts=tmp_path / "a", study="micro")
    assert again.record_training(SWEEP[0], identity="1", subset=SUBSET, tags={}, curve=CURVE) == ids[SWEEP[0].name]
    assert again.run_ids("stage1-learning-rate") == ids
    alone = again.record_training(ANNEALING, identity="1", subset=SUBSET, tags={}, curve=[])
    assert alone not in again.run_ids("stage1-learning-rate").values()
    again.record_scores(alone, {"pass_at_1": 0.5})
    again.record_figure(alone, "plot.png", b"png")
    again.tag(alone, {"more": "1"})
    run = again._client.get_run(alone)
    assert run.data.metrics["pass_at_1"] == 0.5
    assert run.data.tags["more"] == "1"
    assert len(again._client.get_metric_history(ids[SWEEP[0].name], "loss")) == 1000


def test_a_run_names_the_version_of_the_subset_that_it_was_trained_on(tmp_path: Path):
    runs = MlflowRuns(f"sqlite:///{tmp_path / 'm.db'}", artifacts=tmp_path / "a", study="micro")
    run = runs.record_training(ANNEALING, identity="1", subset=SUBSET, tags={}, curve=[])
    (found,) = runs._client.get_run(run).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("stage1", SUBSET.digest[:36])
    assert json.loads(found.dataset.source) == {"uri": "s3://amr/tables/subsets/stage1"}
    assert json.loads(found.dataset.profile)["version"] == 3
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]
    assert runs.page(run) is None, "a file has no pages"
    runs._uri = "https://person:secret-canary@mlflow.example:8444/"
    assert runs.page("r1") == f"https://mlflow.example:8444/#/experiments/{runs._experiment}/runs/r1"


def test_a_dataset_that_another_run_names_first_just_now_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two runs side by side: MLflow looks whether a dataset is there, and inserts it a moment later."""
    runs = MlflowRuns(f"sqlite:///{tmp_path / 'mlflow.db'}", artifacts=tmp_path, study="micro")
    of_sqlite, of_postgres = (
        "UNIQUE constraint failed: datasets.digest",
        "duplicate key value violates unique constraint",
    )
    log_inputs, said = MlflowClient.log_inputs, [of_sqlite, of_postgres, "the disk is full"]

    def raced(self: MlflowClient, *arguments: object) -> None:
        if said:
            raise MlflowException(said.pop(0))
        log_inputs(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "log_inputs", raced)
    with pytest.raises(MlflowException, match="the disk is full"):
        runs.record_training(SWEEP[0], identity="1", subset=SUBSET, tags={}, curve=[])
    run = runs.record_training(SWEEP[0], identity="1", subset=SUBSET, tags={}, curve=[])
    assert len(MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(run).inputs.dataset_inputs) == 1


def test_the_best_run_of_a_sweep_is_what_the_registry_answers(tmp_path: Path):
    runs = MlflowRuns(f"sqlite:///{tmp_path / 'm.db'}", artifacts=tmp_path / "a", study="micro")
    first, second = (
        runs.record_training(recipe, identity="1", subset=SUBSET, tags={}, curve=[]) for recipe in SWEEP[:2]
    )
    for run, score in ((first, "0.1"), (second, "0.2"), (first, "0.3")):
        runs.register_best("rates", run, source=str(tmp_path / run), tags={"score": score})
        best = runs._client.get_model_version_by_alias("micro.rates", "best")
        assert (best.run_id, best.source, best.tags["score"]) == (run, str(tmp_path / run), score)
    versions = runs._client.search_model_versions("name = 'micro.rates'")
    assert {version.run_id for version in versions} == {first, second}
    assert len(versions) == 2, "a run that is best again has no second version"


def test_scores_judged_anew_replace_higher_ones(tmp_path: Path):
    runs = MlflowRuns(f"sqlite:///{tmp_path / 'm.db'}", artifacts=tmp_path / "a", study="micro")
    run = runs.record_training(ANNEALING, identity="1", subset=SUBSET, tags={}, curve=[])
    for score in (0.5, 0.25, 0.375):
        runs.record_scores(run, {"pass_at_1": score})
        assert runs._client.get_run(run).data.metrics == {"pass_at_1": score}


@pytest.mark.parametrize("lost_at", ["params", "metrics", "sweep's end", "end"])
def test_a_run_interrupted_at_any_call_is_completed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_at: str
):
    def opened() -> MlflowRuns:
        return MlflowRuns(f"sqlite:///{tmp_path / 'm.db'}", artifacts=tmp_path / "a", study="micro")

    runs = opened()
    log_batch = runs._client.log_batch

    def dies(*arguments: object, **said: object) -> None:
        if lost_at in said or not said:
            raise KeyboardInterrupt
        log_batch(*arguments, **said)  # type: ignore[arg-type]

    monkeypatch.setattr(runs._client, "log_batch", dies)
    if lost_at == "end":
        runs.open_sweep(str(SWEEP[0].sweep))
    if lost_at in ("end", "sweep's end"):
        monkeypatch.setattr(runs._client, "set_terminated", dies)
    with pytest.raises(KeyboardInterrupt):
        runs.record_training(SWEEP[0], identity="1", subset=SUBSET, tags={"t": "v"}, curve=CURVE)
    again = opened()
    run = again.record_training(SWEEP[0], identity="1", subset=SUBSET, tags={"t": "v"}, curve=CURVE)
    found = again._client.get_run(run)
    assert found.info.status == "FINISHED"
    assert [one.dataset.name for one in found.inputs.dataset_inputs] == ["stage1"]
    assert found.data.params["learning_rate"] == str(SWEEP[0].learning_rate)
    assert len(again._client.get_metric_history(run, "loss")) == len(CURVE)
    assert again._client.get_run(again.open_sweep(str(SWEEP[0].sweep))).info.status == "FINISHED"
    assert again.run_ids(str(SWEEP[0].sweep)) == {SWEEP[0].name: run}, "the interrupted run is continued, not doubled"
