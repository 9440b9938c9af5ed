from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.automation import partitions_to_regrade
from amr_pipeline.assets.deployment import Deployment, deployment_from_environment
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.studies.micro import STUDY
from amr_pipeline.studies.study import InstructionVerifier, Study
from amr_pipeline_tests.assets.imported_world import ImportedWorld
from amr_pipeline_tests.assets.judged import Stored, instruction_study

BEGUN = datetime(2025, 6, 1, tzinfo=UTC)


def test_a_tick_takes_partitions_with_responses_that_owe_verdicts_and_a_few_at_a_time(tmp_path: Path):
    store = TableStore(str(tmp_path))
    assert partitions_to_regrade(STUDY, store, set(), 8) == []
    for key in ("weak|00", "strong|03"):
        store.write("responses", key, pl.DataFrame(schema=tables.RESPONSES.schema), fingerprints={})
    assert partitions_to_regrade(STUDY, store, set(), 8) == ["weak|00", "strong|03"]
    assert partitions_to_regrade(STUDY, store, {"weak|00"}, 8) == ["strong|03"]
    for key in stored_partitions(STUDY, "responses"):
        store.write("responses", key, pl.DataFrame(schema=tables.RESPONSES.schema), fingerprints={})
    assert len(partitions_to_regrade(STUDY, store, set(), 5)) == 5


class Daemon:
    """Ticks of the schedule of a deployment, and the runs they requested, on an instance of their own."""

    def __init__(self, instance: dg.DagsterInstance, deployment: Deployment, study: Study) -> None:
        self.instance, self.ticks = instance, 0
        definitions = assemble(deployment, study)
        self.repository = definitions.get_repository_def()
        self.schedule = definitions.resolve_schedule_def("regrade")
        self.job = definitions.resolve_job_def("regrade")
        self.platform = Platform.of(deployment)
        self.runs: dict[str, str] = {}

    def tick(self) -> list[str]:
        """Partitions requested by the next tick; each becomes a run that is under way."""
        self.ticks += 1
        with dg.build_schedule_context(
            instance=self.instance,
            repository_def=self.repository,
            scheduled_execution_time=BEGUN + self.ticks * timedelta(minutes=15),
            resources={"platform": self.platform},
        ) as context:
            requests = self.schedule.evaluate_tick(context).run_requests or []
        for request in requests:
            assert request.partition_key not in self.runs, "requested twice while under way"
            run = self.instance.create_run_for_job(
                job_def=self.job,
                tags=dict(request.tags),
                status=dg.DagsterRunStatus.STARTED,
            )
            self.runs[str(request.partition_key)] = run.run_id
        return [str(request.partition_key) for request in requests]

    def end(self, keys: Sequence[str], *, failed: bool = False) -> None:
        """Runs end, as the daemon sees it."""
        for key in keys:
            run = self.instance.get_run_by_id(self.runs.pop(key))
            assert run is not None
            report = self.instance.report_run_failed if failed else self.instance.report_run_canceled
            report(run)


@pytest.fixture
def instance_on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """What a tick of a schedule asks for: its context refuses an instance in memory (Dagster 1.13.27)."""
    with dg.DagsterInstance.local_temp(
        str(tmp_path_factory.mktemp("instance")), overrides={"telemetry": {"enabled": False}}
    ) as opened:
        yield opened


def test_a_changed_parameter_re_grades_what_is_owed_over_several_ticks_and_nothing_twice(
    tmp_path: Path, instance_on_disk: dg.DagsterInstance
):
    study = instruction_study(num_shards=4)
    stored = Stored(tmp_path, study)
    keys = stored_partitions(study, "verdicts")
    stored.judge(*keys)
    deployment = deployment_from_environment({"AMR_HOME": str(tmp_path), "AMR_REGRADE_PARTITIONS": "3"})
    assert Daemon(instance_on_disk, deployment, study).tick() == []

    changed = instruction_study(num_shards=4, verifiers=(InstructionVerifier(reading="loose"),))
    daemon = Daemon(instance_on_disk, deployment, changed)
    first, second = daemon.tick(), daemon.tick()
    assert (first, second) == (keys[:3], keys[3:6])
    stored.judge(*first, study=changed)
    daemon.end(first)
    third = daemon.tick()
    assert third == keys[6:]
    assert daemon.tick() == []
    # A run that failed leaves its partition owed: it is requested again, the others under way are not.
    daemon.end(second[:1], failed=True)
    assert daemon.tick() == second[:1]
    stored.judge(*second, *third, study=changed)
    daemon.end([*second, *third])
    assert daemon.tick() == []
    assert Lineage(changed, stored.store).owed("verdicts") == []


def test_partitions_that_owe_something_after_every_attempt_keep_no_other_waiting(tmp_path: Path):
    store = TableStore(str(tmp_path))
    keys = stored_partitions(STUDY, "responses")
    for key in keys:
        store.write("responses", key, tables.RESPONSES.empty(), fingerprints={})
    first = partitions_to_regrade(STUDY, store, set(), 8)
    for key in first:
        store.writer("verdicts", key, fingerprints={}).complete(owed=1)
    assert partitions_to_regrade(STUDY, store, set(), 8)[: len(keys) - len(first)] == keys[len(first) :]


def test_a_source_whose_file_changed_is_asked_for_once(tmp_path: Path, instance: dg.DagsterInstance):
    world = ImportedWorld(tmp_path)
    world.ask("Who is it?")
    deployment = deployment_from_environment({"AMR_HOME": str(tmp_path / "home"), "AMR_STUDY": str(world.file)})
    definitions = assemble(deployment)
    sensor = definitions.get_repository_def().get_sensor_def("changed_sources")

    def tick() -> dict[str, str]:
        with dg.build_sensor_context(
            instance=instance,
            repository_def=definitions.get_repository_def(),
            resources={"platform": Platform.of(deployment)},
        ) as context:
            requests = sensor.evaluate_tick(context).run_requests or []
        return {str(request.partition_key): str(request.run_key) for request in requests}

    def read() -> None:
        # A process of its own reads the study anew, as the code server's do.
        assert (
            assemble(deployment)
            .resolve_job_def("collect")
            .execute_in_process(instance=instance, partition_key="s")
            .success
        )

    first = tick()
    assert first.keys() == {"s"}
    assert tick() == first, "the same state has the same key, which Dagster requests once"
    read()
    assert tick() == {}
    world.ask("Who is it?", "And who is that?")
    second = tick()
    assert second.keys() == {"s"}
    assert second != first
    read()
    assert tick() == {}
    world.ask("Who is it?")
    third = tick()
    assert third.keys() == {"s"}
    assert third["s"] not in (first["s"], second["s"]), "what it once was is another request, or Dagster drops it"
