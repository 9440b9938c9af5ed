"""Whether the Dagster instance is set up as this project needs: a home, pool limits, retries of lost runs only.

Belongs here: `dagster.yaml` as it stands. Does not belong here: opening an instance (`session`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from amr_pipeline.report.findings import Finding, broken, ok, warning

CHECK = "dagster"


def check_instance(home: Path, *, is_named: bool) -> list[Finding]:
    """Look at a Dagster home and its settings.

    Args:
        home: `DAGSTER_HOME`, or where the commands make one.
        is_named: whether `DAGSTER_HOME` is set.
    """
    copied = f"mkdir -p {home} && cp dagster.yaml {home}/"
    if not home.is_dir():
        if not is_named:
            return [ok(CHECK, f"{home} is made by the first make demo, make dev or amr demo")]
        return [
            broken(
                CHECK,
                f"DAGSTER_HOME is {home}, which is no folder",
                wanted="a folder with dagster.yaml, of the checkout or (with PostgreSQL) of its docker/",
                fix=copied,
            )
        ]
    if not (home / "dagster.yaml").is_file():
        found = f"there is no dagster.yaml in {home}: Dagster runs with its own defaults, without pool limits"
        return [broken(CHECK, found, wanted="that of the checkout, or (with PostgreSQL) of its docker/", fix=copied)]
    settings = settings_of(home)
    if isinstance(settings, str):
        return [broken(CHECK, f"{home}/dagster.yaml cannot be read: {settings}", wanted="valid YAML", fix=copied)]
    problems = list(_problems(settings, f"{home}/dagster.yaml"))
    return problems or [ok(CHECK, f"{home}: pools are limited, lost runs are retried, failed steps are not")]


def settings_of(home: Path) -> dict[str, Any] | str:
    """What `dagster.yaml` says, or why it cannot be read."""
    try:
        found = yaml.safe_load((home / "dagster.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return " ".join(str(error).split())
    return found if isinstance(found, dict) else {} if found is None else f"it is a {type(found).__name__}"


def _problems(settings: Mapping[str, Any], file: str) -> Iterator[Finding]:
    limit = _at(settings, "concurrency", "pools", "default_limit")
    if not isinstance(limit, int) or limit < 1:
        yield broken(
            CHECK,
            f"concurrency.pools.default_limit is {limit!r}",
            wanted="1: runs that load models or train take turns; without it they all start at once",
            fix=f"in {file}: concurrency: {{pools: {{default_limit: 1, granularity: run}}}}",
        )
    elif _at(settings, "concurrency", "pools", "granularity") != "run":
        yield warning(
            CHECK,
            "concurrency.pools.granularity is not 'run'",
            wanted="run: a run that cannot enter a pool stays queued and costs no process",
            fix=f"in {file}: concurrency: {{pools: {{granularity: run}}}}",
        )
    # Dagster retries failed steps unless it is told not to.
    if (
        _at(settings, "run_retries", "enabled")
        and _at(settings, "run_retries", "retry_on_asset_or_op_failure") is not False
    ):
        yield broken(
            CHECK,
            "run_retries.retry_on_asset_or_op_failure is not false",
            wanted="false: a step that raised raises again, and every retry may spend a budget of its own",
            fix=f"in {file}: run_retries: {{retry_on_asset_or_op_failure: false}}",
        )
    for name, what in (
        ("run_retries", "runs of lost processes stay failed"),
        ("run_monitoring", "lost runs go unnoticed"),
    ):
        if not _at(settings, name, "enabled"):
            yield warning(
                CHECK,
                f"{name} is not enabled: {what}",
                wanted="enabled: true",
                fix=f"in {file}: {name}: {{enabled: true}}",
            )


def _at(settings: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(settings, Mapping):
            return None
        settings = settings.get(name)
    return settings


class UnsetVariableError(LookupError):
    """`dagster.yaml` takes a value from a variable that is not set; the message names it."""


def postgres_settings(settings: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str] | None:
    """hostname, port, username, password and db_name of the instance's PostgreSQL; None where it has none.

    Raises:
        UnsetVariableError: one of them stands in a variable that is not set.
    """
    kept = _at(settings, "storage", "custom", "config", "postgres_db")  # as KeptConnectionsStorage has it
    found = kept or _at(settings, "storage", "postgres", "postgres_db")
    if not isinstance(found, Mapping):
        return None
    defaults = {"hostname": "localhost", "port": "5432", "username": "", "password": "", "db_name": ""}
    return {name: _value(found.get(name, default), environ) for name, default in defaults.items()}


def _value(said: Any, environ: Mapping[str, str]) -> str:
    if isinstance(said, Mapping) and "env" in said:
        name = str(said["env"])
        if name not in environ:
            raise UnsetVariableError(name)
        return environ[name]
    return str(said)
