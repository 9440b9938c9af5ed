"""A Dagster instance that would overlap engines or spend twice is found; each fix is applied."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from amr_pipeline.assets.instance_check import UnsetVariableError, check_instance, postgres_settings, settings_of
from amr_pipeline.report.findings import Finding

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Dagster home with the settings of the checkout."""
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path)
    return tmp_path


def change(home: Path, part: str, value: object) -> None:
    settings = yaml.safe_load((home / "dagster.yaml").read_text())
    (home / "dagster.yaml").write_text(yaml.safe_dump({**settings, part: value}))


def looked(home: Path, *, is_named: bool = True) -> list[Finding]:
    return check_instance(home, is_named=is_named)


@pytest.mark.parametrize("name", ["dagster.yaml", "docker/dagster.yaml", "k8s/base/dagster_instance.yaml"])
def test_the_shipped_instances_are_well(tmp_path: Path, name: str):
    shutil.copy(REPOSITORY / name, tmp_path / "dagster.yaml")
    assert [one.level for one in looked(tmp_path)] == ["ok"]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_home_without_its_settings_is_broken_until_the_command_ran(tmp_path: Path, is_there: bool):
    home = tmp_path / "dagster_home"
    if is_there:
        home.mkdir()
    (found,) = looked(home)
    assert found.level == "broken"
    subprocess.run(["sh", "-c", found.fix], check=True, cwd=REPOSITORY)
    assert [one.level for one in looked(home)] == ["ok"]


def test_a_home_that_nobody_named_is_made_by_the_commands(tmp_path: Path):
    assert [one.level for one in looked(tmp_path / "none", is_named=False)] == ["ok"]


def applied(home: Path, found: Finding) -> None:
    """What the finding says to write into `dagster.yaml`, written."""
    place, _, said = found.fix.partition(": ")
    assert place == f"in {home}/dagster.yaml"
    settings = yaml.safe_load((home / "dagster.yaml").read_text())
    for name, value in yaml.safe_load(said).items():
        settings[name] = {**(settings.get(name) or {}), **value}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize(
    ("part", "value", "level", "said"),
    [
        ("concurrency", {"runs": {"max_concurrent_runs": 2}}, "broken", "default_limit is None"),
        ("concurrency", {"pools": {"default_limit": 1}}, "warning", "granularity"),
        ("run_retries", {"enabled": True, "max_retries": 2}, "broken", "retry_on_asset_or_op_failure"),
        ("run_retries", {"enabled": True, "retry_on_asset_or_op_failure": True}, "broken", "not false"),
        ("run_retries", None, "warning", "lost processes stay failed"),
        ("run_monitoring", {"enabled": False}, "warning", "go unnoticed"),
    ],
)
def test_settings_that_cost_something_are_found_until_they_are_changed_as_told(
    home: Path, part: str, value: object, level: str, said: str
):
    change(home, part, value)
    found = looked(home)
    assert [(one.level, said in one.found) for one in found] == [(level, True)]
    while (found := looked(home))[0].level != "ok":
        applied(home, found[0])


@pytest.mark.parametrize("text", ["concurrency: [", "- a list", "a: *nothing"])
def test_settings_that_cannot_be_read_are_broken(home: Path, text: str):
    (home / "dagster.yaml").write_text(text)
    (found,) = looked(home)
    assert (found.level, "cannot be read" in found.found) == ("broken", True)


def test_the_login_of_the_instances_database_is_read_as_dagster_reads_it():
    settings = yaml.safe_load((REPOSITORY / "docker" / "dagster.yaml").read_text())
    environ = {"AMR_POSTGRES_HOST": "db", "AMR_POSTGRES_USER": "amr", "AMR_POSTGRES_PASSWORD": "x"}
    found = postgres_settings(settings, environ)
    assert found == {"hostname": "db", "port": "5432", "username": "amr", "password": "x", "db_name": "dagster"}
    assert postgres_settings({"storage": {"postgres": settings["storage"]["custom"]["config"]}}, environ) == found
    with pytest.raises(UnsetVariableError, match="AMR_POSTGRES_PASSWORD"):
        postgres_settings(settings, {name: environ[name] for name in ("AMR_POSTGRES_HOST", "AMR_POSTGRES_USER")})
    embedded = settings_of(REPOSITORY)
    assert isinstance(embedded, dict)
    assert postgres_settings(embedded, {}) is None
