"""What the guide has people type in a pod works with that pod's variables: models of the hub, and pools of engines."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import amr_pipeline
from amr_pipeline_tests.rendered import OVERLAYS, pods, resources
from amr_pipeline_tests.run_pods import run_pod
from amr_pipeline_tests.servers import PROGRAMS, Program, free_ports
from amr_pipeline_tests.test_faults_of_engines import HEAD

GUIDE = (Path(__file__).parent.parent / "docs" / "operating.md").read_text()
FOREIGN = ("AMR_", "RAY_", "HF_", "DAGSTER", "MLFLOW", "AWS")
WEIGHTS = Path(amr_pipeline.__file__).parent / "studies" / "micro_weights" / "base"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

LOADED = """
import sys
from amr_pipeline.engines.deepspeed_training import load_tokenizer
print("it loaded", load_tokenizer(sys.argv[1], sys.argv[2]).end_token)
"""


def inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


def variables_of(container: dict, overlay: str) -> dict[str, str]:
    """Plain values that a container is given, and those of the deployment's map."""
    found = {}
    for entry in container.get("envFrom", []):
        if "configMapRef" in entry:
            found |= resources(overlay)["ConfigMap", entry["configMapRef"]["name"]]["data"]
    for entry in container["env"]:
        if reference := entry.get("valueFrom", {}).get("configMapKeyRef"):
            found[entry["name"]] = resources(overlay)["ConfigMap", reference["name"]]["data"][reference["key"]]
        elif "value" in entry:
            found[entry["name"]] = entry["value"]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pod_that_reaches_the_hub_fills_the_folder_that_runs_read(overlay: str) -> None:
    hub, run, looks = pods(overlay)["hub"], run_pod(overlay), pods(overlay)["housekeeping"]
    (filling,), (reading,), (looking,) = hub.containers, run.containers, looks.containers
    places = {variables_of(one, overlay)["HF_HOME"] for one in (filling, reading, looking)}
    assert places == {"/var/lib/amr/hub"}
    for pod, container in ((hub, filling), (run, reading), (looks, looking)):
        (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == "/var/lib/amr"]
        (volume,) = [one for one in pod.spec["volumes"] if one["name"] == mount["name"]]
        assert volume["persistentVolumeClaim"]["claimName"] == "amr-home"
    for container in (reading, looking):
        assert variables_of(container, overlay)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in variables_of(filling, overlay)
    assert "envFrom" not in filling
    assert not any("secretKeyRef" in entry.get("valueFrom", {}) for entry in filling["env"]), "it has a way out"
    assert resources(overlay)["CronJob", "hub"]["spec"]["suspend"] is True
    assert "kubectl create job hub --from=cronjob/hub" in GUIDE


@pytest.mark.engines
def test_a_run_loads_a_model_of_the_hub_from_that_folder_and_asks_nobody(tmp_path: Path) -> None:
    def loaded() -> subprocess.CompletedProcess[str]:
        (container,) = run_pod("gpu").containers
        given = {**variables_of(container, "gpu"), "HF_HOME": str(tmp_path)}
        of_hub = {name: value for name, value in given.items() if name.startswith("HF_")}
        words = [sys.executable, "-c", LOADED, "someone/base", COMMIT]
        nobody = {"HF_ENDPOINT": "http://127.0.0.1:1"}
        environment = {**inherited(), **of_hub, **nobody}
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)

    missing = loaded()
    assert missing.returncode != 0
    assert "offline-mode" in missing.stderr, missing.stderr
    shutil.copytree(
        WEIGHTS, tmp_path / "hub" / "models--someone--base" / "snapshots" / COMMIT
    )  # as hf download leaves it
    found = loaded()
    assert found.returncode == 0, found.stderr
    assert "it loaded" in found.stdout


@pytest.fixture
def ray_head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Ray head that asks for its token, and the variables of the head's container with its port and token."""
    (container,) = pods("gpu")["ray-head"].containers
    given = {**variables_of(container, "gpu"), "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    folder = tempfile.mkdtemp(prefix="amr-ray-")  # names of unix sockets end at 107 characters
    (port,) = free_ports(1)
    log = tmp_path / "ray.log"
    own = {name: value for name, value in given.items() if name.startswith("RAY_")}
    program = Program(
        name="Ray head",
        command=[sys.executable, "-c", HEAD, str(port)],
        environment={**inherited(), **own, "TMPDIR": folder, "PYTHONWARNINGS": "ignore"},
        log=log,
        is_ready=lambda: log.exists() and "it serves" in log.read_text(),
    )
    program.start()
    try:
        assert given["AMR_RAY_ADDRESS"] == "ray://127.0.0.1:10001"
        yield {**given, "AMR_RAY_ADDRESS": f"ray://127.0.0.1:{port}"}
    finally:
        program.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.engines
def test_pools_are_listed_in_the_pod_of_the_rays_head(ray_head: dict[str, str], tmp_path: Path) -> None:
    assert "-- amr pools" in GUIDE
    for words in (["pools"], ["pools", "--stop-idle"]):
        done = subprocess.run(
            [str(PROGRAMS / "amr"), *words],
            env={**inherited(), **ray_head, "AMR_HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "No pool of engines is alive on the cluster." in done.stdout
