"""Pods of runs, made by Dagster's own launcher from the deployment's settings: they execute what models wrote."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._cli.api import ExecuteRunArgs
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.storage.dagster_run import DagsterRunStatus

from amr_pipeline_tests.rendered import OVERLAYS, pods
from amr_pipeline_tests.run_pods import job, run_pod, settings

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_run_has_the_image_of_its_code(overlay: str) -> None:
    (container,) = run_pod(overlay).containers
    (code,) = pods(overlay)["code"].containers
    assert container["image"] == code["image"]
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    assert "command" not in container, "the image's entry point starts it"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_run_gets_what_its_code_location_gets_and_the_keys_of_engines(overlay: str) -> None:
    (container,) = run_pod(overlay).containers
    maps = [entry["configMapRef"]["name"] for entry in container["envFrom"] if "configMapRef" in entry]
    secrets = {
        entry["secretRef"]["name"]: entry["secretRef"].get("optional")
        for entry in container["envFrom"]
        if "secretRef" in entry
    }
    assert maps == ["amr-deployment"]
    assert secrets == {"amr-postgres": None, "amr-objects": None, "amr-http-keys": True}
    variables = {entry["name"]: entry for entry in container["env"]}
    token = variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert token == {"name": "amr-ray", "key": "auth_token", "optional": True}, "without a cluster there is none"
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"/tmp", "/dev/shm", "/var/lib/amr", variables["DAGSTER_HOME"]["value"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_lost_run_is_dagsters_to_repeat_and_no_pod_is_left_for_ever(overlay: str) -> None:
    spec = job(overlay)["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["ttlSecondsAfterFinished"] <= 7 * 24 * 3600
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert settings(overlay)["config"]["fail_pod_on_run_failure"] is False


def test_with_gpus_runs_have_nodes_and_a_kernel_of_their_own() -> None:
    spec = run_pod("gpu").spec
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["nodeSelector"] == {"amr/sandbox": "true"}
    assert spec["tolerations"] == [{"key": "amr/sandbox", "operator": "Exists", "effect": "NoSchedule"}]
    others = [pod.spec for name, pod in pods("gpu").items() if name != "housekeeping"]
    looks = pods("gpu")["housekeeping"].spec
    assert all(looks[field] == spec[field] for field in ("runtimeClassName", "nodeSelector", "tolerations"))
    assert not any("runtimeClassName" in other or "nodeSelector" in other for other in others)
    assert "runtimeClassName" not in run_pod("small").spec


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_daily_look_compares_engines_with_the_memory_of_runs(overlay: str) -> None:
    (looks,), (run,) = pods(overlay)["housekeeping"].containers, run_pod(overlay).containers
    command = looks["args"][-1].split()
    assert f"{command[command.index('--run-memory') + 1]}Gi" == run["resources"]["limits"]["memory"]


def test_tags_of_a_run_change_its_size_and_not_its_rights() -> None:
    def tagged(**pod: object) -> dict:
        return job("gpu", tags=(("dagster-k8s/config", json.dumps(pod)),))

    larger = {"limits": {"cpu": "64", "memory": "256Gi"}}
    (container,) = tagged(container_config={"resources": larger})["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == larger["limits"]
    for refused in (
        {"container_config": {"security_context": {"privileged": True}}},
        {"container_config": {"env": [{"name": "AMR_STORAGE", "value": "s3://elsewhere"}]}},
        {"pod_spec_config": {"service_account_name": "dagster"}},
        {"pod_spec_config": {"automount_service_account_token": True}},
        {"pod_spec_config": {"volumes": [{"name": "node", "host_path": {"path": "/"}}]}},
    ):
        with pytest.raises(Exception, match="violated the allowed list"):
            tagged(**refused)


JOB = """
import dagster as dg

@dg.op
def nothing():
    pass

@dg.job
def alone():
    nothing()
"""


@pytest.mark.engines
def test_a_run_needs_no_access_to_kubernetes(tmp_path: Path) -> None:
    """Its pod has no token: the launcher of its instance would fail to load there, and is not loaded."""
    (tmp_path / "alone_job.py").write_text(JOB)
    home = tmp_path / "home"
    home.mkdir()
    launcher = settings("gpu")
    assert launcher["config"]["load_incluster_config"] is True
    (home / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": launcher, "telemetry": {"enabled": False}}))
    pointer = RepositoryPythonOrigin(
        executable_path=sys.executable, code_pointer=ModuleCodePointer("alone_job", "alone"), entry_point=["dagster"]
    )
    origin = JobPythonOrigin(job_name="alone", repository_origin=pointer)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        sys.path.insert(0, str(tmp_path))
        try:
            from alone_job import alone  # pyright: ignore[reportMissingImports]
        finally:
            sys.path.remove(str(tmp_path))
        run = instance.create_run_for_job(alone, job_code_origin=origin)
        arguments = ExecuteRunArgs(job_origin=origin, run_id=run.run_id, instance_ref=instance.get_ref())
        program = str(Path(sys.executable).parent / "dagster")
        done = subprocess.run(
            [program, *arguments.get_command_args()[1:]],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
            },
        )
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None
        assert ended.status == DagsterRunStatus.SUCCESS, done.stdout + done.stderr
        with pytest.raises(Exception, match="Service host/port is not set"):
            _ = instance.run_launcher
