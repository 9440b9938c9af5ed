"""Responses while their engine, its node, its driver and everything together are killed at random instants.

One kill of each kind in CI, a hundred in turn with AMR_SOAK.
"""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.responses.expected import expected_responses
from amr_pipeline_tests.told import IN_FLIGHT, Story, kill_tree

pytestmark = [pytest.mark.engines, pytest.mark.soak, pytest.mark.timeout(21_600)]

NUM_KILLS = 100 if os.environ.get("AMR_SOAK") else 4
RESPONSES_BETWEEN = 12
"""Most responses between two kills."""

STUDY = f"""
from dataclasses import replace
from amr_pipeline.studies.micro import STUDY as MICRO

STUDY = replace(
    MICRO,
    name="kills",
    num_shards=2,
    sources=tuple(replace(row, reads=replace(row.reads, num_rows=20)) for row in MICRO.sources),
    benchmarks=(),
    distillers=(replace(MICRO.distillers[0], num_passes={max(4, NUM_KILLS * RESPONSES_BETWEEN // 60)}),),
    selection_recipes=(),
    second_opinions=(),
    training_recipes=(),
)
"""


def below(process: subprocess.Popen[bytes], name: str) -> Iterator[psutil.Process]:
    """Living descendants whose command line begins with a name."""
    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if any(name in word for word in one.cmdline()[:1]) and one.status() != psutil.STATUS_ZOMBIE:
                    yield one


def kill_engine(process: subprocess.Popen[bytes]) -> None:
    """The engine's process alone: the run goes on with another one."""
    for engine in below(process, "ray::CountingEngine"):
        with suppress(psutil.NoSuchProcess):
            engine.kill()


def kill_node(process: subprocess.Popen[bytes]) -> None:
    """The raylet with its workers: a driver on its own machine has no node left, and says so."""
    for raylet in below(process, "raylet"):
        with suppress(psutil.NoSuchProcess):
            for one in [raylet, *raylet.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def kill_driver(process: subprocess.Popen[bytes]) -> None:
    """The driver alone; what it started must end by itself."""
    process.kill()


KILLS = (kill_engine, kill_node, kill_driver, kill_tree)


def written_or_ended(told: Story, process: subprocess.Popen[bytes], number: int, seconds: float) -> bool:
    """Wait until so many responses are written in all; False where the run ended, or nothing came in time."""
    deadline = time.monotonic() + seconds
    while told.written < number:
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_whatever_is_killed_every_response_is_there_once_and_little_is_written_twice(tmp_path: Path):
    draw = random.Random(5)
    told = Story(tmp_path, STUDY)
    process, kills, started = told.start("responses"), 0, [0]
    engines: set[int] = set()
    while kills < NUM_KILLS:
        if process.poll() is not None:
            assert process.returncode != 0, f"the work ended before kill {kills}: {told.said.read_text()[-2000:]}"
            process = told.start("responses")
            started.append(kills)
            assert started.count(kills) < 4, f"it does not start: {told.said.read_text()[-2000:]}"
        if not written_or_ended(told, process, told.written + draw.randint(1, RESPONSES_BETWEEN), seconds=900):
            assert process.poll() is not None, told.said.read_text()[-2000:]
            continue
        engines |= {engine.pid for engine in below(process, "ray::CountingEngine")}
        KILLS[kills % len(KILLS)](process)
        kills += 1
        if KILLS[(kills - 1) % len(KILLS)] is not kill_engine:
            process.wait(timeout=360)
    process.wait(timeout=1800)
    told.run("responses")
    deadline = time.monotonic() + 180
    while any(psutil.pid_exists(pid) and "CountingEngine" in " ".join(_command(pid)) for pid in engines):
        assert time.monotonic() < deadline, "an engine outlived what started it"
        time.sleep(0.5)

    study = told.study
    responses, queries = told.rows("responses"), told.rows("queries")
    expected = {name for row in study.distillers for name in expected_responses(queries, row)["response_id"]}
    assert responses["response_id"].n_unique() == responses.height
    assert set(responses["response_id"]) == expected
    assert set(responses["finish_reason"]) <= {"stop", "length", "looping"}, "no kill is blamed on a question"
    for key in stored_partitions(study, "responses"):
        assert told.store.verify("responses", key) == []
    wasted = told.written - responses.height
    print(f"{kills} kills, {len(started)} starts, {told.written:,} written for {responses.height:,}: {wasted} twice")
    assert 0 <= wasted <= kills * IN_FLIGHT
    if os.environ.get("AMR_SOAK"):  # of few kills the average may be anything up to that
        assert wasted / kills <= IN_FLIGHT / 2, "most kills cost less than what may be in flight"


def _command(pid: int) -> list[str]:
    with suppress(psutil.Error):
        return psutil.Process(pid).cmdline()
    return []
