"""Runs say that they live, and the launcher notices when one has stopped saying so.

Dagster's own launcher leaves it to the code server to notice that a run's process died. Where both die together, as
they do with their container, nobody notices: the run stays `STARTED`, holds its pool, and is never retried. Here every
run counts upwards in the instance's storage, and the monitoring daemon, which asks at every poll, takes a count that
stands still for a dead process. No two clocks are compared. Signs of runs that ended are removed: by the run, and where
it could not, by the launcher.

Belongs here: life signs and who reads them. Does not belong here: what happens to a lost run (`run_monitoring` and
`run_retries` in dagster.yaml).
"""

import logging
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.runs.schema import KeyValueStoreTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

SECONDS_BETWEEN_SIGNS = 10.0
SILENT_POLLS = 8
"""Polls in a row that find no new sign before a run counts as lost: two minutes at the 15 seconds of dagster.yaml.
Polls are counted instead of seconds, because while the storage is away nobody can give a sign, or poll."""

MOST_SWEPT = 500
"""Signs that are looked through at a time for such of runs that ended."""

_PREFIX = "amr/sign_of_life/"

_log = logging.getLogger(__name__)


class WatchingRunLauncher(dg.DefaultRunLauncher):
    """Dagster's launcher of runs in the code server, able to tell whether a run's process still lives."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._polls: dict[str, tuple[str | None, int]] = {}

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Makes the monitoring daemon ask."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """FAILED once a run has given no new sign for `SILENT_POLLS` polls, RUNNING until then."""
        if run.run_id not in self._polls:
            self._sweep()
        sign = self._instance.daemon_cursor_storage.get_cursor_values({_key(run.run_id)}).get(_key(run.run_id))
        last, silent = self._polls.get(run.run_id, (sign, -1))
        silent = silent + 1 if sign == last else 0
        self._polls[run.run_id] = (sign, silent)
        if silent < SILENT_POLLS:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        del self._polls[run.run_id]
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"its process has given no sign of life during {silent} polls; what it committed is kept",
        )

    def _sweep(self) -> None:
        """Forget runs that ended: what they left in the storage when they were killed, and here."""
        signs = _runs_with_signs(self._instance)
        looked = [*signs, *self._polls]
        runs = self._instance.get_runs(dg.RunsFilter(run_ids=looked)) if looked else []
        ended = {run.run_id for run in runs if run.status in FINISHED_STATUSES}
        deleted = set(signs) - {run.run_id for run in runs}
        _forget(self._instance, (ended & set(signs)) | deleted)
        self._polls = {run_id: found for run_id, found in self._polls.items() if run_id not in ended}


@contextmanager
def giving_signs(instance: dg.DagsterInstance | None, run_id: str | None) -> Iterator[None]:
    """Count upwards for a run until the block ends, where a launcher reads it; elsewhere nothing happens."""
    if instance is None or run_id is None or not _is_read(instance):
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_count, args=(instance, run_id, ended), name="signs-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        try:
            _forget(instance, [run_id])
        except (SQLAlchemyError, *_storage_is_away()) as error:
            _log.warning("the last sign of life could not be removed (%s); the daemon will", type(error).__name__)


def _is_read(instance: dg.DagsterInstance) -> bool:
    """Whether the launcher reads signs, told by its name: that of Kubernetes does not load in the pod of a run."""
    launcher = None if instance.is_ephemeral else instance.get_ref().run_launcher_data
    reads = WatchingRunLauncher.__module__, WatchingRunLauncher.__name__
    return launcher is not None and (launcher.module_name, launcher.class_name) == reads


def _count(instance: dg.DagsterInstance, run_id: str, ended: threading.Event) -> None:
    number = 0
    while True:
        number += 1
        try:
            instance.daemon_cursor_storage.set_cursor_values({_key(run_id): str(number)})
        except (SQLAlchemyError, *_storage_is_away()) as error:
            _log.warning("no sign of life could be given (%s); trying again", type(error).__name__)
        if ended.wait(SECONDS_BETWEEN_SIGNS):
            return


def _runs_with_signs(instance: dg.DagsterInstance) -> list[str]:
    """Runs of the oldest signs that are stored."""
    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        return []
    key = KeyValueStoreTable.c.key
    asked = select(key).where(key.startswith(_PREFIX, autoescape=True)).order_by(KeyValueStoreTable.c.id)
    with storage.connect() as connection:
        return [found.removeprefix(_PREFIX) for (found,) in connection.execute(asked.limit(MOST_SWEPT))]


def _forget(instance: dg.DagsterInstance, run_ids: Collection[str]) -> None:
    """Remove signs, for which Dagster's cursors have no word."""
    storage = instance.run_storage
    if run_ids and isinstance(storage, SqlRunStorage):
        keys = [_key(run_id) for run_id in run_ids]
        with storage.connect() as connection:
            connection.execute(KeyValueStoreTable.delete().where(KeyValueStoreTable.c.key.in_(keys)))


def _storage_is_away() -> tuple[type[Exception], ...]:
    """What dagster-postgres raises when the database does not answer; nothing where it is not in use."""
    module = sys.modules.get("dagster_postgres.utils")
    return (module.DagsterPostgresException,) if module is not None else ()


def _key(run_id: str) -> str:
    return f"{_PREFIX}{run_id}"
