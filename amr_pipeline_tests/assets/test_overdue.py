"""What nobody makes is overdue and told once; what waits for others, or is being made, is not."""

import os
import time

import dagster as dg
import pytest

from amr_pipeline.assets import overdue
from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import Deployment, deployment_from_environment
from amr_pipeline.assets.overdue import Look, Standing, busy_tables
from amr_pipeline.assets.owed import owed_by_records, what_is_owed
from amr_pipeline.assets.owed_report import check_name, tables_of
from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines.alerts import AlertNotSentError
from amr_pipeline.verdicts.verifier import Cause, undecided
from amr_pipeline_tests.assets.imported_world import ImportedWorld
from amr_pipeline_tests.assets.test_owed_verdicts import judging

HOUR = 3600.0
BEFORE_RESPONSES = ("raw_queries", "near_duplicates", "queries")
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


class Days:
    """Looks at a world's tables, so many hours after the first one; `heard` is what people were told."""

    def __init__(self, world: ImportedWorld, *tables: str) -> None:
        self.world, self.tables = world, list(tables)
        self.begun, self.hour = time.time(), 0.0
        self.cursor: str | None = None
        self.heard: list[str] = []
        self.busy: tuple[str, ...] = ()
        self.listens = True
        self.seen: dict[str, Standing] = {}

    def now(self) -> float:
        return self.begun + self.hour * HOUR

    def made_now(self, table: str) -> None:
        """Let what is committed to a table be of this hour, as it would be had we waited."""
        for record in (self.world.folder / "home" / "tables" / table).glob("*/commits/*.json"):
            os.utime(record, (self.now(), self.now()))

    def look(self, hour: float, seconds: float = HOUR) -> dict[str, dg.AssetCheckEvaluation]:
        """Answers that were recorded, by table."""
        self.hour = hour
        look = Look(self.world.study, self.world.store, 24.0, self.busy, now=self.now)
        look.remember(self.cursor, self.tables)
        look.go_on(self.tables, seconds)
        self.heard += look.overdue.values() if self.listens else ()
        self.cursor = look.cursor(look.overdue if self.listens else ())
        self.seen = look.seen
        return {event.check_name.removesuffix("_owes_nothing"): event for event in look.events}

    def severity(self, hour: float, table: str) -> dg.AssetCheckSeverity:
        """The severity of a table's answer, recorded or not."""
        self.look(hour)
        return ERROR if self.seen[table].is_overdue else WARN


def numbers(event: dg.AssetCheckEvaluation) -> tuple[object, ...]:
    shown = ("partitions", "partitions owed", "rows that records lack")
    return tuple(event.metadata[name].value if name in event.metadata else None for name in shown)


# ------------------------------------------------------------------------------------------------------- what is owed


def test_records_alone_say_which_partitions_owe_and_why(world: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    def agree() -> None:
        for table in tables_of(world.study):
            by_records, _ = owed_by_records(world.study, world.store, table)
            by_rows = what_is_owed(world.study, world.store, [table])
            assert by_records.partitions == by_rows.partitions
            assert [one.partition for one in by_records.owed] == [one.partition for one in by_rows.owed]
            reasons = [one.because for one in by_rows.owed]
            assert [one.because for one in by_records.owed] == [
                ("never completed",) if because == ("never materialized",) else because for because in reasons
            ]

    agree()
    with monkeypatch.context() as broken:
        judging(broken, lambda case: undecided(case, Cause.TIMEOUT, stage="x") if case.text == "a, b" else None)
        world.materialize()
    agree()
    found, made_at = owed_by_records(world.study, world.store, "verdicts")
    assert [(one.partition, one.rows, one.because) for one in found.owed] == [
        ("one|00", {"lacking": 1}, ("lacks rows",))
    ]
    assert made_at is not None
    assert abs(made_at - time.time()) < 120
    world.change("InstructionVerifier()", "InstructionVerifier(reading='loose')")
    agree()


def test_an_answer_has_numbers_and_is_recorded_when_it_changes(world: ImportedWorld):
    world.materialize(assets=BEFORE_RESPONSES)
    days = Days(world, "queries", "responses", "verdicts")
    found = days.look(0)
    assert {name: event.passed for name, event in found.items()} == {
        "queries": True,
        "responses": False,
        "verdicts": False,
    }
    assert numbers(found["queries"]) == (1, 0, None)
    assert numbers(found["responses"]) == (2, 2, None)
    assert found["responses"].severity == WARN
    assert found["responses"].asset_key == dg.AssetKey("owed_report")
    assert "never completed" in str(found["responses"].metadata["owed"].value)
    assert days.look(1) == {}
    world.materialize(assets=("responses",), only=["one|00"])
    assert numbers(days.look(2)["responses"]) == (2, 1, None)
    assert set(days.look(27)) == {"queries", "responses", "verdicts"}, "once a day all the same"


# ---------------------------------------------------------------------------------------------------------- overdue


def test_what_nobody_makes_is_overdue_and_told_once(world: ImportedWorld):
    world.materialize(assets=BEFORE_RESPONSES)
    days = Days(world, "responses")
    assert [days.severity(hour, "responses") for hour in (0, 23.9, 24.1, 25)] == [WARN, WARN, ERROR, ERROR]
    assert len(days.heard) == 1
    assert "files: responses: 2 of 2 partitions owed, and nothing was committed since 20" in days.heard[0]
    world.materialize(assets=("responses",), only=["one|00"])
    days.made_now("responses")
    assert [days.severity(hour, "responses") for hour in (26, 48.9, 49.1)] == [WARN, WARN, ERROR]
    assert len(days.heard) == 2
    world.materialize(assets=("responses",))
    assert days.look(60)["responses"].passed


def test_what_is_committed_resets_it_although_as_much_is_owed(world: ImportedWorld):
    world.materialize(assets=BEFORE_RESPONSES)
    days = Days(world, "responses")
    days.look(0)
    days.hour = 20
    with world.store.writer("responses", "one|00", fingerprints={}) as writer:
        writer.commit_part()  # a part of a partition that is not whole yet
    days.made_now("responses")
    assert [days.severity(hour, "responses") for hour in (25, 43.9, 44.1)] == [WARN, WARN, ERROR]


def test_what_waits_for_its_inputs_or_is_being_made_is_not_overdue(world: ImportedWorld):
    world.materialize(assets=BEFORE_RESPONSES)
    days = Days(world, "responses", "verdicts")
    assert days.severity(0, "verdicts") == WARN
    days.busy = ("responses",)
    assert [days.severity(hour, "responses") for hour in (30, 60)] == [WARN, WARN]
    days.busy = ()
    assert days.severity(83, "responses") == WARN
    assert days.severity(85, "responses") == ERROR
    assert days.severity(86, "verdicts") == WARN, "its responses are not there"
    assert len(days.heard) == 1


def test_people_who_did_not_hear_are_told_again(world: ImportedWorld):
    days = Days(world, "raw_queries")
    days.look(0)
    days.listens = False
    days.look(24.1)
    days.listens = True
    days.look(25)
    days.look(26)
    assert len(days.heard) == 1


def test_a_tick_without_time_looks_at_one_table_and_the_next_goes_on(world: ImportedWorld):
    days = Days(world, "raw_queries", "queries", "responses")
    looked = [list(days.look(hour, seconds=0.0)) for hour in (0, 30, 60, 90)]
    assert looked == [["raw_queries"], ["queries"], ["responses"], ["raw_queries"]]
    days.tables.remove("queries")
    assert list(days.look(120, seconds=0.0)) == ["raw_queries"], "the table that was next is gone"


@pytest.mark.parametrize(
    "cursor", ["", "{", "[]", "7", '{"study": "files"}', '{"study": "files", "seen": {"queries": {}}}']
)
def test_a_cursor_of_another_kind_is_begun_anew(world: ImportedWorld, cursor: str):
    days = Days(world, "queries")
    days.cursor = cursor
    assert numbers(days.look(0)["queries"]) == (1, 1, None)


def test_a_study_of_another_name_inherits_nothing(world: ImportedWorld):
    days = Days(world, "raw_queries")
    days.look(0)
    world.change('name="files"', 'name="others"')
    assert days.look(30)["raw_queries"].severity == WARN
    assert days.heard == []


# ------------------------------------------------------------------------------------------------------------- Dagster


def deployment(world: ImportedWorld) -> Deployment:
    return deployment_from_environment(
        {"AMR_HOME": str(world.folder / "home"), "AMR_STUDY": str(world.file), "AMR_OVERDUE_HOURS": "0.00001"}
    )


def test_tables_of_unfinished_runs_are_busy(instance: dg.DagsterInstance, world: ImportedWorld):
    definitions = assemble(deployment(world))
    started, over = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS
    instance.create_run_for_job(job_def=definitions.resolve_job_def("regrade"), status=started)
    instance.create_run_for_job(job_def=definitions.resolve_job_def("select"), status=over)
    assert busy_tables(instance) == {"verdicts"}


def test_the_sensor_answers_every_check_and_an_address_that_refuses_keeps_it_from_none(
    world: ImportedWorld, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []

    def refuse(_: Platform, text: str) -> None:
        said.append(text)
        raise AlertNotSentError("an alert was not taken: status 404")

    monkeypatch.setattr(Platform, "alert", refuse)
    monkeypatch.setattr(overdue, "TICK_SECONDS", 600.0)  # every table in one tick, on a busy machine too
    repository = assemble(deployment(world)).get_repository_def()
    sensor = repository.get_sensor_def("what_is_owed")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING

    def tick(cursor: str | None) -> tuple[list[dg.AssetCheckEvaluation], str | None]:
        with dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            repository_def=repository,
            resources={"platform": Platform.of(deployment(world))},
        ) as context:
            found = sensor.evaluate_tick(context)
        assert not found.run_requests
        return [event for event in found.asset_events if isinstance(event, dg.AssetCheckEvaluation)], found.cursor

    events, cursor = tick(None)
    checks = {key for key in repository.asset_graph.asset_check_keys if key.name.endswith("_owes_nothing")}
    assert {event.asset_check_key for event in events} == checks
    assert {key.name for key in checks} == {check_name(table) for table in tables_of(world.study)}
    time.sleep(0.1)
    events, _ = tick(cursor)
    assert {(event.check_name, event.severity) for event in events} == {("raw_queries_owes_nothing", ERROR)}
    assert said
