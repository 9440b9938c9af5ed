"""Manifests and instance files agree with each other and load where they are meant to; nothing here starts a server."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

REPOSITORY = Path(__file__).parent.parent
MANIFESTS = sorted((REPOSITORY / "k8s").glob("*.yaml"))
NOT_KUBERNETES = {"dagster_instance.yaml", "dagster_workspace.yaml"}  # what a config map carries


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def resources() -> dict[tuple[str, str], dict]:
    found = [document for path in MANIFESTS if path.name not in NOT_KUBERNETES for document in documents(path)]
    return {(document["kind"], document.get("metadata", {}).get("name", "")): document for document in found}


def kustomization() -> dict:
    (document,) = documents(REPOSITORY / "k8s" / "kustomization.yaml")
    return document


def pods() -> dict[str, dict]:
    """Pod specification by where it stands."""
    found = {
        name: item["spec"]["template"]["spec"] for (kind, name), item in resources().items() if kind == "Deployment"
    }
    ray = resources()["RayCluster", "amr"]["spec"]
    groups = {
        "ray head": ray["headGroupSpec"],
        **{f"ray {group['groupName']}": group for group in ray["workerGroupSpecs"]},
    }
    return {**found, **{name: group["template"]["spec"] for name, group in groups.items()}}


def compose() -> dict:
    (document,) = documents(REPOSITORY / "docker" / "compose.yaml")
    return document


@pytest.mark.parametrize(
    "path",
    sorted({*REPOSITORY.glob("*.y*ml"), *REPOSITORY.glob("docker/*.y*ml"), *MANIFESTS}),
    ids=lambda path: path.name,
)
def test_every_yaml_file_parses(path: Path) -> None:
    assert documents(path)


# --------------------------------------------------------------------------------------------------------- instances


def instance_settings(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Settings as Dagster reads and validates them, from a home as our commands lay it out."""
    for name in ("AMR_HOME", "AMR_POSTGRES_HOST", "AMR_POSTGRES_USER", "AMR_POSTGRES_PASSWORD"):
        monkeypatch.setenv(name, "set")
    shutil.copy(source, tmp_path / "dagster.yaml")
    settings, _ = dagster_instance_config(str(tmp_path))
    return dict(settings)


@pytest.mark.parametrize("name", ["dagster.yaml", "docker/dagster.yaml", "k8s/dagster_instance.yaml"])
def test_instances_retry_lost_runs_only_and_keep_quiet(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = instance_settings(REPOSITORY / name, tmp_path, monkeypatch)
    retries = {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False}
    assert settings["run_retries"] == retries
    assert settings["run_monitoring"]["enabled"]
    assert settings["concurrency"]["pools"] == {"default_limit": 1, "granularity": "run"}
    assert settings["telemetry"] == {"enabled": False}
    assert settings["nux"] == {"enabled": False}


def test_the_embedded_instance_needs_no_variable_and_no_server() -> None:
    text = (REPOSITORY / "dagster.yaml").read_text()
    assert "env:" not in text
    assert "storage" not in yaml.safe_load(text)


def test_server_instances_differ_from_the_embedded_one_in_storage_and_size_only() -> None:
    embedded, server = (
        yaml.safe_load((REPOSITORY / name).read_text()) for name in ("dagster.yaml", "docker/dagster.yaml")
    )
    differing = {key for key in embedded.keys() | server.keys() if embedded.get(key) != server.get(key)}
    assert differing == {"storage", "compute_logs", "local_artifact_storage", "concurrency", "code_servers"}
    assert server["storage"].keys() == {"postgres"}


@pytest.mark.parametrize("name", ["dagster", "workspace"])
def test_compose_and_kubernetes_run_the_same_instance(name: str) -> None:
    other = {"dagster": "dagster_instance", "workspace": "dagster_workspace"}[name]
    assert (REPOSITORY / f"docker/{name}.yaml").read_text() == (REPOSITORY / f"k8s/{other}.yaml").read_text()


# ---------------------------------------------------------------------------------------------------------- compose


def test_compose_publishes_on_loopback_only() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_has_no_password_of_its_own() -> None:
    text = (REPOSITORY / "docker" / "compose.yaml").read_text()
    secret = re.findall(r"^\s*\w*(?:PASSWORD|SECRET\w*KEY|ACCESS_KEY\w*): (.*)$", text, re.MULTILINE)
    assert secret
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+}", value) for value in secret)


def test_compose_refers_to_what_exists() -> None:
    document = compose()
    for name, service in document["services"].items():
        assert set(service.get("depends_on", {})) <= set(document["services"]), name
        assert set(service.get("secrets", [])) <= set(document["secrets"]), name
        volumes = {volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith(".")}
        assert volumes <= set(document["volumes"]), name
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", (REPOSITORY / "docker/Dockerfile").read_text(), re.MULTILINE))
    targets = {service["build"]["target"] for service in document["services"].values() if "build" in service}
    assert targets == {"control", "gpu"}
    assert targets <= stages


def test_the_image_copies_files_that_exist() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (REPOSITORY / "docker/Dockerfile").read_text(), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert "locks" in names
    assert [name for name in names if not (REPOSITORY / name).exists()] == []


# ------------------------------------------------------------------------------------------------------- kubernetes


def test_kustomization_lists_every_manifest() -> None:
    listed = set(kustomization()["resources"])
    assert listed == {path.name for path in MANIFESTS} - NOT_KUBERNETES - {"kustomization.yaml"}


def test_every_resource_is_named() -> None:
    assert all(document.get("apiVersion") and kind for (kind, _), document in resources().items())
    assert [kind for kind, name in resources() if not name] == ["Kustomization"]


def test_pods_refer_to_config_maps_and_volumes_that_exist() -> None:
    maps = {generator["name"] for generator in kustomization()["configMapGenerator"]}
    claims = {name for kind, name in resources() if kind == "PersistentVolumeClaim"}
    for where, pod in pods().items():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            assert volume.get("configMap", {"name": next(iter(maps))})["name"] in maps, where
            assert volume.get("persistentVolumeClaim", {"claimName": next(iter(claims))})["claimName"] in claims, where
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes), where
            referred = {
                entry["configMapRef"]["name"] for entry in container.get("envFrom", []) if "configMapRef" in entry
            }
            assert referred <= maps, where


def test_no_pod_runs_as_root_or_without_a_memory_limit() -> None:
    for where, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        for container in pod["containers"]:
            assert "memory" in container["resources"]["limits"], where


def test_only_the_pod_that_judges_leaves_the_default_seccomp_profile() -> None:
    relaxed = {
        where
        for where, pod in pods().items()
        for container in pod["containers"]
        if container.get("securityContext", {}).get("seccompProfile", {}).get("type") == "Unconfined"
    }
    assert relaxed == {"code"}
    labels = resources()["Deployment", "code"]["spec"]["template"]["metadata"]["labels"]
    policy = resources()["NetworkPolicy", "sandbox-reaches-no-internet"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["policyTypes"] == ["Egress"]


def test_ray_is_the_version_of_the_lock() -> None:
    lock = (REPOSITORY / "locks" / "gpu.lock").read_text()
    version = resources()["RayCluster", "amr"]["spec"]["rayVersion"]
    assert re.search(rf"^ray=={re.escape(version)} ", lock, re.MULTILINE)
