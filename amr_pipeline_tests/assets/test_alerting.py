"""A run that failed is told, without what its error says; one that will be retried is no news; nothing waiting is lost."""

from pathlib import Path

import dagster as dg
import pytest

from amr_pipeline.assets.alerting import (
    BACKFILL,
    MOST_WAITING,
    SECONDS_AFTER_REFUSAL,
    SECONDS_OF_QUIET,
    WILL_RETRY,
    Outbox,
    failure_sensor,
)
from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines.alerts import AlertNotSentError
from amr_pipeline_tests.assets.imported_world import ImportedWorld

CANARY = "canary-of-an-error"


class NotThereError(RuntimeError):
    """What the run fails with."""


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["weak|03"]))
def verdicts() -> None:
    raise NotThereError(f"password={CANARY}")


@dg.asset
def difficulty() -> None:
    raise NotThereError


class Chat:
    """Where people are told, while it takes something."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.is_open = True
        self.attempts = 0
        self.now = 0.0

    def take(self, text: str) -> None:
        self.attempts += 1
        if not self.is_open:
            raise AlertNotSentError("an alert was not taken: status 404")
        self.heard.append(text)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Chat:
    found = Chat()
    monkeypatch.setattr(Platform, "alert", lambda _, text: found.take(text))
    return found


# -------------------------------------------------------------------------------------------------------- what waits


def test_of_one_kind_people_hear_once_an_hour_and_then_of_all_that_waited(chat: Chat):
    outbox = Outbox(lambda: chat.now)
    for text in ("one", "two", "two", "three"):
        outbox.put("a", text)
        outbox.send(chat.take)
    outbox.put("b", "other")
    outbox.send(chat.take)
    assert chat.heard == ["one", "other"]
    chat.now += SECONDS_OF_QUIET
    outbox.send(chat.take)
    assert chat.heard[2:] == ["two\nthree"]
    chat.now += SECONDS_OF_QUIET
    outbox.send(chat.take)
    assert len(chat.heard) == 3, "nothing waits"


def test_what_nobody_took_waits_on_and_the_address_is_left_alone_for_a_while(chat: Chat):
    outbox = Outbox(lambda: chat.now)
    chat.is_open = False
    outbox.put("a", "one")
    with pytest.raises(AlertNotSentError):
        outbox.send(chat.take)
    outbox.put("b", "two")
    outbox.send(chat.take)
    assert chat.attempts == 1
    assert outbox.holds("a")
    chat.is_open = True
    chat.now += SECONDS_AFTER_REFUSAL
    outbox.send(chat.take)
    assert chat.heard == ["one\n\ntwo"]
    assert not outbox.holds("a")


def test_of_very_many_only_the_number_is_told(chat: Chat):
    outbox = Outbox(lambda: chat.now)
    for place in range(MOST_WAITING + 5):
        outbox.put("a", f"text {place}")
    outbox.send(chat.take)
    assert chat.heard[0].splitlines()[MOST_WAITING - 1 :] == [f"text {MOST_WAITING - 1}", "and 5 more"]


# --------------------------------------------------------------------------------------------------------- the sensor


class Watched:
    """Failed runs, each shown to the sensor as the daemon shows them."""

    def __init__(self, instance: dg.DagsterInstance, home: Path, chat: Chat) -> None:
        self.instance = instance
        self.platform = Platform.of(deployment_from_environment({"AMR_HOME": str(home)}))
        self.sensor = failure_sensor(Outbox(lambda: chat.now))

    def fail(self, asset: dg.AssetsDefinition = verdicts, **tags: str) -> str:
        found = dg.materialize(
            [asset],
            instance=self.instance,
            partition_key="weak|03" if asset is verdicts else None,
            raise_on_error=False,
            tags=tags,
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
def watched(instance: dg.DagsterInstance, tmp_path: Path, chat: Chat) -> Watched:
    return Watched(instance, tmp_path, chat)


def test_a_failed_run_is_told_by_its_names_alone(watched: Watched, chat: Chat):
    run = watched.fail(**{BACKFILL: "abcd"})
    assert len(chat.heard) == 1
    for part in (run, "verdicts", "weak|03", "abcd", "NotThereError"):
        assert part in chat.heard[0]
    assert CANARY not in chat.heard[0]


def test_a_run_that_will_be_retried_is_no_news(watched: Watched, chat: Chat):
    watched.fail(**{WILL_RETRY: "true"})
    assert chat.heard == []


def test_failures_of_one_backfill_are_told_together_and_of_another_asset_at_once(watched: Watched, chat: Chat):
    _, second, third = (watched.fail(**{BACKFILL: "abcd"}) for _ in range(3))
    watched.fail(**{BACKFILL: "other"})
    watched.fail()
    watched.fail(difficulty)
    assert len(chat.heard) == 4
    assert "difficulty" in chat.heard[3]
    chat.now += SECONDS_OF_QUIET
    watched.fail(difficulty)
    assert second in chat.heard[4]
    assert third in chat.heard[4]


def test_a_failure_that_nobody_heard_of_is_told_later(watched: Watched, chat: Chat):
    chat.is_open = False
    with pytest.raises(AlertNotSentError):
        watched.fail()
    chat.is_open = True
    chat.now += SECONDS_AFTER_REFUSAL
    watched.fail(difficulty)
    assert "verdicts" in chat.heard[0]
    assert "difficulty" in chat.heard[0]


def test_only_a_deployment_with_an_address_has_the_sensor(world: ImportedWorld):
    def sensors(**variables: str) -> set[str]:
        deployment = deployment_from_environment({"AMR_HOME": str(world.folder), **variables})
        return {sensor.name for sensor in assemble(deployment, world.study).sensors or ()}

    assert "alerts" not in sensors()
    assert "alerts" in sensors(AMR_ALERT_URL="https://chat.example/hook")
