"""Dagster's storage on a real PostgreSQL: few connections, and none that is believed to be there when it is not."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg2
import pytest

from amr_pipeline_tests.servers import Postgres, needs_postgres, postgres

pytestmark = [pytest.mark.engines, needs_postgres]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres") / "log", ["dagster"]) as server:
        yield server


@pytest.fixture
def instance(database: Postgres, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    storage = {"module": "amr_pipeline.assets.kept_connections", "class": "KeptConnectionsStorage"}
    reached = {"hostname": database.host, "username": database.user, "password": database.password}
    config = {"postgres_db": {**reached, "db_name": "dagster"}}
    settings = {"storage": {"custom": {**storage, "config": config}}, "telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=settings) as opened:
        yield opened


def ask(instance: dg.DagsterInstance) -> None:
    """A question to each of the three storages."""
    instance.get_runs(limit=1)
    instance.get_asset_keys(limit=1)
    instance.all_instigator_state()


def test_a_run_takes_a_connection_per_storage(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch):
    connect, made = psycopg2.connect, []
    monkeypatch.setattr(psycopg2, "connect", lambda *given, **named: made.append(1) or connect(*given, **named))

    @dg.asset
    def one() -> None: ...

    for _ in range(2):
        assert dg.materialize([one], instance=instance).success
        ask(instance)
    assert 1 <= len(made) <= 6, "one each, and perhaps one beside it while two threads ask"
    assert instance.get_latest_materialization_event(one.key) is not None


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
