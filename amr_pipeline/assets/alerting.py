"""What people are told when they are not looking: runs that failed, and tables that are overdue (`overdue`).

One message per kind and hour, a kind being a backfill, or what failed in runs of the same assets: the first failure is
told at once, those that follow wait and are told together. A run that Dagster will retry is no news, and neither is one
of the command line, whose caller sees it fail.

Belongs here: what is worth a message, its words, and what waits. Does not belong here: sending (`engines.alerts`).
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import dagster as dg

from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines.alerts import AlertNotSentError

SECONDS_OF_QUIET = 3600.0
SECONDS_AFTER_REFUSAL = 60.0
"""For which an address that took nothing is left alone, so that a tick with many failures waits for it once."""
MOST_WAITING = 20
"""Texts of one kind that wait; of more, only the number is told."""

BACKFILL, PARTITION, WILL_RETRY = "dagster/backfill", "dagster/partition", "dagster/will_retry"


@dataclass
class Outbox:
    """What people are still to be told; in the memory of the code server, which sensors share."""

    now: Callable[[], float] = time.monotonic
    _waiting: dict[str, list[str]] = field(default_factory=dict)
    _left_out: dict[str, int] = field(default_factory=dict)
    _sent_at: dict[str, float] = field(default_factory=dict)
    _refused_at: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, kind: str, text: str) -> None:
        """Let a text wait; the same one only once."""
        with self._lock:
            texts = self._waiting.setdefault(kind, [])
            if text in texts:
                return
            if len(texts) >= MOST_WAITING:
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
                return
            texts.append(text)

    def holds(self, kind: str) -> bool:
        """Whether something of a kind still waits."""
        return kind in self._waiting

    def send(self, deliver: Callable[[str], object]) -> None:
        """Deliver what waits and was not told of within the hour, as one message.

        Raises:
            AlertNotSentError: nobody took it; all of it waits on.
        """
        with self._lock:
            now = self.now()
            if self._refused_at is not None and now - self._refused_at < SECONDS_AFTER_REFUSAL:
                return
            self._sent_at = {kind: at for kind, at in self._sent_at.items() if now - at < SECONDS_OF_QUIET}
            due = [kind for kind in self._waiting if kind not in self._sent_at]
            if not due:
                return
            try:
                deliver("\n\n".join(self._text(kind) for kind in due))
            except AlertNotSentError:
                self._refused_at = now
                raise
            self._refused_at = None
            for kind in due:
                del self._waiting[kind]
                self._left_out.pop(kind, None)
                self._sent_at[kind] = now

    def _text(self, kind: str) -> str:
        left_out = self._left_out.get(kind)
        return "\n".join([*self._waiting[kind], *([f"and {left_out} more"] if left_out else [])])


def failure_sensor(outbox: Outbox) -> dg.SensorDefinition:
    """The sensor that tells of failed runs, to the address of the deployment."""

    @dg.run_failure_sensor(
        name="alerts",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="tells the address in AMR_ALERT_URL of runs that failed and will not be retried",
    )
    def sensor(context: dg.RunFailureSensorContext, platform: Platform) -> None:
        run = context.dagster_run
        if run.tags.get(WILL_RETRY) == "true":
            return
        failures = {event.step_key: event.event_specific_data for event in context.get_step_failure_events()}
        kind = run.tags.get(BACKFILL) or f"{run.job_name} {_assets(run)} {sorted(map(str, failures))}"
        outbox.put(kind, failure_text(run, failures))
        outbox.send(platform.alert)

    return sensor


def failure_text(run: dg.DagsterRun, failures: Mapping[str | None, object]) -> str:
    """What failed, in a few lines: names of errors and no messages of theirs, which may quote anything."""
    about = run.tags.get(PARTITION)
    lines = [f"run {run.run_id} failed: {_assets(run) or run.job_name}{f', partition {about}' if about else ''}"]
    if BACKFILL in run.tags:
        lines.append(f"of backfill {run.tags[BACKFILL]}")
    for step, data in failures.items():
        error = getattr(data, "error", None)
        cause = getattr(error, "cause", None) or error
        lines.append(f"{step}: {getattr(cause, 'cls_name', None) or 'no error was recorded'}")
    return "\n".join(lines)


def _assets(run: dg.DagsterRun) -> str:
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
