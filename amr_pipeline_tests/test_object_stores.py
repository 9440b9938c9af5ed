"""Which object store MLflow's server of a deployment writes to: MLflow and boto themselves, given the container's variables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amr_pipeline_tests.composed import FILLED, services
from amr_pipeline_tests.rendered import OVERLAYS, pods, resources
from amr_pipeline_tests.servers import object_store

ASKED = """
import json, sys
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

place, file = sys.argv[1:]
store = get_artifact_repository(place)
if file:
    store.log_artifact(file)
found = [each.path for each in store.list_artifacts()] if file else []
print(json.dumps([store._get_s3_client().meta.endpoint_url, found]))
"""


def variables_of_mlflow(where: str, endpoint: str) -> dict[str, str]:
    """What MLflow's container is given under an endpoint, secrets aside."""
    if where == "compose":
        given = services({**FILLED, "AMR_S3_ENDPOINT": endpoint})["mlflow"]["environment"]
        return {name: value for name, value in given.items() if name.startswith(("AWS_", "MLFLOW_"))}
    (container,) = pods(where)["mlflow"].spec["containers"]
    settings = {**resources(where)["ConfigMap", "amr-deployment"]["data"], "AMR_S3_ENDPOINT": endpoint}
    found = {}
    for entry in container["env"]:
        if reference := entry.get("valueFrom", {}).get("configMapKeyRef"):
            assert reference["name"] == "amr-deployment"
            found[entry["name"]] = settings[reference["key"]]
        elif "value" in entry:
            found[entry["name"]] = entry["value"]
    return found


def asked(variables: dict[str, str], place: str, file: Path | None = None) -> tuple[str, list[str]]:
    """(endpoint, artifacts) as a process with these variables has them, once it has stored a file."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_", "AMR_"))}
    done = subprocess.run(
        [sys.executable, "-c", ASKED, place, str(file or "")],
        env={**inherited, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    endpoint, found = json.loads(done.stdout.splitlines()[-1])
    return endpoint, found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_without_an_endpoint_artifacts_go_to_the_provider(overlay: str) -> None:
    endpoint, _ = asked(variables_of_mlflow(overlay, ""), "s3://amr/mlflow")
    assert endpoint == "https://s3.amazonaws.com"


def test_compose_without_an_endpoint_means_the_store_that_it_brings() -> None:
    endpoint, _ = asked(variables_of_mlflow("compose", ""), "s3://amr/mlflow")
    assert endpoint == services()["code"]["environment"]["AMR_S3_ENDPOINT"] == "http://objects:8333"


@pytest.mark.parametrize("where", ["compose", *OVERLAYS])
def test_artifacts_go_to_the_endpoint_of_the_deployment(where: str, tmp_path: Path) -> None:
    (tmp_path / "figure.txt").write_text("a figure")
    with object_store(tmp_path / "objects") as store:
        login = {"AWS_ACCESS_KEY_ID": store.key, "AWS_SECRET_ACCESS_KEY": store.secret}
        given = {**variables_of_mlflow(where, store.url), **login}
        found = asked(given, f"s3://{store.bucket}/mlflow", tmp_path / "figure.txt")
    assert found == (store.url, ["figure.txt"])
