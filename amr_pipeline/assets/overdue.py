"""Since when a table owes something: the sensor `what_is_owed`, which answers the check `<table>_owes_nothing`.

A run answers that check for its own partitions, from what it knows anyhow. The sensor answers it for whole tables, one
after another, from commit records and slim columns; a tick that has used its time leaves the other tables to the next.
Something owed is a warning. It is an error, and people are told, once none of it has been made for as long as the
deployment calls overdue: that is what freshness means here, where data is as old as its inputs and not as the clock.

Belongs here: answers for whole tables, and since when they owe. Does not belong here: counting (`owed`), layout
(`report`), the answers of runs (`publication`).
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from amr_pipeline.assets.materialization import ORDER
from amr_pipeline.assets.owed import what_is_owed
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.assets.publication import owed_check
from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines.alerts import AlertNotSentError
from amr_pipeline.report.owed_table import Owed, owed_table
from amr_pipeline.report.summary import markdown_table
from amr_pipeline.studies.study import Study

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

SECONDS_BETWEEN_TICKS = 600
TICK_SECONDS = 20.0
"""After which a tick begins no further table; Dagster gives up on one after 60."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a table stood when it was last looked at.

    Attributes:
        partitions, rows: what was owed; rows are None where nobody can count them before a step has run.
        since: unix seconds since when no less is owed.
        told: whether people were told that it is overdue.
    """

    partitions: int
    rows: int | None
    since: float
    told: bool = False

    def is_overdue(self, now: float, overdue_hours: float) -> bool:
        """Whether something is owed and none of it was made for that long."""
        return self.partitions > 0 and now - self.since >= overdue_hours * 3600


@dataclass
class Look:
    """One tick: tables are looked at where the last tick left off, until its time is used.

    Attributes:
        tell: tells people a sentence; False: nobody heard it, and the next look tries again.
        events: what Dagster records, a check per table that was looked at.
    """

    study: Study
    store: "TableStore"
    overdue_hours: float
    tell: Callable[[str], bool]
    now: Callable[[], float] = time.time
    events: list[dg.AssetCheckEvaluation] = field(default_factory=list)

    def go_on(self, cursor: str | None, tables: list[str], seconds: float = TICK_SECONDS) -> str:
        """Look at `tables` in turn, at least one of them, and give the cursor that the next tick goes on from."""
        seen: dict[str, Standing] = {}
        begin, ends = None, self.now() + seconds
        if cursor:
            kept: dict[str, Any] = json.loads(cursor)
            begin, seen = kept["next"], {name: Standing(**one) for name, one in kept["seen"].items()}
        first = tables.index(begin) if begin in tables else 0
        for place in range(len(tables)):
            if place and self.now() >= ends:
                return _cursor(tables[(first + place) % len(tables)], seen)
            name = tables[(first + place) % len(tables)]
            seen[name] = self._look_at(name, seen.get(name))
        return _cursor(tables[first] if tables else None, seen)

    def _look_at(self, name: str, before: Standing | None) -> Standing:
        found, now = what_is_owed(self.study, self.store, [name]), self.now()
        standing = _standing(found, name, before, now)
        is_overdue = standing.is_overdue(now, self.overdue_hours)
        self.events.append(_evaluation(found, name, standing, is_overdue=is_overdue))
        if is_overdue and not standing.told:
            said = owed_table(found, name)[0]
            is_told = self.tell(f"{found.study}: {said}, and none of it was made since {_moment(standing.since)}")
            return replace(standing, told=is_told)
        return standing


def _standing(found: Owed, name: str, before: Standing | None, now: float) -> Standing:
    owed = found.of(name)
    counted = [one.num_rows for one in owed if one.num_rows is not None]
    partitions, rows = len(owed), sum(counted) if counted else None
    if before is None or not before.partitions or _is_less(partitions, rows, before):
        return Standing(partitions=partitions, rows=rows, since=now)
    return Standing(partitions=partitions, rows=rows, since=before.since, told=before.told)


def _is_less(partitions: int, rows: int | None, before: Standing) -> bool:
    return partitions < before.partitions or (rows is not None and before.rows is not None and rows < before.rows)


def _evaluation(found: Owed, name: str, standing: Standing, *, is_overdue: bool) -> dg.AssetCheckEvaluation:
    owed: dict[str, Any] = {}
    if standing.partitions:
        _, header, rows = owed_table(found, name)
        owed = {"owed": dg.MetadataValue.md(markdown_table(header, rows)), "since": _moment(standing.since)}
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(name),
        check_name=owed_check(name).name,
        passed=not standing.partitions,
        severity=dg.AssetCheckSeverity.ERROR if is_overdue else dg.AssetCheckSeverity.WARN,
        description="of the whole table" + (", overdue" if is_overdue else ""),
        metadata={
            "partitions": found.partitions[name],
            "partitions owed": standing.partitions,
            **({"rows owed": standing.rows} if standing.rows is not None else {}),
            **owed,
        },
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="minutes")


def _cursor(following: str | None, seen: Mapping[str, Standing]) -> str:
    return json.dumps({"next": following, "seen": {name: asdict(one) for name, one in seen.items()}})


def owed_sensor(study_of_today: Callable[[], Study], overdue_hours: float) -> dg.SensorDefinition:
    """The sensor that answers every table's check, from the study as it is at the tick."""

    @dg.sensor(
        name="what_is_owed",
        minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="answers the checks that say what each table owes; starts nothing",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        assert context.repository_def is not None, "Dagster evaluates sensors in their code location"
        study, known = study_of_today(), context.repository_def.assets_defs_by_key
        tables = [name for name in ORDER if dg.AssetKey(name) in known and not name.endswith("_report")]

        def tell(text: str) -> bool:
            context.log.warning(f"overdue: {text}")
            try:
                platform.alert(text)
            except AlertNotSentError as error:
                context.log.error(str(error))
                return False
            return True

        look = Look(study, platform.tables(), overdue_hours, tell)
        cursor = look.go_on(context.cursor, [name for name in tables if stored_partitions(study, name)])
        owing = sum(not event.passed for event in look.events)
        return dg.SensorResult(
            skip_reason=f"{len(look.events)} tables looked at, {owing} owe something",
            cursor=cursor,
            asset_events=look.events,
        )

    return sensor
