"""Whether the database of the Dagster instance has the schema that the installed Dagster wants.

Dagster's servers start on an older one and fail where they first miss something. Nothing is created or moved here.

Belongs here: where an instance's databases are, and what their versions mean. Does not belong here: reading a version
(`engines.schema_versions`), MLflow's database (`engines.mlflow_check`).
"""

from collections.abc import Mapping
from pathlib import Path

import dagster
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from amr_pipeline.assets.instance_check import UnsetVariableError, postgres_settings, settings_of
from amr_pipeline.engines.schema_versions import schema_version
from amr_pipeline.report.findings import Finding, broken, ok

CHECK = "dagster schema"
MIGRATIONS = Path(dagster.__file__).parent / "_core" / "storage" / "alembic"
EMBEDDED = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
"""Where Dagster keeps its SQLite files under a home whose dagster.yaml names no other storage."""


def check_schema(home: Path, environ: Mapping[str, str]) -> list[Finding]:
    """Compare the schema of an instance's databases with the installed Dagster.

    Databases that are not there yet, or cannot be reached, are none of this check: Dagster makes the former, other
    checks name the latter.

    Args:
        home: `DAGSTER_HOME`, or where the commands make one.
        environ: variables that its `dagster.yaml` may name.
    """
    settings = settings_of(home) if (home / "dagster.yaml").is_file() else {}
    if isinstance(settings, str):
        return []  # said by the check of the instance
    try:
        found = postgres_settings(settings, environ)
        places = _embedded(home) if found is None and "storage" not in settings else [_url(found)] if found else []
        versions = [(place, schema_version(place, MIGRATIONS)) for place in places]
    except (UnsetVariableError, ValueError, SQLAlchemyError):
        return []  # said by the check of the database
    for place, version in versions:
        said = f"{place.render_as_string(hide_password=True)} has schema {version.found}"
        wanted = f"schema {version.newest} of Dagster {dagster.__version__}"
        if version.standing == "older":
            fix = f"stop the servers, take a backup, then: DAGSTER_HOME={home} dagster instance migrate"
            return [broken(CHECK, f"{said}, an older one", wanted=wanted, fix=fix)]
        if version.standing == "unknown":
            fix = "install the Dagster that made it (a newer one), or restore the backup from before its upgrade"
            return [broken(CHECK, f"{said}, which Dagster {dagster.__version__} does not know", wanted=wanted, fix=fix)]
    return [ok(CHECK, f"schema {version.found}") for _, version in versions[:1] if version.found]


def _url(found: Mapping[str, str]) -> URL:
    return URL.create(
        "postgresql+psycopg2",
        username=found["username"],
        password=found["password"],
        host=found["hostname"],
        port=int(found["port"]),
        database=found["db_name"],
    )


def _embedded(home: Path) -> list[URL]:
    files = (home / name for name in EMBEDDED)
    return [URL.create("sqlite", database=str(file)) for file in files if file.is_file()]
