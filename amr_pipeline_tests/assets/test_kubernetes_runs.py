"""A run whose job cannot be looked up is left alone; one whose job is gone, or failed, is failed. Kubernetes is a server
on loopback that answers as the API does, or not at all."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.dagster_run import RunRecord
from dagster._daemon.monitoring.run_monitoring import monitor_started_run
from dagster_k8s import client
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from urllib3.exceptions import HTTPError

OURS = {"module": "amr_pipeline.assets.kubernetes_runs", "class": "AskingRunLauncher"}
THEIRS = {"module": "dagster_k8s", "class": "K8sRunLauncher"}


class Kubernetes(ThreadingHTTPServer):
    """Answers (code, status of the job) that are given to the first questions, and the last of them to all others."""

    answers: list[tuple[int, dict[str, int]]]

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was hung up on


class Asked(BaseHTTPRequestHandler):
    server: Kubernetes

    def do_GET(self) -> None:
        answers = self.server.answers
        code, status = answers.pop(0) if len(answers) > 1 else answers[0]
        if not code:
            self.connection.close()
            return
        body = json.dumps({"kind": "Job", "status": status} if code == 200 else {"kind": "Status", "code": code})
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubernetes]:
    monkeypatch.setattr(
        client, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    )  # between the client's own tries
    with Kubernetes(("127.0.0.1", 0), Asked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def status_after_a_poll(
    folder: Path,
    kubernetes: Kubernetes,
    launcher: dict[str, str],
    raises: type[Exception] | tuple[type[Exception], ...] = (),
) -> dg.DagsterRunStatus:
    """A started run's status once Dagster's monitoring has looked at it, and shown one of these errors."""
    kubeconfig = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{kubernetes.server_port}"}}],
        "users": [{"name": "nobody", "user": {}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    config = {
        "load_incluster_config": False,
        "kubeconfig_file": str(folder / "kubeconfig"),
        "service_account_name": "runs",
        "instance_config_map": "amr-dagster-instance",
        "dagster_home": "/opt/amr/dagster_home",
        "job_namespace": "amr",
        "job_image": "amr-control",
    }
    settings = {
        "run_launcher": {**launcher, "config": config},
        "run_monitoring": {"enabled": True},
        "telemetry": {"enabled": False},
    }
    with dg.DagsterInstance.local_temp(str(folder), overrides=settings) as instance:
        run = instance.create_run_for_job(dg.job(name="any")(lambda: None), status=dg.DagsterRunStatus.STARTED)
        record = instance.get_run_record_by_id(run.run_id)
        assert isinstance(record, RunRecord)
        with pytest.raises(raises) if raises else nullcontext():
            monitor_started_run(instance, None, record, logging.getLogger("poll"))  # type: ignore[arg-type]
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.status


@pytest.mark.parametrize(
    ("answers", "raises"),
    [
        pytest.param([(0, {})], (HTTPError,), id="hangs up"),
        pytest.param(
            [(500, {})], (DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError), id="fails itself"
        ),
        pytest.param([(403, {})], (DagsterK8sUnrecoverableAPIError,), id="refuses"),
        pytest.param([(403, {}), (200, {"active": 1})], (), id="answers again"),
    ],
)
def test_a_run_is_left_alone_while_kubernetes_cannot_be_asked(
    tmp_path: Path,
    kubernetes: Kubernetes,
    answers: list[tuple[int, dict[str, int]]],
    raises: tuple[type[Exception], ...],
):
    kubernetes.answers = list(answers)
    assert status_after_a_poll(tmp_path, kubernetes, OURS, raises) is dg.DagsterRunStatus.STARTED


def test_dagsters_own_launcher_has_such_a_run_failed(tmp_path: Path, kubernetes: Kubernetes):
    kubernetes.answers = [(500, {})]
    assert status_after_a_poll(tmp_path, kubernetes, THEIRS) is dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((404, {}), dg.DagsterRunStatus.FAILURE),
        ((200, {"failed": 1}), dg.DagsterRunStatus.FAILURE),
        ((200, {"active": 1}), dg.DagsterRunStatus.STARTED),
    ],
)
def test_what_kubernetes_says_of_a_job_counts(
    tmp_path: Path, kubernetes: Kubernetes, answer: tuple[int, dict[str, int]], status: dg.DagsterRunStatus
):
    kubernetes.answers = [answer]
    assert status_after_a_poll(tmp_path, kubernetes, OURS) is status
