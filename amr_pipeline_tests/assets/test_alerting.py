"""A run that failed is told once, without what its error says; one that will be retried is no news."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from amr_pipeline.assets.alerting import BACKFILL, SECONDS_OF_QUIET, WILL_RETRY, Quiet, failure_sensor
from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.resources import Platform, deployment_from_environment
from amr_pipeline_tests.assets.imported_world import ImportedWorld

CANARY = "canary-of-an-error"


class NotThere(RuntimeError):
    """What the run fails with."""


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["weak|03"]))
def verdicts() -> None:
    raise NotThere(f"password={CANARY}")


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(
        str(tmp_path_factory.mktemp("instance")), overrides={"telemetry": {"enabled": False}}
    ) as opened:
        yield opened


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(Platform, "alert", lambda _, text: found.append(text))
    return found


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """Failed runs, each shown to the sensor as the daemon shows them."""

    def __init__(self, instance: dg.DagsterInstance, home: Path) -> None:
        self.instance, self.clock = instance, Clock()
        self.platform = Platform.of(deployment_from_environment({"AMR_HOME": str(home)}))
        self.sensor = failure_sensor(Quiet(self.clock))

    def fail(self, **tags: str) -> str:
        found = dg.materialize(
            [verdicts], instance=self.instance, partition_key="weak|03", raise_on_error=False, tags=tags
        )
        assert not found.success
        with dg.build_run_status_sensor_context(
            sensor_name="alerts",
            dagster_event=found.get_run_failure_event(),
            dagster_instance=self.instance,
            dagster_run=found.dagster_run,
            resources={"platform": self.platform},
        ) as context:
            self.sensor(context.for_run_failure())
        return found.dagster_run.run_id


@pytest.fixture
def watched(instance: dg.DagsterInstance, tmp_path: Path) -> Watched:
    return Watched(instance, tmp_path)


def test_a_failed_run_is_told_by_its_names_alone(watched: Watched, said: list[str]):
    run = watched.fail(**{BACKFILL: "abcd"})
    assert len(said) == 1
    for part in (run, "verdicts", "weak|03", "abcd", "NotThere"):
        assert part in said[0]
    assert CANARY not in said[0]


def test_a_run_that_will_be_retried_is_no_news(watched: Watched, said: list[str]):
    watched.fail(**{WILL_RETRY: "true"})
    assert said == []


def test_the_failures_of_one_backfill_are_told_once_an_hour_and_counted(watched: Watched, said: list[str]):
    for _ in range(3):
        watched.fail(**{BACKFILL: "abcd"})
    assert len(said) == 1
    watched.fail(**{BACKFILL: "other"})
    assert len(said) == 2
    watched.clock.now += SECONDS_OF_QUIET
    watched.fail(**{BACKFILL: "abcd"})
    assert "2 more of its kind failed" in said[2]
    watched.clock.now += SECONDS_OF_QUIET
    watched.fail(**{BACKFILL: "abcd"})
    assert "more of its kind" not in said[3]


def test_only_a_deployment_with_an_address_has_the_sensor(world: ImportedWorld):
    def sensors(**variables: str) -> set[str]:
        deployment = deployment_from_environment({"AMR_HOME": str(world.folder), **variables})
        return {sensor.name for sensor in assemble(deployment, world.study).sensors or ()}

    assert "alerts" not in sensors()
    assert "alerts" in sensors(AMR_ALERT_URL="https://chat.example/hook")
