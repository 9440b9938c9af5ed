"""The job that the launcher makes of a run under an overlay, as the API server would get it."""

import json
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import yaml
from dagster._config import process_config
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.storage.dagster_run import DagsterRun

from amr_pipeline_tests.rendered import Pod, pods, resources

NOBODY = "https://127.0.0.1:1"  # no API server is asked: what would be sent is kept


class Kept:
    """Takes a job in place of the API server."""

    def __init__(self) -> None:
        self.jobs: list[object] = []

    def create_namespaced_job(self, *, body: object, **options: object) -> None:
        self.jobs.append(body)


def settings(overlay: str) -> dict:
    """The launcher's settings as the daemon reads them."""
    return yaml.safe_load(resources(overlay)["ConfigMap", "amr-dagster-instance"]["data"]["dagster.yaml"])[
        "run_launcher"
    ]


def origin(overlay: str) -> JobPythonOrigin:
    """Where the code location says that its jobs come from."""
    (container,) = pods(overlay)["code"].containers
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    command = container["args"]
    return JobPythonOrigin(
        job_name="regrade",
        repository_origin=RepositoryPythonOrigin(
            executable_path="/opt/amr/.venv/bin/python",
            code_pointer=ModuleCodePointer(command[command.index("--module-name") + 1], "defs"),
            container_image=variables["DAGSTER_CURRENT_IMAGE"],
            entry_point=["dagster"],
            container_context=json.loads(variables.get("DAGSTER_CONTAINER_CONTEXT") or "null"),
        ),
    )


@cache
def job(overlay: str, *, tags: tuple[tuple[str, str], ...] = ()) -> dict:
    """The manifest of the job of a run that has these tags."""
    from kubernetes.client import ApiClient

    with TemporaryDirectory() as folder:
        access = Path(folder) / "kubeconfig"
        context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
        kinds = {"apiVersion": "v1", "kind": "Config", "contexts": [context], "current-context": "x"}
        people = {"users": [{"name": "x", "user": {}}], "clusters": [{"name": "x", "cluster": {"server": NOBODY}}]}
        access.write_text(yaml.safe_dump(kinds | people))
        named = settings(overlay)
        launchers = getattr(import_module(named["module"]), named["class"])
        given = named["config"] | {"load_incluster_config": False, "kubeconfig_file": str(access)}
        read = process_config(dg.Shape(launchers.config_type()), given)
        assert read.success, read.errors
        kept = Kept()
        launcher = launchers.from_config_value(None, {**read.value, "k8s_client_batch_api": kept})
        with dg.DagsterInstance.local_temp(folder) as instance:
            launcher.register_instance(instance)
            run = DagsterRun(job_name="regrade", job_code_origin=origin(overlay), tags=dict(tags))
            instance.add_run(run)
            launcher.launch_run(LaunchRunContext(run, None))
    (made,) = kept.jobs
    return ApiClient().sanitize_for_serialization(made)


def run_pod(overlay: str) -> Pod:
    """The pod of a run."""
    return Pod.of("runs", job(overlay)["spec"]["template"])
