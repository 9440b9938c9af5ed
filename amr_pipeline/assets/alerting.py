"""What people are told when they are not looking: runs that failed. Tables that are overdue tell by `owed_check`.

One message per job or backfill and hour: the first that fails is told at once, those that follow are counted, and the
next message after the hour says how many there were. A run that Dagster will retry is no news.

Belongs here: what is worth a message, and its words. Does not belong here: sending (`engines.alerts`).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import dagster as dg

from amr_pipeline.assets.resources import Platform

SECONDS_OF_QUIET = 3600.0

BACKFILL, PARTITION, WILL_RETRY = "dagster/backfill", "dagster/partition", "dagster/will_retry"


@dataclass
class Quiet:
    """Which failures were told already, for as long as the code server lives."""

    now: Callable[[], float] = time.monotonic
    _told: dict[str, tuple[float, int]] = field(default_factory=dict)

    def lets_through(self, what: str) -> int | None:
        """How many of one kind went untold since the last message, or None: this one is only counted."""
        at, since = self._told.get(what, (None, 0))
        if at is not None and self.now() - at < SECONDS_OF_QUIET:
            self._told[what] = (at, since + 1)
            return None
        self._told[what] = (self.now(), 0)
        return since


def failure_sensor(quiet: Quiet | None = None) -> dg.SensorDefinition:
    """The sensor that tells of failed runs, to the address of the deployment."""
    told = quiet or Quiet()

    @dg.run_failure_sensor(
        name="alerts",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="tells the address in AMR_ALERT_URL of runs that failed and will not be retried",
    )
    def sensor(context: dg.RunFailureSensorContext, platform: Platform) -> None:
        run = context.dagster_run
        if run.tags.get(WILL_RETRY) == "true":
            return
        untold = told.lets_through(run.tags.get(BACKFILL, run.job_name))
        if untold is not None:
            failures = {event.step_key: event.event_specific_data for event in context.get_step_failure_events()}
            platform.alert(failure_text(run, failures, untold))

    return sensor


def failure_text(run: dg.DagsterRun, failures: Mapping[str | None, object], untold: int = 0) -> str:
    """What failed, in a few lines: names of errors and no messages of theirs, which may quote anything."""
    about = run.tags.get(PARTITION)
    assets = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
    what = assets or run.job_name
    lines = [f"run {run.run_id} failed: {what}{f', partition {about}' if about else ''}"]
    if BACKFILL in run.tags:
        lines.append(f"of backfill {run.tags[BACKFILL]}")
    for step, data in failures.items():
        error = getattr(data, "error", None)
        cause = getattr(error, "cause", None) or error
        lines.append(f"{step}: {getattr(cause, 'cls_name', None) or 'no error was recorded'}")
    if untold:
        lines.append(f"{untold} more of its kind failed since the last message")
    return "\n".join(lines)
