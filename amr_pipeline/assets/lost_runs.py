"""Runs say that they live, and the launcher notices when one has stopped saying so.

Dagster's own launcher leaves it to the code server to notice that a run's process died. Where both die together, as
they do with their container, nobody notices: the run stays `STARTED`, holds its pool, and is never retried. Here every
run counts upwards in the instance's storage, and the monitoring daemon, which asks at every poll, takes a count that
stands still for a dead process. No two clocks are compared.

Belongs here: life signs and who reads them. Does not belong here: what happens to a lost run (`run_monitoring` and
`run_retries` in dagster.yaml).
"""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData
from sqlalchemy.exc import SQLAlchemyError

SECONDS_BETWEEN_SIGNS = 10.0
SILENT_POLLS = 8
"""Polls in a row that find no new sign before a run counts as lost: two minutes at the 15 seconds of dagster.yaml.
Polls are counted instead of seconds, because while the storage is away nobody can give a sign, or poll."""

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


@contextmanager
def giving_signs(instance: dg.DagsterInstance | None, run_id: str | None) -> Iterator[None]:
    """Count upwards for a run until the block ends, where a launcher reads it; elsewhere nothing happens."""
    if instance is None or run_id is None or not isinstance(instance.run_launcher, WatchingRunLauncher):
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


def _storage_is_away() -> tuple[type[Exception], ...]:
    """What dagster-postgres raises when the database does not answer; nothing where it is not in use."""
    module = sys.modules.get("dagster_postgres.utils")
    return (module.DagsterPostgresException,) if module is not None else ()


def _key(run_id: str) -> str:
    return f"amr/sign_of_life/{run_id}"
