"""k8s/: what the overlays come to fits Kubernetes' schemas, and no pod has more rights than it needs.

KubeRay's own schema is in no package: a RayCluster is held against the fields listed here, its pods against Kubernetes'
schema, and the whole is read by Ray's own autoscaler.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest

from amr_pipeline_tests.rendered import OVERLAYS, Pod, documents, pods, resources
from amr_pipeline_tests.run_pods import job, run_pod

REPOSITORY = Path(__file__).parent.parent
KUBERNETES = ("1.33", "1.37")  # the oldest release that is looked after, and the newest known

TALKS_TO_KUBERNETES = {
    "webserver": "ends runs",
    "daemon": "starts runs",
    "ray-head": "the autoscaler beside it asks for workers",
}
MAY_ADD_CAPABILITIES = {"proxy": ["NET_BIND_SERVICE"]}  # its program carries the right, and needs it to start
WITHOUT_READINESS = {"daemon": "nothing connects to it", "runs": "ends by itself", "housekeeping": "ends by itself"}
WITHOUT_READINESS |= {"hub": "nothing connects to it"}
WITHOUT_LIVENESS = {"runs": "run monitoring watches it", "housekeeping": "its job has a deadline", "hub": "as well"}


def all_pods(overlay: str) -> dict[str, Pod]:
    return {**pods(overlay), "runs": run_pod(overlay)}


def containers() -> Iterator[tuple[str, str, Pod, dict]]:
    for overlay in OVERLAYS:
        for name, pod in all_pods(overlay).items():
            for container in pod.containers:
                yield f"{overlay} {name}", name, pod, container


# ---------------------------------------------------------------------------------------------------------- schemas

CLUSTER_FIELDS = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
AUTOSCALER_FIELDS = {"idleTimeoutSeconds", "env", "resources", "securityContext", "volumeMounts"}
HEAD_FIELDS = {"serviceType", "rayStartParams", "template"}
WORKER_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def validate(manifest: dict) -> None:
    for version in KUBERNETES:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_fit_the_schemas(overlay: str) -> None:
    for manifest in [*documents(overlay), job(overlay), *(pod.manifest() for pod in pods(overlay).values())]:
        if manifest["kind"] != "RayCluster":
            validate(manifest)


def test_the_schemas_know_what_is_wrong() -> None:
    manifest = pods("small")["code"].manifest()
    with pytest.raises(kubernetes_validate.ValidationError):
        validate({**manifest, "spec": {**manifest["spec"], "automountServiceToken": False}})


def test_the_ray_cluster_has_known_fields_only() -> None:
    spec = resources("gpu")["RayCluster", "amr"]["spec"]
    assert spec.keys() <= CLUSTER_FIELDS
    assert spec["autoscalerOptions"].keys() <= AUTOSCALER_FIELDS
    assert spec["headGroupSpec"].keys() <= HEAD_FIELDS
    assert all(group.keys() == WORKER_FIELDS for group in spec["workerGroupSpecs"])
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert group["template"].keys() == {"metadata", "spec"}
    beside = {key: value for key, value in spec["autoscalerOptions"].items() if key != "idleTimeoutSeconds"}
    head = pods("gpu")["ray-head"].manifest()
    head["spec"] = {**head["spec"], "containers": [{"name": "autoscaler", **beside}]}
    validate(head)


# ------------------------------------------------------------------------------------------------------------- rays


@pytest.mark.engines
def test_rays_autoscaler_finds_room_for_every_distiller_of_the_paper() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    from amr_pipeline.studies.deepdistill import STUDY

    kinds = _derive_autoscaling_config_from_ray_cr(resources("gpu")["RayCluster", "amr"])["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0, "no engine on the head"
    sizes = {name: kind["resources"].get("GPU", 0) for name, kind in kinds.items()}
    assert sizes == {"headgroup": 0, "one-gpu": 1, "eight-gpus": 8}
    r1 = STUDY.distiller("r1")
    assert (r1.tensor_parallel_size, r1.pipeline_parallel_size) == (8, 2), "a stage per node of eight"
    assert kinds["eight-gpus"]["max_workers"] >= r1.pipeline_parallel_size
    assert kinds["eight-gpus"]["resources"]["CPU"] >= 8, "a bundle is a CPU and a GPU"
    small = [row for row in STUDY.distillers if row.gpus_per_replica == 1]
    assert kinds["one-gpu"]["max_workers"] >= len(small) == 2


def test_ray_is_the_version_of_the_lock_and_asks_for_its_token() -> None:
    lock = (REPOSITORY / "locks" / "gpu.lock").read_text()
    spec = resources("gpu")["RayCluster", "amr"]["spec"]
    assert re.search(rf"^ray=={re.escape(spec['rayVersion'])} ", lock, re.MULTILINE)
    asking = [container for name, pod in pods("gpu").items() if "ray" in name for container in pod.containers]
    for container in [*asking, spec["autoscalerOptions"]]:
        variables = {entry["name"]: entry for entry in container["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "amr-ray", "key": "auth_token"}


def test_ray_holds_no_key_of_the_database_or_the_store() -> None:
    for name, pod in pods("gpu").items():
        if "ray" in name:
            assert all("envFrom" not in container for container in pod.containers), name
            assert not any(label.startswith("reaches/d") or label.startswith("reaches/o") for label in pod.labels), name


# ----------------------------------------------------------------------------------------------------------- rights


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_admits_restricted_pods_only(overlay: str) -> None:
    labels = resources(overlay)["Namespace", "amr"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_containers_have_no_root_no_rights_and_a_root_file_system_they_cannot_write() -> None:
    for where, name, pod, container in containers():
        context = {**pod.spec["securityContext"], **container["securityContext"]}
        assert context["runAsNonRoot"] is True, where
        assert context["runAsUser"] > 0, where
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert context["allowPrivilegeEscalation"] is False, where
        assert context["readOnlyRootFilesystem"] is True, where
        assert context["capabilities"]["drop"] == ["ALL"], where
        assert context["capabilities"].get("add", []) == MAY_ADD_CAPABILITIES.get(name, []), where
        assert "privileged" not in context, where
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]} or name == "proxy", where


def test_pods_share_nothing_with_their_node() -> None:
    for where, _, pod, _ in containers():
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.spec.keys(), where
        kinds = {kind for volume in pod.spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "projected"}, where
        assert all("sizeLimit" in volume.get("emptyDir", {"sizeLimit": None}) for volume in pod.spec["volumes"]), where
        # Kubernetes' variables of services, such as MLFLOW_PORT, are options of the programs here.
        assert pod.spec["enableServiceLinks"] is False, where


def test_only_what_talks_to_kubernetes_has_a_token() -> None:
    for overlay in OVERLAYS:
        found = resources(overlay)
        having = {name for name, pod in all_pods(overlay).items() if pod.spec["automountServiceAccountToken"]}
        assert having == {name for name in TALKS_TO_KUBERNETES if name in pods(overlay)}
        accounts = {name: account for (kind, name), account in found.items() if kind == "ServiceAccount"}
        assert all(account["automountServiceAccountToken"] is False for account in accounts.values())
        assert all("annotations" not in account["metadata"] for account in accounts.values()), "no identity of a cloud"
        used = {name: pod.spec["serviceAccountName"] for name, pod in all_pods(overlay).items()}
        assert set(used.values()) <= accounts.keys()
        assert [name for name, account in used.items() if account == "runs"] == ["housekeeping", "runs"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_dagster_may_handle_jobs_and_read_pods_and_nothing_else(overlay: str) -> None:
    roles = {
        name: role["rules"] for (kind, name), role in resources(overlay).items() if "Role" in kind and "rules" in role
    }
    granted = {
        (resource, verb) for rule in roles["dagster"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    assert roles.keys() == {"dagster"}
    assert {resource for resource, verb in granted if verb not in ("get", "list", "watch")} == {"jobs", "jobs/status"}
    assert not any("secrets" in resource or "*" in (resource, verb) for resource, verb in granted)
    (binding,) = [item for (kind, _), item in resources(overlay).items() if kind == "RoleBinding"]
    assert [subject["name"] for subject in binding["subjects"]] == ["dagster"]


# ------------------------------------------------------------------------------------------- images, sizes, probes


def test_images_are_versions() -> None:
    for where, _, _, container in containers():
        assert re.fullmatch(r"\S+(:\d[\w.-]*|@sha256:[0-9a-f]{64})", container["image"]), where


def test_containers_say_what_they_need_and_what_they_may_take() -> None:
    for where, _, _, container in containers():
        asked, limit = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory"} <= asked.keys() <= limit.keys(), where
        assert all(asked[name] == limit[name] for name in asked if "gpu" in name), where


def test_containers_are_probed() -> None:
    for where, name, pod, container in containers():
        if container in pod.spec.get("initContainers", []):
            continue  # ends before the others begin
        assert ("readinessProbe" in container) != (name in WITHOUT_READINESS), where
        assert ("livenessProbe" in container) != (name in WITHOUT_LIVENESS), where
        # What loads for minutes is not ended for it: ten minutes at least before the other probes begin.
        probe = container.get("startupProbe")
        assert (probe is None) == (name in ("proxy", "runs", "housekeeping", "hub")), where
        assert probe is None or probe["periodSeconds"] * probe["failureThreshold"] >= 600, where


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_budgets_protect_what_has_a_second_copy_and_the_rays_head(overlay: str) -> None:
    budgets = {name: item["spec"] for (kind, name), item in resources(overlay).items() if kind == "PodDisruptionBudget"}
    assert budgets.keys() == ({"proxy", "webserver", "ray-head"} if overlay == "gpu" else {"proxy", "webserver"})
    for name, budget in budgets.items():
        assert budget["selector"]["matchLabels"].items() <= pods(overlay)[name].labels.items()
    assert all(budgets[name]["maxUnavailable"] == 1 for name in ("proxy", "webserver"))
    assert overlay == "small" or budgets["ray-head"]["minAvailable"] == 1


# ----------------------------------------------------------------------------------------------------------- secrets


def secrets_of(pod: Pod) -> dict[str, set[str]]:
    """Keys that a pod takes from secrets, by secret; `*` for all of one."""
    found: dict[str, set[str]] = {}
    for container in pod.containers:
        for entry in container.get("envFrom", []):
            if "secretRef" in entry:
                found.setdefault(entry["secretRef"]["name"], set()).add("*")
        for entry in container.get("env", []):
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                found.setdefault(reference["name"], set()).add(reference["key"])
    for volume in pod.spec["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            found.setdefault(source["secret"]["name"], set()).update(item["key"] for item in source["secret"]["items"])
    return found


def test_secrets_are_references_and_go_to_what_needs_them() -> None:
    assert not any(document["kind"] == "Secret" for overlay in OVERLAYS for document in documents(overlay))
    for where, _, _, container in containers():
        for entry in container.get("env", []):
            secret = re.search(r"PASSWORD|TOKEN$|SECRET|_KEY", entry["name"])
            assert not secret or "secretKeyRef" in entry["valueFrom"], f"{where} {entry['name']}"
    holders: dict[str, set[str]] = {}
    for name, pod in all_pods("gpu").items():
        for secret in secrets_of(pod):
            holders.setdefault(secret, set()).add(name)
    assert holders == {
        "amr-postgres": {"code", "webserver", "daemon", "mlflow", "runs", "housekeeping"},
        "amr-objects": {"code", "mlflow", "runs", "housekeeping"},
        "amr-ray": {"ray-head", "ray-worker one-gpu", "ray-worker eight-gpus", "runs", "housekeeping"},
        "amr-http-keys": {"runs", "housekeeping"},
        "amr-alerts": {"code"},
        "amr-proxy-users": {"proxy"},
        "amr-proxy-tls": {"proxy"},
    }


def test_the_guide_makes_every_secret_with_the_keys_that_are_read() -> None:
    guide = (REPOSITORY / "docs" / "operating.md").read_text().replace("\\\n", " ")
    made = {}
    for name, rest in re.findall(r"kubectl create secret (?:generic|tls) ([\w-]+)([^\n]*)", guide):
        keys = set(re.findall(r"--from-(?:literal|file)=([\w.]+)=?", rest))
        made[name] = keys or set(re.findall(r"--(?:cert|key)=", rest))
    wanted: dict[str, set[str]] = {}
    for pod in all_pods("gpu").values():
        for secret, keys in secrets_of(pod).items():
            wanted.setdefault(secret, set()).update(keys)
    assert made.keys() == wanted.keys()
    for name, keys in wanted.items():
        assert name == "amr-proxy-tls" or keys - {"*"} <= made[name], name
    assert made["amr-objects"] >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


# ---------------------------------------------------------------------------------------------------------- references


def referred(pod: Pod) -> Iterator[tuple[str, str]]:
    """What a pod names, by kind and name."""
    for volume in pod.spec["volumes"]:
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in pod.containers:
        yield from (
            ("ConfigMap", entry["configMapRef"]["name"])
            for entry in container.get("envFrom", [])
            if "configMapRef" in entry
        )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_name_what_exists(overlay: str) -> None:
    found = resources(overlay)
    for where, pod in all_pods(overlay).items():
        assert set(referred(pod)) <= found.keys(), where
        for container in pod.containers:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in pod.spec["volumes"]}, where


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_lead_to_ports_of_one_kind_of_pod(overlay: str) -> None:
    for (kind, name), service in resources(overlay).items():
        if kind == "Service":
            chosen = service["spec"]["selector"].items()
            (target,) = [pod for pod in pods(overlay).values() if chosen <= pod.labels.items()]
            named = {port["name"]: port["containerPort"] for port in target.spec["containers"][0]["ports"]}
            assert {named[port["targetPort"]] for port in service["spec"]["ports"]} == {
                port["port"] for port in service["spec"]["ports"]
            }, name
