"""docker/: what compose would start and what the images are made of. No container engine is here to start it."""

import fnmatch
import re
import subprocess
from pathlib import Path

import pytest

from amr_pipeline_tests.composed import PASSWORDS, MissingVariableError, compose, services
from amr_pipeline_tests.rendered import program

REPOSITORY = Path(__file__).parent.parent
DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"
ONCE = {"databases", "bucket", "mlflow-schema", "dagster-schema"}  # end when they have done their work

OWN_IMAGES = {"amr-control:0.1.0": "control", "amr-gpu:0.1.0": "gpu"}

MAY_ADD_CAPABILITIES = {"proxy": ["NET_BIND_SERVICE"]}
RELAXED_PROFILES = {"code": {"seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"}}  # bubblewrap


# -------------------------------------------------------------------------------------------------------- passwords


@pytest.mark.parametrize("name", PASSWORDS)
def test_nothing_starts_without_a_password(name: str) -> None:
    filled = dict.fromkeys(PASSWORDS, "x")
    compose(filled)
    with pytest.raises(MissingVariableError, match=name):
        compose({**filled, name: ""})


def test_the_example_names_the_passwords_and_holds_none() -> None:
    text = (REPOSITORY / "docker" / "example.env").read_text()
    assert re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE) == [(name, "") for name in PASSWORDS]


def test_no_secret_has_a_value_in_the_file() -> None:
    marked = {name: f"<{name}>" for name in PASSWORDS}
    for where, service in services(marked).items():
        for name, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN$|ACCESS_KEY", name):
                assert value in marked.values(), f"{where} {name}"
        assert not any(value in str(service.get("command", "")) for value in marked.values()), where


def test_keys_of_http_engines_come_from_a_file_and_go_to_runs_only() -> None:
    having = {name: service["env_file"] for name, service in services().items() if "env_file" in service}
    assert having == {"code": [{"path": "./secrets/http_keys.env", "required": False}]}
    ignored = (REPOSITORY / ".gitignore").read_text().split()
    assert {"docker/.env", "docker/secrets/"} <= set(ignored)


def test_only_what_needs_a_login_has_it() -> None:
    def having(name: str) -> set[str]:
        return {where for where, service in services().items() if name in (service.get("environment") or {})}

    assert having("AWS_SECRET_ACCESS_KEY") == {"objects", "bucket", "mlflow", "code"}
    assert having("AMR_POSTGRES_PASSWORD") == {"code", "webserver", "daemon", "dagster-schema"}
    assert having("PGPASSWORD") == {"databases", "mlflow", "mlflow-schema"}
    assert having("RAY_AUTH_TOKEN") == {"code", "ray-head", "ray-worker"}


# ---------------------------------------------------------------------------------------------------------- network


def test_only_the_proxy_is_published() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"proxy": ["0.0.0.0:8443:8443", "0.0.0.0:8444:8444"]}


def test_only_three_services_leave_the_inner_network() -> None:
    document = compose()
    assert document["networks"]["inside"] == {"internal": True}
    joined = {name: set(service["networks"]) for name, service in document["services"].items()}
    assert all("inside" in networks for networks in joined.values())
    assert {name for name, networks in joined.items() if networks != {"inside"}} == {"proxy", "code", "ray-worker"}


def test_the_store_listens_with_its_s3_port_only() -> None:
    command = services()["objects"]["command"]
    assert {"-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0", "-s3.port.iceberg=0"} <= set(command)


# -------------------------------------------------------------------------------------------------------- containers


def test_containers_have_no_root_no_rights_and_limits() -> None:
    for name, service in services().items():
        image = service["image"]
        assert image in OWN_IMAGES or re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), f"{name} runs as root"
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("cap_add", []) == MAY_ADD_CAPABILITIES.get(name, []), name
        extra = set(service["security_opt"]) - {"no-new-privileges:true"}
        assert "no-new-privileges:true" in service["security_opt"], name
        assert extra == RELAXED_PROFILES.get(name, set()), name
        assert service["read_only"] is True, name
        assert service["mem_limit"], name
        assert not {"privileged", "network_mode", "pid", "ipc", "devices"} & service.keys(), name


def test_folders_that_programs_are_run_from_may_run_programs() -> None:
    for name, service in services().items():
        if service["image"] in OWN_IMAGES:
            assert "/tmp:exec,mode=1777" in service["tmpfs"], name


def test_what_lasts_says_whether_it_is_healthy_and_is_waited_for() -> None:
    found = services()
    for name, service in found.items():
        check = service.get("healthcheck", {})
        assert name in ONCE or check.get("test"), name
        assert (service["restart"] == "no") == (name in ONCE), name
        for other, wanted in (service.get("depends_on") or {}).items():
            expected = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert wanted == {"condition": expected}, f"{name} -> {other}"


def test_database_and_bucket_exist_before_what_uses_them() -> None:
    found = services()
    assert found["mlflow-schema"]["depends_on"].keys() == {"databases"}
    assert found["mlflow"]["depends_on"].keys() == {"mlflow-schema", "bucket"}
    assert found["dagster-schema"]["depends_on"].keys() == {"postgres"}
    assert found["code"]["depends_on"].keys() == {"dagster-schema", "bucket"}


def test_images_are_versions_and_not_whatever_is_newest() -> None:
    for name, service in services().items():
        _, _, tag = service["image"].rpartition(":")
        assert re.match(r"\d+\.?\d*", tag), f"{name}: {service['image']}"


def test_compose_refers_to_what_exists() -> None:
    document = compose()
    for name, service in document["services"].items():
        assert set(service.get("depends_on") or {}) <= set(document["services"]), name
        assert set(service.get("secrets", [])) <= set(document["secrets"]), name
        assert set(service["networks"]) <= set(document["networks"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            here = source.startswith("./")
            assert (REPOSITORY / "docker" / source).exists() if here else source in document["volumes"], name
        if service["image"] in OWN_IMAGES:
            built = {"context": "..", "dockerfile": "docker/Dockerfile", "target": OWN_IMAGES[service["image"]]}
            (system,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
            arguments = service["build"].pop("args")
            assert service["build"] == built, name
            assert arguments.pop("PYTHON_IMAGE") == system, name
            assert arguments == ({"PIP_EXTRA_INDEX_URL": ""} if built["target"] == "control" else {}), name
    assert all(secret["file"].startswith("./secrets/") for secret in document["secrets"].values())


def test_gpus_are_reserved_where_engines_are() -> None:
    reserving = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in services().items()
        if "deploy" in service
    }
    assert reserving == {"ray-worker": [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]}
    assert {name for name, service in services().items() if service.get("profiles") == ["gpu"]} == {
        "ray-head",
        "ray-worker",
    }


# ------------------------------------------------------------------------------------------------------------ images


def instructions(stage: str) -> list[tuple[str, str]]:
    """Instructions of a stage and of what it is made from, in order."""
    joined = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", joined)
    stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    current: list[tuple[str, str]] = []
    for line in filter(None, joined.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            origin, _, name = rest.partition(" AS ")
            current = []
            stages[name] = (origin, current)
        else:
            current.append((word, rest))
    origin, own = stages[stage]
    return [*(instructions(origin) if origin in stages else []), *own]


def test_the_linter_finds_nothing() -> None:
    done = subprocess.run([program("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("stage", ["control", "gpu"])
def test_an_image_ends_as_a_user_with_an_entry_and_a_health_check(stage: str) -> None:
    found = instructions(stage)
    words = [word for word, _ in found]
    assert [rest for word, rest in found if word == "USER"] == ["10001:10001"]
    assert words.index("USER") < words.index("CMD")
    assert {"ENTRYPOINT", "CMD", "HEALTHCHECK"} <= set(words)
    assert [rest for word, rest in found if word == "COPY" and "--chown" in rest] == [], "code that it cannot change"


def test_the_system_can_be_pinned_by_digest() -> None:
    text = DOCKERFILE.read_text()
    (argument,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)
    outside = [
        name
        for name in re.findall(r"^FROM (\S+) AS", text, re.MULTILINE)
        if name not in re.findall(r" AS (\S+)$", text, re.MULTILINE)
    ]
    assert outside == ["${PYTHON_IMAGE}"]
    assert re.fullmatch(r"python:3\.11-[\w-]+(@sha256:[0-9a-f]{64})?", argument)


def in_context(name: str) -> bool:
    """Whether .dockerignore lets a file into the build: the last line that fits decides."""
    kept = True
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        folders = [name, *map(str, Path(name).parents)]
        if any(fnmatch.fnmatch(part, pattern.replace("**/", "*")) for part in folders if part != "."):
            kept = line.startswith("!")
    return kept


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    copied = [rest.split()[:-1] for word, rest in instructions("control") + instructions("build") if word == "COPY"]
    names = {name for line in copied if not line[0].startswith("--from") for name in line}
    assert {"locks", "amr_pipeline", "docker/dagster.yaml"} <= names
    assert [name for name in names if not (REPOSITORY / name).exists() or not in_context(name)] == []
    for name in (
        ".env",
        "docker/.env",
        "docker/secrets/tls.key",
        ".git/config",
        "README.md",
        "amr_pipeline_tests/x.py",
    ):
        assert not in_context(name), name
    assert not in_context("amr_pipeline/__pycache__/tables.cpython-311.pyc")
    files = [path for name in names for path in [REPOSITORY / name, *(REPOSITORY / name).rglob("*")] if path.is_file()]
    assert sum(path.stat().st_size for path in files if "__pycache__" not in path.parts) < 10 * 2**20
