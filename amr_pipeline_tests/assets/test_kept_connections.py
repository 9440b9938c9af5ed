"""Dagster's storage on a real PostgreSQL: few connections, and none that is believed to be there when it is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psycopg2
import pytest

from amr_pipeline.assets.kept_connections import MOST_KEPT
from amr_pipeline_tests.servers import Postgres, needs_postgres, postgres

pytestmark = [pytest.mark.engines, needs_postgres]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres") / "log", ["dagster"]) as server:
        yield server


@contextmanager
def opened(database: Postgres, folder: Path, **more: object) -> Iterator[dg.DagsterInstance]:
    storage = {"module": "amr_pipeline.assets.kept_connections", "class": "KeptConnectionsStorage"}
    reached = {"hostname": database.host, "username": database.user, "password": database.password}
    config = {"postgres_db": {**reached, "db_name": "dagster"}, **more}
    settings = {"storage": {"custom": {**storage, "config": config}}, "telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(folder), overrides=settings) as instance:
        yield instance


@pytest.fixture
def instance(database: Postgres, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with opened(database, tmp_path) as one:
        yield one


def ask(instance: dg.DagsterInstance) -> None:
    """A question to each of the three storages."""
    instance.get_runs(limit=1)
    instance.get_asset_keys(limit=1)
    instance.all_instigator_state()


def test_a_run_takes_few_connections(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch):
    connect, made = psycopg2.connect, []
    monkeypatch.setattr(psycopg2, "connect", lambda *given, **named: made.append(1) or connect(*given, **named))

    @dg.asset
    def one() -> None: ...

    for _ in range(2):
        assert dg.materialize([one], instance=instance).success
        ask(instance)
    assert 1 <= len(made) <= MOST_KEPT
    assert instance.get_latest_materialization_event(one.key) is not None


def test_instances_of_one_process_share_its_connections(database: Postgres, tmp_path: Path):
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        with opened(database, folder) as one:
            ask(one)
    login = {"host": database.host, "user": database.user, "password": database.password, "dbname": "dagster"}
    with psycopg2.connect(**login) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'dagster'")
        ((there,),) = cursor.fetchall()
    connection.close()
    assert there <= MOST_KEPT + 1


def test_tokens_in_place_of_a_password_are_refused(database: Postgres, tmp_path: Path):
    with (
        pytest.raises(ValueError, match="wanted a password"),
        opened(database, tmp_path, auth_provider={"gcp_wif": {}}) as one,
    ):
        one.run_storage.get_runs()


@pytest.mark.parametrize("webserver", [False, True])
def test_a_database_that_was_started_again_costs_no_question(
    webserver: bool, instance: dg.DagsterInstance, database: Postgres
):
    if webserver:
        instance.optimize_for_webserver(statement_timeout=15_000, pool_recycle=3_600, max_overflow=20)
    ask(instance)
    database.program.kill()
    database.program.start()
    ask(instance)
