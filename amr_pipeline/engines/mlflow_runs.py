"""MLflow: one run per training recipe, nested under a run per sweep, so that a sweep is one comparison page.

A recipe's run is found again by its tag, so a re-run continues it instead of adding a second one. Metrics are sent
in batches from the driver; what is secret is never among them. One caller at a time opens a study or a sweep: the
tracking store has no unique names of runs, so two at once would each make their own.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag
from mlflow.tracking import MlflowClient

from amr_pipeline.studies.study import TrainingRecipe

RECIPE_TAG, SWEEP_TAG, IDENTITY_TAG = "amr.training_recipe", "amr.sweep", "amr.identity"
FINISHED = RunStatus.to_string(RunStatus.FINISHED)
METRICS_PER_CALL = 900
"""A call takes 66 ms whatever it carries, up to a thousand metrics."""


class MlflowRuns:
    """Runs of one study in one tracking store."""

    def __init__(self, uri: str, *, artifacts: Path, study: str) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(study)
        if found is not None:
            self._experiment = found.experiment_id
        else:
            location = artifacts.absolute().as_uri() if uri.startswith("sqlite") else None
            self._experiment = self._client.create_experiment(study, artifact_location=location)

    def record_training(
        self, recipe: TrainingRecipe, *, identity: str, tags: Mapping[str, str], curve: Sequence[Mapping[str, float]]
    ) -> str:
        """The run of a training recipe, with its fields as parameters and its curve as metrics; gives the run id.

        A run that was interrupted before it was finished is written again from its start; MLflow keeps equal points
        and parameters once.
        """
        existing = self._find({RECIPE_TAG: recipe.name, IDENTITY_TAG: identity})
        if existing is not None and existing.info.status == FINISHED:
            return existing.info.run_id
        run = existing.info.run_id if existing is not None else self._open_run(recipe, identity, tags)
        fields = {
            name: str(value)[:500] for name, value in asdict(recipe).items() if value is not None and name != "name"
        }
        self._client.log_batch(run, params=[Param(name, value) for name, value in fields.items()])
        names = [name for name in curve[0] if name != "step"] if curve else []
        metrics = [Metric(name, float(point[name]), 0, int(point["step"])) for point in curve for name in names]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(run, metrics=metrics[start : start + METRICS_PER_CALL])
        self._client.set_terminated(run)
        return run

    def _open_run(self, recipe: TrainingRecipe, identity: str, tags: Mapping[str, str]) -> str:
        parent = {"mlflow.parentRunId": self.open_sweep(recipe.sweep)} if recipe.sweep else {}
        own = {RECIPE_TAG: recipe.name, IDENTITY_TAG: identity, "mlflow.runName": recipe.name, **parent, **tags}
        return self._client.create_run(self._experiment, tags=own, run_name=recipe.name).info.run_id

    def record_scores(self, run_id: str, scores: Mapping[str, float]) -> None:
        """Benchmark scores of a run, as metrics; the last ones recorded count."""
        now = time.time_ns() // 1_000_000  # of two points at one time, MLflow shows the higher
        self._client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in scores.items()])

    def record_figure(self, run_id: str, name: str, png: bytes) -> None:
        """A picture as an artifact of a run."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(png)
            self._client.log_artifact(run_id, str(path))

    def open_sweep(self, sweep: str) -> str:
        """The parent run of a sweep, made on first use; gives its run id."""
        existing = self._find({SWEEP_TAG: sweep})
        run = existing or self._client.create_run(
            self._experiment, tags={SWEEP_TAG: sweep, "mlflow.runName": sweep}, run_name=sweep
        )
        if run.info.status != FINISHED:
            self._client.set_terminated(run.info.run_id)
        return run.info.run_id

    def run_ids(self, sweep: str) -> dict[str, str]:
        """Run id by training recipe, of the newest runs of one sweep."""
        parent = self._find({SWEEP_TAG: sweep})
        if parent is None:
            return {}
        runs = self._client.search_runs([self._experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        return {run.data.tags[RECIPE_TAG]: run.info.run_id for run in reversed(runs)}

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Add tags to a run."""
        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _find(self, tags: Mapping[str, str]) -> Run | None:
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self._client.search_runs(
            [self._experiment], wanted, max_results=1, order_by=["attributes.start_time ASC"]
        )
        return found[0] if found else None


VERSION = mlflow.__version__
