"""MLflow's server and the head of a Ray cluster are killed under those who use them; what was seen, and nothing is lost.

The rest of the deployment: `test_fault_matrix`.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.engines.mlflow_runs import MlflowRuns
from amr_pipeline.responses.expected import expected_responses
from amr_pipeline.studies.micro import SWEEP
from amr_pipeline_tests.deployed import mlflow_server
from amr_pipeline_tests.servers import Program, free_ports, needs_postgres, object_store, postgres
from amr_pipeline_tests.test_kills import STUDY
from amr_pipeline_tests.told import IN_FLIGHT, Story
from amr_pipeline_tests.trained_on import SUBSET

pytestmark = [pytest.mark.engines, pytest.mark.soak, pytest.mark.timeout(1800)]

CURVE = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in range(1, 3001)]


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[tuple[Program, str]]:
    """MLflow's server on PostgreSQL with artifacts on S3, and its address."""
    (port,) = free_ports(1)
    with postgres(tmp_path / "postgres.log", ["mlflow"]) as database, object_store(tmp_path / "objects") as objects:
        keys = {"AWS_ACCESS_KEY_ID": objects.key, "AWS_SECRET_ACCESS_KEY": objects.secret}
        program = mlflow_server(
            tmp_path,
            port,
            database,
            objects,
            {**os.environ, **keys, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"},
        )
        program.start()
        try:
            yield program, f"http://127.0.0.1:{port}"
        finally:
            program.stop()


@needs_postgres
def test_mlflow_killed_while_a_curve_is_recorded_has_the_whole_curve_once(
    mlflow: tuple[Program, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program, address = mlflow
    runs = MlflowRuns(address, artifacts=tmp_path, study="micro")
    log_batch, calls = MlflowClient.log_batch, []

    def counted(self: MlflowClient, *arguments: object, **said: object) -> None:
        calls.append(1)
        if len(calls) == 4:  # parameters and two batches of the curve are there
            program.kill()
            threading.Thread(target=program.start).start()
        log_batch(self, *arguments, **said)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    begun = time.monotonic()
    run = runs.record_training(SWEEP[0], identity="1", subset=SUBSET, tags={}, curve=CURVE)
    print(
        f"| MLflow's server is killed, and started again | goes on | by itself | {time.monotonic() - begun:.0f} s | 0 | 0 |"
    )
    assert len(calls) > 4
    assert runs.record_training(SWEEP[0], identity="1", subset=SUBSET, tags={}, curve=CURVE) == run
    assert len(runs._client.get_metric_history(run, "loss")) == len(CURVE)
    assert list(runs.run_ids(str(SWEEP[0].sweep)).values()) == [run]


HEAD = """
import sys, threading
from ray.util.client.server.server import serve
from amr_pipeline.engines.ray_cluster import ensure_ray

ensure_ray()
server = serve("127.0.0.1", int(sys.argv[1]))
print("it serves", flush=True)
threading.Event().wait()
"""
"""A cluster of one node with the door that the compose file names (`ray://`); `ray start` would open it to the network."""


@pytest.fixture
def ray_head(tmp_path: Path) -> Iterator[tuple[Program, dict[str, str]]]:
    """The head of a Ray cluster, and the variables that let a deployment in."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    folder = tempfile.mkdtemp(prefix="amr-ray-")  # names of unix sockets end at 107 characters
    (port,) = free_ports(1)
    log = tmp_path / "ray.log"
    program = Program(
        name="Ray head",
        command=[sys.executable, "-c", HEAD, str(port)],
        environment={**os.environ, **token, "TMPDIR": folder, "PYTHONWARNINGS": "ignore"},
        log=log,
        is_ready=lambda: log.exists() and "it serves" in log.read_text(),
    )
    program.start()
    try:
        yield program, {"AMR_RAY_ADDRESS": f"ray://127.0.0.1:{port}", **token}
    finally:
        program.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(not os.environ.get("AMR_SOAK"), reason="a cluster of its own; AMR_SOAK=1 runs it")
def test_a_ray_head_killed_while_responses_are_written_costs_what_was_in_flight(
    ray_head: tuple[Program, dict[str, str]], tmp_path: Path
):
    program, variables = ray_head
    stranger = Story(tmp_path, STUDY, {**variables, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    assert stranger.start("responses").wait(timeout=600) != 0
    assert "its token in RAY_AUTH_TOKEN" in stranger.said.read_text()
    told = Story(tmp_path, STUDY, variables)
    process = told.start("responses")
    while told.written < 60 and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, told.said.read_text()[-3000:]
    committed, begun = told.committed, time.monotonic()
    program.kill()
    process.wait(timeout=600)
    ended = time.monotonic() - begun
    assert process.returncode != 0
    assert told.committed >= committed
    program.log.unlink()
    program.start()
    told.run("responses")
    responses, queries = told.rows("responses"), told.rows("queries")
    (row,) = told.study.distillers
    assert set(responses["response_id"]) == set(expected_responses(queries, row)["response_id"])
    assert responses["response_id"].n_unique() == responses.height
    for key in stored_partitions(told.study, "responses"):
        assert told.store.verify("responses", key) == []
    wasted = told.written - responses.height
    print(
        f"| The head of the Ray cluster is killed | failure, success | after one more launch | {ended:.0f} s | {wasted} | 0 |"
    )
    assert 0 <= wasted <= IN_FLIGHT


FREE = """
import subprocess
import sys
from amr_pipeline.engines.kept_pools import _free
from amr_pipeline.engines.ray_cluster import ensure_ray

ensure_ray(sys.argv[1])
print(_free("CPU", ()) > 0, _free("GPU", ("L4",)))
"""


def test_a_client_of_a_cluster_learns_what_is_free_on_nodes_of_a_kind(ray_head: tuple[Program, dict[str, str]]):
    _, variables = ray_head
    command = [sys.executable, "-W", "ignore", "-c", FREE, variables["AMR_RAY_ADDRESS"]]
    asked = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300, check=False
    )
    assert asked.stdout.split() == ["True", "0"], asked.stderr
