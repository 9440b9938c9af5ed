"""Since when a table owes something: the sensor `what_is_owed`, which keeps the checks of `owed_report` true.

It looks at one table after another; a tick that has used its time leaves the others to the next. Something owed is a
warning. It is an error, and people are told, once nothing was committed to the table for as long as the deployment
calls overdue, although all that it is made from is there and no run is at work on it. That is what freshness means
here, where data is as old as its inputs and not as the clock.

Belongs here: since when, and whom to tell. Does not belong here: counting (`owed`), the checks (`owed_report`).
"""

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from amr_pipeline.assets.alerting import Outbox
from amr_pipeline.assets.automation import JOBS, UNFINISHED
from amr_pipeline.assets.lineage import DEPENDENCES
from amr_pipeline.assets.owed import owed_by_records
from amr_pipeline.assets.owed_report import NAME, check_name, numbers, tables_of
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines.alerts import AlertNotSentError
from amr_pipeline.report.owed_table import Owed, owed_table
from amr_pipeline.studies.study import Study

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

SECONDS_BETWEEN_TICKS = 600
TICK_SECONDS = 20.0
"""After which a tick begins no further table; Dagster gives up on one after 60."""
RECORDED_AGAIN_SECONDS = 86_400.0
"""After which an answer that did not change is recorded all the same, so that people see that somebody looks."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a table stood when it was last looked at.

    Attributes:
        owed: its partitions that owe something, and `rows` that records lack.
        since: unix seconds since when something is owed and nothing was committed; of no meaning where nothing is owed.
        is_overdue, is_told: whether that is too long, and whether people know.
        recorded_at: unix seconds of the check's newest answer.
    """

    owed: int
    rows: int
    since: float
    is_overdue: bool = False
    is_told: bool = False
    recorded_at: float = 0.0


@dataclass
class Look:
    """One tick of the sensor.

    Attributes:
        busy: tables that a run is at work on.
        seen: how every table stood when it was last looked at.
        events: what Dagster records, the answers that changed.
        overdue: what people are to be told, by table.
    """

    study: Study
    store: "TableStore"
    overdue_hours: float
    busy: Collection[str] = ()
    now: Callable[[], float] = time.time
    seen: dict[str, Standing] = field(default_factory=dict)
    following: str | None = None
    events: list[dg.AssetCheckEvaluation] = field(default_factory=list)
    overdue: dict[str, str] = field(default_factory=dict)

    def remember(self, cursor: str | None, tables: Collection[str]) -> None:
        """Take up what the last tick wrote, as far as it is about these tables of this study."""
        try:
            kept = json.loads(cursor or "{}")
            if kept.get("study") == self.study.name:
                self.seen = {name: Standing(**one) for name, one in kept["seen"].items() if name in tables}
                self.following = kept["next"]
        except (ValueError, KeyError, TypeError, AttributeError):
            # Of another version, or written by a hand: what is owed is counted from now on.
            self.seen, self.following = {}, None

    def go_on(self, tables: Sequence[str], seconds: float) -> int:
        """Look at tables in turn, at least one of them, from where the last tick left off; how many."""
        first = tables.index(self.following) if self.following in tables else 0
        ends = self.now() + seconds
        for place in range(len(tables)):
            self.following = tables[(first + place) % len(tables)]
            if place and self.now() >= ends:
                return place
            self._look_at(self.following)
        return len(tables)

    def cursor(self, told: Collection[str]) -> str:
        """What the next tick takes up; people know of `told`."""
        seen = {name: asdict(replace(one, is_told=one.is_told or name in told)) for name, one in self.seen.items()}
        return json.dumps({"study": self.study.name, "next": self.following, "seen": seen})

    def _look_at(self, table: str) -> None:
        found, made_at = owed_by_records(self.study, self.store, table)
        before, now = self.seen.get(table), self.now()
        rows = sum(one.num_rows or 0 for one in found.owed)
        begun = before.since if before is not None and before.owed else now
        waits = table in self.busy or any(self.seen[name].owed for name in self._made_from(table) if name in self.seen)
        since = now if waits else max(begun, made_at or 0.0)
        is_overdue = bool(found.owed) and now - since >= self.overdue_hours * 3600
        standing = Standing(
            owed=len(found.owed),
            rows=rows,
            since=since,
            is_overdue=is_overdue,
            is_told=is_overdue and before is not None and before.is_told,
            recorded_at=before.recorded_at if before is not None else 0.0,
        )
        if before is None or _answer(before) != _answer(standing) or now - before.recorded_at >= RECORDED_AGAIN_SECONDS:
            standing = replace(standing, recorded_at=now)
            self.events.append(_evaluation(found, table, standing))
        if is_overdue and not standing.is_told:
            title = owed_table(found, table)[0]
            self.overdue[table] = f"{found.study}: {title}, and nothing was committed since {_moment(since)}"
        self.seen[table] = standing

    def _made_from(self, table: str) -> set[str]:
        """Tables that a table's partitions are made from."""
        (key, *_) = stored_partitions(self.study, table)
        return {name for name, _ in DEPENDENCES[table].inputs(self.study, key)}


def _answer(standing: Standing) -> tuple[int, int, bool]:
    return standing.owed, standing.rows, standing.is_overdue


def _evaluation(found: Owed, table: str, standing: Standing) -> dg.AssetCheckEvaluation:
    since = {"nothing was committed since": _moment(standing.since)} if standing.owed else {}
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(NAME),
        check_name=check_name(table),
        passed=not standing.owed,
        severity=dg.AssetCheckSeverity.ERROR if standing.is_overdue else dg.AssetCheckSeverity.WARN,
        description="overdue" if standing.is_overdue else None,
        metadata={**numbers(found, table), **since},
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="minutes")


def busy_tables(instance: dg.DagsterInstance) -> set[str]:
    """Tables that an unfinished run was asked for."""
    busy: set[str] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        busy.update(key.to_user_string() for key in run.asset_selection or ())
        busy.update(JOBS[run.job_name][0] if run.job_name in JOBS else ())
    return busy


def owed_sensor(study_of_today: Callable[[], Study], overdue_hours: float, outbox: Outbox) -> dg.SensorDefinition:
    """The sensor that keeps the checks true, from the study as it is at the tick; and delivers what people wait for."""

    @dg.sensor(
        name="what_is_owed",
        minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="keeps the checks of owed_report true; starts nothing",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        assert context.repository_def is not None, "Dagster evaluates sensors in their code location"
        study = study_of_today()
        known = {key.name for key in context.repository_def.asset_graph.asset_check_keys}
        tables = [table for table in tables_of(study) if check_name(table) in known]
        look = Look(study, platform.tables(), overdue_hours, busy_tables(context.instance))
        look.remember(context.cursor, tables)
        count = look.go_on(tables, TICK_SECONDS)
        for table, text in look.overdue.items():
            context.log.warning(f"overdue: {text}")
            outbox.put(f"overdue {table}", text)
        try:
            outbox.send(platform.alert)
        except AlertNotSentError as error:
            context.log.error(f"{error}; it is tried again")
        told = [table for table in look.overdue if not outbox.holds(f"overdue {table}")]
        owing = sum(one.owed > 0 for one in look.seen.values())
        return dg.SensorResult(
            skip_reason=f"{count} of {len(tables)} tables looked at, {owing} owe something",
            cursor=look.cursor(told),
            asset_events=look.events,
        )

    return sensor
