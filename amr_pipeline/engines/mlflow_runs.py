"""MLflow: one run per training recipe, nested under a run per sweep, so that a sweep is one comparison page.

A recipe's run is found again by its tag, so a re-run continues it instead of adding a second one. Metrics are sent
in batches from the driver; what is secret is never among them. One caller at a time opens a study or a sweep: the
tracking store has no unique names of runs, so two at once would each make their own.

A run names the subset version that it was trained on as its dataset, and its checkpoint in tags; the best run of a
sweep is a version of the registered model `{study}.{sweep}` under the alias `best`, whose source is that checkpoint.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient

from amr_pipeline.studies.study import TrainingRecipe

RECIPE_TAG, SWEEP_TAG, IDENTITY_TAG = "amr.training_recipe", "amr.sweep", "amr.identity"
FINISHED = RunStatus.to_string(RunStatus.FINISHED)
METRICS_PER_CALL = 900
"""A call takes 66 ms whatever it carries, up to a thousand metrics."""

BEST = "best"
"""Alias of the version that a registered model is asked for."""

DIGEST_CHARACTERS = 36
"""As long as MLflow lets the digest of a dataset be."""


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The version of a subset that a run read.

    Attributes:
        name: the selection recipe.
        version: of its partition of `subsets`, at least 1.
        digest: of that version's commit.
        address: where the partition is stored.
        num_responses, num_examples, num_tokens: rows of the version, those of a length that was trained on, and their
            tokens that count in the loss.
    """

    name: str
    version: int
    digest: str
    address: str
    num_responses: int
    num_examples: int
    num_tokens: int

    @property
    def as_input(self) -> DatasetInput:
        """What MLflow shows as the dataset of a run."""
        sizes = {
            "version": self.version,
            "num_responses": self.num_responses,
            "num_examples": self.num_examples,
            "num_tokens": self.num_tokens,
        }
        dataset = Dataset(
            name=self.name,
            digest=self.digest[:DIGEST_CHARACTERS],
            source_type="s3" if self.address.startswith("s3://") else "local",
            source=json.dumps({"uri": self.address}),
            profile=json.dumps(sizes),
        )
        return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


class MlflowRuns:
    """Runs of one study in one tracking store."""

    def __init__(self, uri: str, *, artifacts: Path, study: str) -> None:
        self._client, self._uri, self._study = MlflowClient(tracking_uri=uri), uri, study
        found = self._client.get_experiment_by_name(study)
        if found is not None:
            self._experiment = found.experiment_id
        else:
            location = artifacts.absolute().as_uri() if uri.startswith("sqlite") else None
            self._experiment = self._client.create_experiment(study, artifact_location=location)

    def record_training(
        self,
        recipe: TrainingRecipe,
        *,
        identity: str,
        subset: TrainedOn,
        tags: Mapping[str, str],
        curve: Sequence[Mapping[str, float]],
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
        self._log_dataset(run, subset)
        names = [name for name in curve[0] if name != "step"] if curve else []
        metrics = [Metric(name, float(point[name]), 0, int(point["step"])) for point in curve for name in names]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(run, metrics=metrics[start : start + METRICS_PER_CALL])
        self._client.set_terminated(run)
        return run

    def _log_dataset(self, run: str, subset: TrainedOn) -> None:
        """Name the subset as the run's dataset; where another run names it first just now, it is there next time."""
        for is_last in (False, False, True):
            try:
                self._client.log_inputs(run, [subset.as_input])
                return
            except MlflowException as error:  # MLflow 3 looks whether it is there, then inserts
                if is_last or "unique" not in str(error).lower():
                    raise

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

    def page(self, run_id: str) -> str | None:
        """Address of a run's page, without a login that the store's may hold; None where the store is not a server."""
        if not self._has_server:
            return None
        parts = urlsplit(self._uri)
        server = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        return f"{server}/#/experiments/{self._experiment}/runs/{run_id}"

    def register_best(self, sweep: str, run_id: str, *, source: str, tags: Mapping[str, str]) -> int | None:
        """Make a run the best one of its sweep in the model registry; gives the version of the registered model.

        A run has one version, so that the same run registered again changes tags only. None: a server takes no address
        in a folder, which it could not tell from its own files, and nothing was registered.

        Args:
            sweep: name of the sweep; the registered model is `{study}.{sweep}`.
            run_id: the run.
            source: address of its checkpoint, a folder or `s3://`.
            tags: of the version.
        """
        if self._has_server and "://" not in source:
            return None
        name = f"{self._study}.{sweep}"
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        version = self._version(name, run_id) or self._client.create_model_version(name, source, run_id)
        for key, value in tags.items():
            self._client.set_model_version_tag(name, version.version, key, value)
        self._client.set_registered_model_alias(name, BEST, str(version.version))
        return int(version.version)

    @property
    def _has_server(self) -> bool:
        return self._uri.startswith(("http://", "https://"))

    def _version(self, name: str, run_id: str) -> ModelVersion | None:
        return next(
            (one for one in self._client.search_model_versions(f"name = '{name}'") if one.run_id == run_id), None
        )

    def _find(self, tags: Mapping[str, str]) -> Run | None:
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self._client.search_runs(
            [self._experiment], wanted, max_results=1, order_by=["attributes.start_time ASC"]
        )
        return found[0] if found else None


VERSION = mlflow.__version__
