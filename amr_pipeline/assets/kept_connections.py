"""Dagster's storage in PostgreSQL over connections that are kept.

Dagster's own opens a connection for every question, except in its web server: some seventy in a run that has nothing
to do, each of which signs in anew and costs a hundredth of a second of processor time on either side (measured). Here a
process has one pool of connections, whatever number of instances and storages it opens, and a connection is asked
whether it is still there before it is used, so that a database that was started again costs no question, in the web
server neither.

Belongs here: how the instance's storage is connected. Does not belong here: what is in it.
"""

from functools import cache
from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import create_pg_engine, pg_url_from_config, set_pg_statement_timeout
from sqlalchemy import Engine, event

MOST_KEPT = 5
"""Connections that a process keeps, of those that it needed at one time."""

MOST_BESIDE = 20
"""Connections beyond the kept ones while many threads ask; each ends with its question."""

SECONDS_KEPT = 600
"""Age from which a connection is replaced when it is used next."""

# A server whose machine is gone says nothing; without these the kernel waits a quarter of an hour for it.
_NOTICED = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}


class KeptConnectionsStorage(DagsterPostgresStorage):
    """`dagster_postgres` over the process's pool of connections; configured as that is, with a password."""

    def __init__(self, postgres_url: str, *given: Any, **named: Any) -> None:
        super().__init__(postgres_url, *given, **named)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            _connect(storage, postgres_url)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "KeptConnectionsStorage":
        """Called by Dagster with the `config` of dagster.yaml.

        Raises:
            ValueError: it names a provider of tokens, for which connections would have to be kept apart.
        """
        if config_value.get("auth_provider"):
            raise ValueError("auth_provider is for Dagster's own PostgreSQL storage; wanted a password in postgres_db")
        return cls(
            pg_url_from_config(config_value), config_value.get("should_autocreate_tables", True), inst_data=inst_data
        )


def _connect(storage: Any, url: str) -> None:
    """Give a storage the process's pool, now and when the web server asks for one with a limit."""

    def optimize(statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        storage._engine = _pool(url, statement_timeout, pool_recycle, max_overflow)

    storage.optimize_for_webserver = optimize
    storage._engine = _pool(url, None, SECONDS_KEPT, MOST_BESIDE)


@cache
def _pool(url: str, statement_timeout: int | None, seconds_kept: int, most_beside: int) -> Engine:
    """Connections of this process to a database; milliseconds per statement, None for what the server says."""
    engine = create_pg_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=MOST_KEPT,
        max_overflow=most_beside,
        pool_recycle=seconds_kept,
        pool_pre_ping=True,
        connect_args=_NOTICED,
    )
    if statement_timeout is not None:
        event.listen(engine, "connect", lambda connection, _: set_pg_statement_timeout(connection, statement_timeout))
    return engine
