"""A run whose process is gone is told from one that lives, by signs alone."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from sqlalchemy.exc import OperationalError

from amr_pipeline.assets import lost_runs
from amr_pipeline.assets.lost_runs import SILENT_POLLS, WatchingRunLauncher, giving_signs
from amr_pipeline.assets.resources import Platform

LAUNCHER = {"module": "amr_pipeline.assets.lost_runs", "class": "WatchingRunLauncher"}


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setattr(lost_runs, "SECONDS_BETWEEN_SIGNS", 0.01)
    settings = {"run_launcher": LAUNCHER, "telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=settings) as opened:
        yield opened


def polled(instance: dg.DagsterInstance, run: dg.DagsterRun) -> WorkerStatus:
    """What the monitoring daemon is told at one poll."""
    assert instance.run_launcher.supports_check_run_worker_health
    return instance.run_launcher.check_run_worker_health(run).status


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sign_of(instance: dg.DagsterInstance, run_id: str) -> str | None:
    key = f"amr/sign_of_life/{run_id}"
    return instance.daemon_cursor_storage.get_cursor_values({key}).get(key)


def test_a_run_that_gives_signs_lives_and_one_that_stopped_is_lost(instance: dg.DagsterInstance):
    run = dg.DagsterRun(job_name="any", run_id="one")
    with giving_signs(instance, "one"):
        for _ in range(SILENT_POLLS + 3):
            before = sign_of(instance, "one")
            assert polled(instance, run) is WorkerStatus.RUNNING
            until(lambda before=before: sign_of(instance, "one") != before)
    found = [polled(instance, run) for _ in range(SILENT_POLLS + 2)]
    # The last sign may have been counted already when the run ended.
    assert found[: SILENT_POLLS - 1] == [WorkerStatus.RUNNING] * (SILENT_POLLS - 1)
    assert WorkerStatus.FAILED in found


def test_a_run_that_never_gave_a_sign_is_lost_too_and_others_are_not(instance: dg.DagsterInstance):
    lost, alive = (dg.DagsterRun(job_name="any", run_id=name) for name in ("lost", "alive"))
    with giving_signs(instance, "alive"):
        for _ in range(SILENT_POLLS):
            assert polled(instance, lost) is WorkerStatus.RUNNING
            before = sign_of(instance, "alive")
            assert polled(instance, alive) is WorkerStatus.RUNNING
            until(lambda before=before: sign_of(instance, "alive") != before)
        assert polled(instance, lost) is WorkerStatus.FAILED
        assert polled(instance, alive) is WorkerStatus.RUNNING


def test_a_storage_that_was_away_ends_no_run(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch):
    storage, is_away = instance.daemon_cursor_storage, [False]
    refused, write = [], storage.set_cursor_values

    def maybe(pairs: dict[str, str]) -> None:
        if is_away[0]:
            refused.append(pairs)
            raise OperationalError("insert", {}, ConnectionRefusedError("away"))
        write(pairs)

    monkeypatch.setattr(storage, "set_cursor_values", maybe)
    with giving_signs(instance, "one"):
        until(lambda: sign_of(instance, "one") is not None)
        is_away[0] = True
        until(lambda: len(refused) > 3)
        is_away[0], before = False, sign_of(instance, "one")
        until(lambda: sign_of(instance, "one") != before)


def test_a_run_in_dagster_gives_signs_while_its_platform_is_open(instance: dg.DagsterInstance, tmp_path: Path):
    seen: list[str | None] = []

    @dg.asset
    def product(context: dg.AssetExecutionContext, platform: Platform) -> None:
        until(lambda: sign_of(instance, context.run.run_id) is not None)
        seen.append(platform.home)

    platform = Platform(home=str(tmp_path), storage=str(tmp_path / "tables"), mlflow_uri="sqlite://")
    done = dg.materialize([product], instance=instance, resources={"platform": platform})
    assert seen == [str(tmp_path)]
    time.sleep(0.05)
    assert sign_of(instance, done.run_id) is None, "a run that ended gives no sign any more, and leaves none"


def test_signs_of_runs_that_were_killed_or_deleted_are_removed_when_the_next_run_is_watched(
    instance: dg.DagsterInstance,
):
    statuses = {"killed": "FAILURE", "ended": "SUCCESS", "at work": "STARTED", "starts": "STARTING"}
    runs = {
        name: instance.add_run(dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus(status)))
        for name, status in statuses.items()
    }
    ids = {name: run.run_id for name, run in runs.items()} | {"deleted": "a run that there is not"}
    cursors = instance.daemon_cursor_storage
    cursors.set_cursor_values({f"amr/sign_of_life/{run_id}": "1" for run_id in ids.values()} | {"another cursor": "1"})
    assert polled(instance, runs["at work"]) is WorkerStatus.RUNNING
    assert {name for name, run_id in ids.items() if sign_of(instance, run_id)} == {"at work", "starts"}
    assert cursors.get_cursor_values({"another cursor"}) == {"another cursor": "1"}


def test_a_storage_that_is_away_when_a_run_ends_does_not_fail_it(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    def away(*_: object) -> None:
        raise OperationalError("delete", {}, ConnectionRefusedError("away"))

    with giving_signs(instance, "one"):
        until(lambda: sign_of(instance, "one") is not None)
        monkeypatch.setattr(lost_runs, "_forget", away)
    assert sign_of(instance, "one") is not None


@pytest.mark.parametrize(
    ("module", "name"),
    [("dagster_k8s", "K8sRunLauncher"), ("amr_pipeline.assets.kubernetes_runs", "AskingRunLauncher")],
)
def test_a_run_in_a_pod_without_a_token_of_kubernetes_needs_none(tmp_path: Path, module: str, name: str):
    config = {"service_account_name": "runs", "instance_config_map": "any", "dagster_home": "/opt/amr/dagster_home"}
    launcher = {"module": module, "class": name, "config": {**config, "load_incluster_config": True}}
    seen: list[str] = []

    @dg.asset
    def product(platform: Platform) -> None:
        seen.append(platform.home)

    settings = {"run_launcher": launcher, "telemetry": {"enabled": False}}
    platform = Platform(home=str(tmp_path), storage=str(tmp_path / "tables"), mlflow_uri="sqlite://")
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=settings) as instance:
        assert dg.materialize([product], instance=instance, resources={"platform": platform}).success
        assert seen == [str(tmp_path)]
        with pytest.raises(Exception, match="Service host/port is not set"):
            _ = instance.run_launcher


def test_an_instance_of_one_process_has_nobody_who_reads_signs():
    with dg.DagsterInstance.ephemeral() as instance, giving_signs(instance, "one"):
        assert sign_of(instance, "one") is None


def test_without_the_launcher_nothing_is_recorded(tmp_path: Path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as plain, giving_signs(plain, "one"):
        assert not isinstance(plain.run_launcher, WatchingRunLauncher)
        assert sign_of(plain, "one") is None
