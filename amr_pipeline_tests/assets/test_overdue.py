"""Each table says what it owes: a run of its own partitions, the sensor of all; what nobody makes is overdue and told."""

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.overdue import Look
from amr_pipeline.assets.resources import Deployment, Platform, deployment_from_environment
from amr_pipeline.engines.alerts import AlertNotSentError
from amr_pipeline.verdicts.verifier import Cause, undecided
from amr_pipeline_tests.assets.imported_world import ImportedWorld
from amr_pipeline_tests.assets.test_owed_verdicts import judging

HOUR = 3600.0


class Day:
    """Looks at a world's tables at chosen hours; `heard` is what people were told, while they listen."""

    def __init__(self, world: ImportedWorld, *tables: str, seconds: float = HOUR) -> None:
        self.world, self.tables, self.seconds = world, list(tables), seconds
        self.cursor: str | None = None
        self.heard: list[str] = []
        self.listens, self.hour = True, 0.0

    def _hear(self, text: str) -> bool:
        if self.listens:
            self.heard.append(text)
        return self.listens

    def look(self, hour: float) -> dict[str, dg.AssetCheckEvaluation]:
        self.hour = hour
        look = Look(self.world.study, self.world.store, 24.0, self._hear, now=lambda: self.hour * HOUR)
        self.cursor = look.go_on(self.cursor, self.tables, self.seconds)
        return {event.asset_key.to_user_string(): event for event in look.events}


def numbers(event: dg.AssetCheckEvaluation) -> tuple[object, ...]:
    shown = ("partitions", "partitions owed", "rows owed")
    return tuple(event.metadata[name].value if name in event.metadata else None for name in shown)


def test_what_a_table_owes_is_a_warning_with_numbers(world: ImportedWorld):
    world.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    found = Day(world, "queries", "responses", "verdicts").look(0)
    assert {name: event.passed for name, event in found.items()} == {
        "queries": True,
        "responses": False,
        "verdicts": False,
    }
    assert numbers(found["queries"]) == (1, 0, None)
    assert numbers(found["responses"]) == (2, 2, 12)
    assert numbers(found["verdicts"]) == (2, 2, None), "nobody knows yet how many"
    assert found["responses"].severity == dg.AssetCheckSeverity.WARN
    assert found["responses"].check_name == "responses_owes_nothing"
    assert "never written" in str(found["responses"].metadata["owed"].value)
    assert found["responses"].metadata["since"].value == "1970-01-01T00:00+00:00"


def test_what_nobody_makes_is_overdue_and_told_once(world: ImportedWorld):
    world.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    day = Day(world, "responses")
    severities = [day.look(hour)["responses"].severity for hour in (0, 23.9, 24, 25)]
    assert severities == [dg.AssetCheckSeverity.WARN] * 2 + [dg.AssetCheckSeverity.ERROR] * 2
    assert len(day.heard) == 1
    assert "files: responses: 2 of 2 partitions owed, 12 rows, and none of it was made since 1970-01-01" in day.heard[0]
    world.materialize(assets=("responses",), only=["one|00"])
    assert day.look(26)["responses"].severity == dg.AssetCheckSeverity.WARN, "some of it was made"
    assert day.look(49.9)["responses"].severity == dg.AssetCheckSeverity.WARN
    day.look(50)
    assert len(day.heard) == 2, "and no more since"
    world.materialize(assets=("responses",))
    assert day.look(60)["responses"].passed


def test_rows_that_get_fewer_are_progress(world: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    day = Day(world, "verdicts")
    for hour, unsettled in ((0, {"a", "c", "g"}), (30, {"a", "c"}), (50, {"a", "c"})):
        with monkeypatch.context() as broken:
            judging(
                broken,
                lambda case, these=unsettled: undecided(case, Cause.TIMEOUT, stage="x") if case.text in these else None,
            )
            world.materialize()
        found = day.look(hour)["verdicts"]
        assert numbers(found) == (2, 1, len(unsettled))
        assert found.severity == dg.AssetCheckSeverity.WARN
    assert day.look(54)["verdicts"].severity == dg.AssetCheckSeverity.ERROR


def test_people_who_did_not_hear_are_told_again(world: ImportedWorld):
    day = Day(world, "raw_queries")
    day.look(0)
    day.listens = False
    day.look(24)
    day.listens = True
    day.look(25)
    day.look(26)
    assert len(day.heard) == 1


def test_a_tick_without_time_looks_at_one_table_and_the_next_goes_on(world: ImportedWorld):
    day = Day(world, "raw_queries", "queries", "responses", seconds=0.0)
    assert [list(day.look(0)) for _ in range(4)] == [["raw_queries"], ["queries"], ["responses"], ["raw_queries"]]
    day.tables.remove("queries")
    assert list(day.look(0)) == ["raw_queries"], "the table that was next is gone"


# ------------------------------------------------------------------------------------------------------------- Dagster


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(
        str(tmp_path_factory.mktemp("instance")), overrides={"telemetry": {"enabled": False}}
    ) as opened:
        yield opened


def deployment(world: ImportedWorld) -> Deployment:
    return deployment_from_environment(
        {"AMR_HOME": str(world.folder / "home"), "AMR_STUDY": str(world.file), "AMR_OVERDUE_HOURS": "0.0001"}
    )


def test_the_sensor_answers_every_check_of_the_location(
    world: ImportedWorld, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []

    def refuse(_: Platform, text: str) -> None:
        said.append(text)
        raise AlertNotSentError("an alert was not taken: status 404")

    monkeypatch.setattr(Platform, "alert", refuse)
    definitions = assemble(deployment(world))
    repository = definitions.get_repository_def()
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
    assets = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert {key.asset_key.to_user_string() for key in checks} == {
        name for name in assets if name != "dropped_queries" and not name.endswith("_report")
    }
    time.sleep(0.5)
    events, _ = tick(cursor)
    assert {event.severity for event in events if not event.passed} == {dg.AssetCheckSeverity.ERROR}
    assert said, "an address that refuses keeps no check from being answered"


def test_a_run_answers_for_its_own_partitions(world: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as broken:
        judging(broken, lambda case: undecided(case, Cause.TIMEOUT, stage="x") if case.text == "a, b" else None)
        with world.session() as session:
            assert session.instance is not None
            session.materialize_owed(say=lambda _: None)
            found = {
                key.asset_key.to_user_string(): record.evaluation
                for key in assemble(deployment(world), world.study).get_repository_def().asset_graph.asset_check_keys
                if key.name.endswith("_owes_nothing")
                for record in [session.instance.get_latest_asset_check_evaluation_record(key)]
                if record is not None and record.evaluation is not None
            }
    assert {name for name, event in found.items() if not event.passed} == {"verdicts"}
    assert numbers(found["verdicts"]) == (2, 1, 1)
    assert numbers(found["subsets"]) == (1, 0, 0)


def test_a_hopeless_address_of_alerts_is_refused_when_the_deployment_is_read(tmp_path: Path):
    with pytest.raises(ValueError, match="AMR_ALERT_URL is no address") as refused:
        deployment_from_environment({"AMR_HOME": str(tmp_path), "AMR_ALERT_URL": "ftp://canary"})
    assert "canary" not in str(refused.value)
