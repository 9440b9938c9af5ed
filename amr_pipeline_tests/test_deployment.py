"""What all deployments share: instance files that load, variables that are handed on, commands that their programs know."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import click
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline_tests.composed import FILLED, services
from amr_pipeline_tests.rendered import OVERLAYS, pods, program, resources

REPOSITORY = Path(__file__).parent.parent
YAML_FILES = [path for folder in (".", "docker", "k8s") for path in sorted((REPOSITORY / folder).glob("*.y*ml"))]
YAML_FILES += sorted((REPOSITORY / "k8s").rglob("*/*.yaml"))


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_every_yaml_file_parses(path: Path) -> None:
    assert [document for document in yaml.safe_load_all(path.read_text()) if document]


# --------------------------------------------------------------------------------------------------------- instances

EMBEDDED, COMPOSED, KUBERNETES = "dagster.yaml", "docker/dagster.yaml", "k8s/base/dagster_instance.yaml"


def instance_settings(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Settings as Dagster reads and validates them, from a home as our commands lay it out."""
    for name in ("AMR_HOME", "AMR_POSTGRES_HOST", "AMR_POSTGRES_USER", "AMR_POSTGRES_PASSWORD"):
        monkeypatch.setenv(name, "set")
    shutil.copy(source, tmp_path / "dagster.yaml")
    settings, _ = dagster_instance_config(str(tmp_path))
    return dict(settings)


@pytest.mark.parametrize("name", [EMBEDDED, COMPOSED, KUBERNETES])
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
    assert {name: days["purge_after_days"]["skipped"] for name, days in settings["retention"].items()} == {
        "schedule": 7,
        "sensor": 7,
        "auto_materialize": 7,
    }


def test_the_embedded_instance_needs_no_variable_and_no_server() -> None:
    text = (REPOSITORY / EMBEDDED).read_text()
    assert "env:" not in text
    assert "storage" not in yaml.safe_load(text)


def differing(one: str, other: str) -> set[str]:
    first, second = (yaml.safe_load((REPOSITORY / name).read_text()) for name in (one, other))
    return {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}


def test_instances_differ_in_storage_size_and_how_runs_start_only() -> None:
    places = {"storage", "compute_logs", "local_artifact_storage", "concurrency", "code_servers"}
    assert differing(EMBEDDED, COMPOSED) == places
    assert differing(COMPOSED, KUBERNETES) == {"run_launcher", "run_monitoring"}
    assert yaml.safe_load((REPOSITORY / COMPOSED).read_text())["storage"].keys() == {"custom"}


def test_compose_and_kubernetes_have_one_workspace() -> None:
    compose, kubernetes = (REPOSITORY / "docker/workspace.yaml", REPOSITORY / "k8s/base/workspace.yaml")
    assert compose.read_text() == kubernetes.read_text()
    for overlay in OVERLAYS:
        assert resources(overlay)["ConfigMap", "amr-dagster-instance"]["data"].keys() == {
            "dagster.yaml",
            "workspace.yaml",
        }


# ------------------------------------------------------------------------------------------------- own variables

OF_THE_IMAGE = {"AMR_HOME"}
SECRET = "AMR_HTTP_KEY_"  # one per engine; a file of compose and a secret of Kubernetes
OF_NO_CONFIG_MAP = {"AMR_ALERT_URL"}  # a secret of Kubernetes
BESIDE_THEM = {"HF_HOME"}


@cache
def told() -> frozenset[str]:
    """Variables of the README's table that a deployment hands on."""
    readme = (REPOSITORY / "README.md").read_text()
    (table,) = re.findall(r"^## Environment$(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    names = set(re.findall(r"^\| `(\w+)(?:<NAME>)?` \|", table, re.MULTILINE))
    assert names > OF_THE_IMAGE | {SECRET}
    return frozenset(names - OF_THE_IMAGE - {SECRET})


def variables_of(overlay: str) -> dict[str, str]:
    return resources(overlay)["ConfigMap", "amr-deployment"]["data"]


def test_compose_hands_on_every_variable_of_the_table() -> None:
    marked = {name: f"<{name}>" for name in told()}
    code = services({**FILLED, **marked})["code"]["environment"]
    assert {name: code.get(name) for name in told()} == marked
    own = {name for name in code if name.startswith("AMR_") and not name.startswith("AMR_POSTGRES_")}
    assert own == {name for name in told() if name.startswith("AMR_")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_hands_on_every_variable_of_the_table(overlay: str) -> None:
    assert variables_of(overlay).keys() == (told() - OF_NO_CONFIG_MAP) | BESIDE_THEM
    (code,) = pods(overlay)["code"].containers
    secrets = {entry["name"] for entry in code["env"] if "secretKeyRef" in entry.get("valueFrom", {})}
    assert secrets == OF_NO_CONFIG_MAP
    assert {"configMapRef": {"name": "amr-deployment"}} in code["envFrom"]


@pytest.mark.parametrize("where", ["compose", *OVERLAYS])
def test_what_is_left_empty_means_its_default(where: str) -> None:
    given = services()["code"]["environment"] if where == "compose" else variables_of(where)
    settled = {name: value for name, value in given.items() if value}
    assert deployment_from_environment(given) == deployment_from_environment(settled)
    assert deployment_from_environment(given).storage == "s3://amr/tables"
    assert deployment_from_environment(given).mlflow_uri == "http://mlflow:5000"
    assert deployment_from_environment(given).study in ("micro", "deepdistill")


def test_the_gpu_overlay_goes_to_the_cluster_that_it_makes() -> None:
    address = deployment_from_environment(variables_of("gpu")).ray_address
    assert address == f"ray://{resources('gpu')['RayCluster', 'amr']['metadata']['name']}-head-svc:10001"
    assert deployment_from_environment(variables_of("small")).ray_address is None


# ------------------------------------------------------------------------------------------------------ commands


def told_commands() -> dict[str, list[str]]:
    """Every command of the deployments by where it stands, without the init that starts it."""
    found = {f"compose {name}": service["command"] for name, service in services().items() if "command" in service}
    for overlay in OVERLAYS:
        for name, pod in pods(overlay).items():
            for container in pod.containers:
                command = [*container.get("command", []), *container.get("args", [])]
                found[f"{overlay} {name} {container['name']}"] = command[2:] if command[:1] == ["tini"] else command
    for number, line in enumerate(re.findall(r"^\s*CMD (\[.*?\])$", dockerfile(), re.MULTILINE | re.DOTALL)):
        found[f"image {number}"] = yaml.safe_load(line)
    checks = {
        f"{name} health": service["healthcheck"] for name, service in services().items() if "healthcheck" in service
    }
    found |= {name: check["test"][1:] for name, check in checks.items() if check.get("test")}
    return {where: command for where, command in found.items() if command}


def dockerfile() -> str:
    return re.sub(r"\\\n\s*", "", (REPOSITORY / "docker" / "Dockerfile").read_text())


def of(*program_and_words: str) -> list[list[str]]:
    """What follows these words in every command that begins with them."""
    size = len(program_and_words)
    return [words[size:] for words in told_commands().values() if tuple(words[:size]) == program_and_words]


def parse(command: click.Command, words: Sequence[str]) -> dict:
    """The options of a command as its own program reads them; unknown ones raise."""
    return command.make_context(command.name, list(words)).params


def test_every_command_is_of_a_program_that_is_tried_below() -> None:
    tried = {"dagster", "dagster-webserver", "dagster-daemon", "mlflow", "ray", "server", "caddy", "python"}
    not_here = {"sh", "sleep", "pg_isready", "wget"}  # of other images
    assert {words[0] for words in told_commands().values()} == tried | not_here


def dagster_commands() -> list[tuple[Callable[[], click.Command], tuple[str, ...], int]]:
    def code_server() -> click.Command:
        from dagster._cli.code_server import start_command

        return start_command

    def health() -> click.Command:
        from dagster._cli.api import grpc_health_check_command

        return grpc_health_check_command

    def migrate() -> click.Command:
        from dagster._cli.instance import migrate_command

        return migrate_command

    def webserver() -> click.Command:
        from dagster_webserver.cli import dagster_webserver

        return dagster_webserver

    def daemon() -> click.Command:
        from dagster._daemon.cli import run_command

        return run_command

    def liveness() -> click.Command:
        from dagster._daemon.cli import liveness_check_command

        return liveness_check_command

    return [
        (code_server, ("dagster", "code-server", "start"), 4),
        (health, ("dagster", "api", "grpc-health-check"), 1),
        (migrate, ("dagster", "instance", "migrate"), 3),
        (webserver, ("dagster-webserver",), 3),
        (daemon, ("dagster-daemon", "run"), 3),
        (liveness, ("dagster-daemon", "liveness-check"), 1),
    ]


@pytest.mark.parametrize(("command", "words", "least"), dagster_commands(), ids=lambda value: str(value)[:40])
def test_dagster_knows_its_commands(
    command: Callable[[], click.Command], words: tuple[str, ...], least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    found = of(*words)
    assert len(found) >= least
    for options in found:
        in_image = "/opt/amr/dagster_home/"  # where the image keeps docker/workspace.yaml
        parse(command(), [word.replace(in_image, f"{REPOSITORY}/docker/") for word in options])


@pytest.mark.parametrize("words", [("server",), ("db", "upgrade")], ids=" ".join)
def test_mlflow_knows_its_commands(words: tuple[str, ...]) -> None:
    first, *others = of("mlflow", *words)
    assert others == [first] * len(OVERLAYS)
    asked = [program("mlflow"), *words, *first, "--help"]  # options are read before help is given
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.engines
def test_ray_knows_its_commands() -> None:
    from ray.scripts.scripts import start

    found = [parse(start, options) for options in of("ray", "start")]
    heads = [options for options in found if options["head"]]
    workers = [options for options in found if not options["head"]]
    assert [options["num_cpus"] for options in heads] == [0, 0]
    assert [options["address"] for options in workers] == ["ray-head:6379"]
    assert all(options["block"] for options in found)


def test_the_store_knows_its_command() -> None:
    (options,) = of("server")
    done = subprocess.run([program("weed"), "server", *options, "-h"], capture_output=True, text=True, check=False)
    assert "flag provided but not defined" not in done.stderr
    assert "Example: weed server" in done.stdout + done.stderr


def test_inline_programs_compile() -> None:
    found = of("python", "-c")
    assert len(found) >= 5
    for (text,) in found:
        compile(text, "compose", "exec")
