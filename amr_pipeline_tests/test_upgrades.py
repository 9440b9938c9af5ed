"""Databases of an older version are moved by the deployments' own commands before a server opens them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import mlflow
import psycopg2
import pytest
import sqlalchemy
from alembic import command
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.sql import run_alembic_downgrade
from dagster_postgres.utils import pg_alembic_config
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base

from amr_pipeline.assets.schema_check import check_schema
from amr_pipeline.engines.mlflow_check import check_mlflow
from amr_pipeline_tests.composed import services
from amr_pipeline_tests.deployed import environment_of
from amr_pipeline_tests.rendered import OVERLAYS, pods
from amr_pipeline_tests.servers import PROGRAMS, Postgres, needs_postgres, postgres

REPOSITORY = Path(__file__).parent.parent
OLDER_MLFLOW = "451aebb31d03"
"""The first revision of MLflow's own schema."""
OLDER_DAGSTER = "6b7fb194ff9c"
"""Of Dagster 1.9: without the column `using_default_limit`."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Postgres]:
    with postgres(tmp_path / "postgres.log", ["dagster", "mlflow"]) as server:
        yield server


def environment(folder: Path, database: Postgres) -> dict[str, str]:
    """What the steps' containers are given, by the names that the compose file has."""
    home = folder / "dagster_home"
    if not home.exists():
        home.mkdir()
        (home / "dagster.yaml").write_text((REPOSITORY / "docker" / "dagster.yaml").read_text())
    given = {"postgres": database.host, "amr": database.user, "<password>": database.password}
    filled = services(
        {"AMR_POSTGRES_PASSWORD": "<password>", "AMR_S3_KEY": "x", "AMR_S3_SECRET": "x", "AMR_RAY_TOKEN": "x"}
    )
    login = {**filled["mlflow-schema"]["environment"], **filled["dagster-schema"]["environment"]}
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("AMR_", "PG", "DAGSTER", "MLFLOW"))
    }
    own = {"AMR_HOME": str(folder), "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "true"}
    return {**inherited, **own, **{name: given[value] for name, value in login.items()}}


def carried_out(where: str, given: dict[str, str]) -> str:
    """What a step of the compose file says."""
    program, *words = services()[where]["command"]
    done = subprocess.run([str(PROGRAMS / program), *words], env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_compose_and_kubernetes_carry_out_the_same_steps_before_what_opens_the_databases() -> None:
    steps = {name: services()[f"{name}-schema"]["command"] for name in ("mlflow", "dagster")}
    for overlay in OVERLAYS:
        for pod, name in (("mlflow", "mlflow"), ("daemon", "dagster")):
            (first,) = pods(overlay)[pod].spec["initContainers"]
            assert first["args"] == steps[name]
            assert first["image"] == pods(overlay)[pod].spec["containers"][0]["image"]
    needed = {name: service.get("depends_on", {}) for name, service in services().items()}
    completed = {"condition": "service_completed_successfully"}
    assert needed["mlflow"]["mlflow-schema"] == needed["code"]["dagster-schema"] == completed
    assert needed["webserver"] == needed["daemon"] == {"code": {"condition": "service_healthy"}}


@needs_postgres
def test_an_older_database_of_mlflow_is_moved_and_the_servers_store_opens_it(
    tmp_path: Path, database: Postgres
) -> None:
    url = database.address("mlflow")
    engine = sqlalchemy.create_engine(url)
    Base.metadata.create_all(engine)
    command.upgrade(_get_alembic_config(url), OLDER_MLFLOW)
    engine.dispose()
    assert [one.level for one in check_mlflow(url)] == ["broken"]
    given = environment(tmp_path, database)
    said = carried_out("mlflow-schema", given) + carried_out("mlflow-schema", given)
    assert database.password not in said
    assert [one.level for one in check_mlflow(url)] == ["ok"]
    client = mlflow.MlflowClient(url)
    kept = client.create_experiment("after the upgrade")
    assert client.get_experiment(kept).name == "after the upgrade"


@needs_postgres
def test_an_older_database_of_dagster_is_moved_and_keeps_its_runs(tmp_path: Path, database: Postgres) -> None:
    given = environment(tmp_path, database)
    home = Path(given["DAGSTER_HOME"])
    with environment_of({name: value for name, value in given.items() if name.startswith(("AMR_", "DAGSTER_"))}):
        with dg.DagsterInstance.from_config(str(home)) as instance:
            run = instance.add_run(DagsterRun(job_name="of before"))
            with instance.event_log_storage.index_connection() as connection:  # pyright: ignore[reportAttributeAccessIssue]
                import dagster_postgres.run_storage.run_storage as storage

                run_alembic_downgrade(pg_alembic_config(storage.__file__), connection, OLDER_DAGSTER)
        (found,) = check_schema(home, given)
        assert (found.level, "dagster instance migrate" in found.fix) == ("broken", True)
        assert database.password not in str(found)
        assert not has_column(database)
        said = carried_out("dagster-schema", given) + carried_out("dagster-schema", given)
        assert database.password not in said
        assert [one.level for one in check_schema(home, given)] == ["ok"]
        assert has_column(database)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            assert instance.get_run_by_id(run.run_id) is not None


def has_column(database: Postgres) -> bool:
    address = database.address("dagster").replace("+psycopg2", "")
    with closing(psycopg2.connect(address)) as connection, connection.cursor() as rows:
        rows.execute(
            "select 1 from information_schema.columns "
            "where table_name = 'concurrency_limits' and column_name = 'using_default_limit'"
        )
        return rows.fetchone() is not None


@needs_postgres
def test_the_steps_make_what_an_empty_database_lacks(tmp_path: Path, database: Postgres) -> None:
    given = environment(tmp_path, database)
    home = Path(given["DAGSTER_HOME"])
    assert check_schema(home, given) == []
    carried_out("mlflow-schema", given)
    carried_out("dagster-schema", given)
    assert [one.level for one in check_mlflow(database.address("mlflow"))] == ["ok"]
    assert [one.level for one in check_schema(home, given)] == ["ok"]
