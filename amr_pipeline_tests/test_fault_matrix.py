"""Every part of the deployment fails while it is at work, one after the other: what was seen, and that nothing is lost.

A distiller per fault, asked over HTTP at a server that counts what it is asked, so that what was paid for twice is known
exactly. Three faults in CI, all of them with AMR_SOAK; AMR_OBSERVATIONS names a file for the table (`docs/faults.md`).
"""

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES

from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.response_ledger import RESPONSES_PER_PART
from amr_pipeline.assets.session import Session
from amr_pipeline.assets.variables import key_variable
from amr_pipeline.responses.expected import expected_responses
from amr_pipeline_tests.alert_listener import listener
from amr_pipeline_tests.assets import imported_world
from amr_pipeline_tests.deployed import Deployed, deployed, environment_of
from amr_pipeline_tests.engines.faulty_server import Asked, Reply, Server, echo, serving
from amr_pipeline_tests.faults import FAULTS, ON_SMALL_DISKS
from amr_pipeline_tests.servers import needs_postgres
from amr_pipeline_tests.small_disk import small_disk, why_not

pytestmark = [pytest.mark.engines, pytest.mark.soak, pytest.mark.timeout(10_800), needs_postgres]

NUM_QUESTIONS, NUM_PASSES, IN_FLIGHT = 100, 4, 4
NUM_RESPONSES = NUM_QUESTIONS * NUM_PASSES
SECONDS_PER_RESPONSE = 0.15
"""A partition takes a quarter of a minute, so that a fault comes in its middle."""

CANARY = "canary-" + secrets.token_hex(16)
"""The key of every distiller's server."""

CANARY_OF_ALERTS = "hook-" + secrets.token_hex(16)
"""In the address where people are told of failures."""

STRIKE_AT = NUM_RESPONSES * 2 // 5


@dataclass(kw_only=True)
class Observation:
    """One fault, from its strike to the end."""

    fault: str
    runs: list[str]
    by_itself: bool
    seconds: float
    asked: int
    stored: int
    lost: int

    @property
    def row(self) -> str:
        how = "by itself" if self.by_itself else "after one more launch"
        twice = str(self.asked - self.stored)
        cells = (self.fault, ", ".join(self.runs), how, f"{self.seconds:.0f} s", twice, str(self.lost))
        return f"| {' | '.join(cells)} |"


HEADER = """| fault | runs, in order | whole again | from the fault to the end | responses asked twice | lost |
|---|---|---|---|---|---|"""


POOLS = ("http", "engines", "sandbox")
TWICE = ("in_turn", "side_by_side")
"""Distillers whose partition two operators materialize at once."""

IN_CI = ("run_worker", "postgres_restarts", "s3_loses_replies")
NO_DISKS = why_not() if os.environ.get("AMR_SOAK") else "none of the faults in CI needs disks of its own"


# --------------------------------------------------------------------------------------------------------- the world


class Rendezvous:
    """Keeps whoever is asked for one distiller waiting until two runs have asked, so that neither is over before."""

    def __init__(self) -> None:
        self._lock, self._waiting, self._both = threading.Lock(), 0, threading.Event()

    def wait(self) -> None:
        with self._lock:
            self._waiting += 1
            if self._waiting > IN_FLIGHT:  # one run has no more on its way
                self._both.set()
        assert self._both.wait(900), "no second run came"


both = Rendezvous()


def slowly(asked: Asked) -> Reply:
    if asked.body["model"] == "side_by_side":
        both.wait()
    return replace(echo(asked), seconds=SECONDS_PER_RESPONSE)


def study_text() -> str:
    text = imported_world.STUDY
    for before, after in {
        'DISTILLERS = ("one", "two")': f"DISTILLERS = {(*FAULTS, *TWICE)}",
        "NUM_PASSES = 2": f"NUM_PASSES = {NUM_PASSES}",
        "max_model_len=1": "max_model_len=100",
        'engine="imported"': 'engine="http"',
        "max_tokens=1)": "max_tokens=20)",
        'reads=JsonLines(path=f"{HERE}/{name}.jsonl"), responses_at=ResponseColumns(response="r", question="q"),': "",
    }.items():
        assert before in text
        text = text.replace(before, after)
    return text


@dataclass(frozen=True)
class Troubled:
    """The deployment, the server that its distillers are asked at, and what people were told."""

    platform: Deployed
    far: Server
    told: list[tuple[str, bytes]]

    def asked(self, distiller: str) -> int:
        return sum(one.body["model"] == distiller for one in self.far.asked)

    def owed(self, key: str) -> bool:
        lineage = Lineage(self.platform.study, self.platform.store)
        return any(key in lineage.owed(table) for table in ("responses", "verdicts"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    """The deployment with its queries there and nothing asked yet."""
    folder = tmp_path_factory.mktemp("faults")
    questions = imported_world.ImportedWorld(folder)  # writes the queries' file beside the study
    questions.ask(*(f"Who is number {number}?" for number in range(NUM_QUESTIONS)))
    with serving(slowly) as far, listener(CANARY_OF_ALERTS, 200) as (alerts, told):
        addresses = ",".join(f"{name}={far.address}" for name in (*FAULTS, *TWICE))
        keys = {key_variable(name): CANARY for name in (*FAULTS, *TWICE)}
        variables = {
            "AMR_HTTP_ENGINES": addresses,
            "AMR_HTTP_IN_FLIGHT": str(IN_FLIGHT),
            "AMR_ALERT_URL": alerts,
            **keys,
        }
        disk = nullcontext if NO_DISKS else small_disk
        with deployed(folder, study_text(), variables, has_proxy=True, disk=disk) as platform:
            with (
                environment_of(platform.environment),
                Session.open(deployment_from_environment(), platform.study, instance=False) as session,
                dg.DagsterInstance.ephemeral() as instance,
            ):
                before = ("raw_queries", "near_duplicates", "queries")
                replace(session, instance=instance).materialize_owed(assets=before, say=lambda _: None)
            yield Troubled(platform, far, told)


LAUNCH = """
mutation($what: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $what) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}
"""


def launch(platform: Deployed, key: str) -> str:
    """Launch responses and verdicts of a partition, as the page's button does; the backfill's name."""
    before = {one.backfill_id for one in platform.instance.get_backfills()}
    what = {"partitionNames": [key], "assetSelection": [{"path": ["responses"]}, {"path": ["verdicts"]}]}
    for patience in range(9, -1, -1):
        try:
            said = platform.ask_dagster(LAUNCH, {"what": what})["launchPartitionBackfill"]
        except OSError:
            # After PostgreSQL restarted, the web server's kept connections fail once each; people load the page again.
            assert patience, platform.webserver.said()[-3000:]
            time.sleep(1.0)
            # It may have been launched and only not said so, or not in time; then it must not be launched twice.
            if made := {one.backfill_id for one in platform.instance.get_backfills()} - before:
                return made.pop()
        else:
            assert "backfillId" in said, said
            return said["backfillId"]
    raise AssertionError("the loop returns or raises")


def runs_of(platform: Deployed, backfill: str) -> list[dg.DagsterRun]:
    """Runs of a backfill, retries too, in the order in which they were asked for."""
    return platform.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))[::-1]


def until(platform: Deployed, reached: Callable[[], bool], seconds: float = 2700.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not reached: {platform.daemon.said()[-5000:]}"
        time.sleep(0.5)


def over(platform: Deployed, backfill: str) -> bool:
    found = platform.instance.get_backfill(backfill)
    return found is not None and found.status in BULK_ACTION_TERMINAL_STATUSES


def chosen() -> list[str]:
    return [name for name in FAULTS if name in IN_CI or os.environ.get("AMR_SOAK")]


@pytest.fixture(scope="module")
def observations() -> Iterator[list[str]]:
    """Rows of the table, written where they are wanted."""
    rows: list[str] = []
    yield rows
    if place := os.environ.get("AMR_OBSERVATIONS"):
        Path(place).write_text("\n".join([HEADER, *rows, ""]))


@pytest.mark.parametrize("name", chosen())
def test_whatever_fails_nothing_is_lost_and_little_is_paid_twice(
    name: str, world: Troubled, observations: list[str]
) -> None:
    if name in ON_SMALL_DISKS and NO_DISKS:
        pytest.skip(NO_DISKS)
    platform, key = world.platform, f"{name}|00"
    backfill = launch(platform, key)
    until(platform, lambda: world.asked(name) >= STRIKE_AT)
    struck = time.monotonic()
    with FAULTS[name](platform, lambda: until(platform, lambda: over(platform, backfill))):
        until(platform, lambda: over(platform, backfill))
    runs, by_itself = runs_of(platform, backfill), not world.owed(key)
    if not by_itself:
        again = launch(platform, key)
        until(platform, lambda: over(platform, again))
        runs += runs_of(platform, again)
    store, study = platform.store, platform.study
    rows = store.read("responses", key)
    expected = expected_responses(store.read("queries", "00"), study.distiller(name))
    seen = Observation(
        fault=(FAULTS[name].__doc__ or "").strip().rstrip("."),
        runs=[run.status.value.lower() for run in runs],
        by_itself=by_itself,
        seconds=time.monotonic() - struck,
        asked=world.asked(name),
        stored=rows.height,
        lost=len(set(expected["response_id"]) - set(rows["response_id"])),
    )
    print(seen.row)
    observations.append(seen.row)
    assert not world.owed(key)
    assert set(rows["response_id"]) == set(expected["response_id"])
    assert rows["response_id"].n_unique() == rows.height == NUM_RESPONSES
    assert set(rows["finish_reason"]) == {"stop"}, "no fault is blamed on a question"
    assert set(store.read("verdicts", key)["response_id"]) == set(rows["response_id"])
    for table in ("responses", "verdicts"):
        assert store.verify(table, key) == []
    attempts = sum(run.status is dg.DagsterRunStatus.FAILURE for run in runs)
    assert 0 <= seen.asked - seen.stored <= attempts * (RESPONSES_PER_PART + IN_FLIGHT + 1)


# ------------------------------------------------------------------------------------------------------ two operators


def whole(world: Troubled, name: str) -> None:
    """Everything is there once, judged, and nothing is owed."""
    platform, key = world.platform, f"{name}|00"
    rows = platform.store.read("responses", key)
    assert rows["response_id"].n_unique() == rows.height == NUM_RESPONSES
    assert set(platform.store.read("verdicts", key)["response_id"]) == set(rows["response_id"])
    assert [platform.store.verify(table, key) for table in ("responses", "verdicts")] == [[], []]
    assert not world.owed(key)


def launch_twice(world: Troubled, name: str) -> list[dg.DagsterRun]:
    """Two launches of one partition before either has begun, and their runs when both are over."""
    platform = world.platform
    backfills = [launch(platform, f"{name}|00") for _ in range(2)]
    for backfill in backfills:
        until(platform, lambda backfill=backfill: over(platform, backfill))
    return [run for backfill in backfills for run in runs_of(platform, backfill)]


def test_of_two_operators_the_second_waits_and_finds_nothing_owed(world: Troubled):
    runs = launch_twice(world, "in_turn")
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 2
    assert world.asked("in_turn") == NUM_RESPONSES, "nothing is paid for twice"
    whole(world, "in_turn")


def test_of_two_operators_side_by_side_one_wins_and_the_other_is_told(world: Troubled):
    """Where every pool admits two runs, which this deployment's do not by themselves."""
    instance = world.platform.instance
    for pool in POOLS:
        instance.event_log_storage.set_concurrency_slots(pool, 2)
    try:
        runs = launch_twice(world, "side_by_side")
    finally:
        for pool in POOLS:
            instance.event_log_storage.set_concurrency_slots(pool, 1)
    lost = [run for run in runs if run.status is not dg.DagsterRunStatus.SUCCESS]
    assert len(runs) == 2
    assert len(lost) == 1, [run.status for run in runs]
    said = "\n".join(entry.to_json() for entry in instance.all_logs(lost[0].run_id))
    assert "side_by_side|00: version" in said, said[-3000:]
    assert "committed by another writer" in said
    whole(world, "side_by_side")
    until(world.platform, lambda: any(lost[0].run_id.encode() in body for _, body in world.told), seconds=600)


# ------------------------------------------------------------------------------------------------------------ secrets


def test_no_secret_is_in_anything_that_was_recorded(world: Troubled):
    """After failures with their tracebacks: not in logs, events, snapshots, tables, reports or commit records."""
    assert all(one.headers["Authorization"] == f"Bearer {CANARY}" for one in world.far.asked), "it was used"
    assert {path.partition("?")[0] for path, _ in world.told} == {f"/{CANARY_OF_ALERTS}"}, "and so was this"
    assert world.platform.shown({"the servers' key": CANARY, "the alerts' address": CANARY_OF_ALERTS}) == []
