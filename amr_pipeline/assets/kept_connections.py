"""Dagster's storage in PostgreSQL over connections that are kept.

Dagster's own opens a connection for every question, except in its web server: some seventy in a run that has nothing
to do, each of which signs in anew and costs a hundredth of a second of processor time on either side (measured). Here
every process keeps one per storage, and asks it whether it is still there before it is used, so that a database that
was started again costs no question, in the web server neither.

Belongs here: how the instance's storage is connected. Does not belong here: what is in it.
"""

from typing import Any

import psycopg2
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError

SECONDS_KEPT = 600
"""How old a connection may become."""

MOST_AT_A_TIME = 20
"""Connections beyond the kept one while several threads ask; each ends with its question."""


class KeptConnectionsStorage(DagsterPostgresStorage):
    """`dagster_postgres` with a pool of connections per storage, configured as that is."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            _keep_connections(storage)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "KeptConnectionsStorage":
        """Called by Dagster with the `config` of dagster.yaml."""
        return cls(
            inst_data=inst_data,
            postgres_url=pg_url_from_config(config_value),
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
            token_provider=get_token_provider_from_config(config_value),
        )


def _keep_connections(storage: Any) -> None:
    """Give a storage the pool that the web server would give it, and the web server one whose connections live."""
    make_pool = storage.optimize_for_webserver

    def optimize(statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        storage._engine.dispose()
        make_pool(statement_timeout=statement_timeout, pool_recycle=pool_recycle, max_overflow=max_overflow)
        event.listen(storage._engine, "checkout", _make_sure)

    storage.optimize_for_webserver = optimize
    optimize(statement_timeout=0, pool_recycle=SECONDS_KEPT, max_overflow=MOST_AT_A_TIME)  # 0: for as long as it takes


def _make_sure(connection: Any, *_: Any) -> None:
    """Let SQLAlchemy open another connection where this one has gone."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise DisconnectionError from error
