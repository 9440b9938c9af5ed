"""What the benchmarks count, on small things whose cost is known."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from amr_pipeline.engines.code_sandbox import missing_parts
from benchmarks.adaptive_passes import SIMULATED, labels, simulated
from benchmarks.adaptive_passes import measure as measure_passes
from benchmarks.demo import STAGE, Watch
from benchmarks.nothing_owed import measure
from benchmarks.rollouts import judged_rollouts
from benchmarks.versions import measured_on

BURN = "import time\nwhile time.process_time() < 0.15: pass\n"
FAMILY = f"""
import subprocess, sys
for _ in range(8):
    subprocess.run([sys.executable, "-S", "-c", {BURN!r}])
print("done", flush=True)
input()
"""


def test_processes_that_end_between_two_looks_are_counted():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    family = subprocess.Popen(
        [sys.executable, "-S", "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    watch = Watch(family)
    assert family.stdout is not None
    assert family.stdout.readline() == "done\n"
    counted = watch.cpu_seconds()
    watch.stop()
    family.communicate("end\n")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used > 8 * 0.15
    assert 0.9 * used < counted < 1.1 * used + 0.1
    assert watch.peak_gib > 0


def test_lines_of_the_demo_name_its_stages():
    begins, ends = STAGE.match("[4/16] queries: 2 partitions owed"), STAGE.match("[4/16] queries: done in 3.2 s")
    assert begins is not None
    assert ends is not None
    assert (begins[1], begins[2], ends[1], ends[2]) == ("queries", "2", "queries", None)
    assert STAGE.match("[4/16] queries: nothing owed") is None


def test_a_run_that_finds_nothing_owed_is_a_run_and_commits_nothing():
    figures = measure(2)
    assert figures["partitions"] > 20
    assert 0 < figures["question_seconds"] < figures["run_of_one_partition_seconds"]


def test_policies_are_replayed_on_known_passes():
    passed = simulated((0.5, 0.5), num_queries=300, num_passes=64)
    found = measure_passes(passed, {**SIMULATED, "all of them": (64, None)})
    assert found["all of them"] == {
        "passes_per_query": 64,
        "in_another_part": 0,
        "in_another_tier": 0,
        "rate_error": 0,
    }
    fixed, adaptive = found["fixed 8"], found["adaptive, 8 on average"]
    assert adaptive["passes_per_query"] <= 8
    assert adaptive["in_another_part"] < fixed["in_another_part"]
    assert adaptive["rate_error"] > fixed["rate_error"], "what it costs"


@pytest.mark.real_data
def test_policies_are_replayed_on_real_labels(real_data: Path):
    worlds = labels(real_data)
    assert {name: passed.height for name, (passed, _) in worlds.items()} == {
        "MATH, one model": 800,
        "GSM8K, four models": 5276,
    }
    passed, policies = worlds["MATH, one model"]
    found = measure_passes(passed, policies)["adaptive, 8 on average"]
    assert found["passes_per_query"] < 5
    assert found["in_another_part"] == 0


def test_a_measurement_says_what_it_ran_on():
    found = measured_on("polars", "vllm", "no-such-package")
    assert found["versions"]["no-such-package"] is None  # type: ignore[index]
    assert all(found["versions"][name] for name in ("polars", "vllm", "python"))  # type: ignore[index]


OTHERWISE = {
    "mcqa/2": "the box holds the right letter with its option's text; the reward wants the letter alone",
    "instruction_following/3": "a paragraph begins with the wanted word and a dash; the reward splits at spaces only",
}
"""Rollouts on which verdict and reward differ, read one by one: here the response is right."""


TAKES_LONG = "math_with_judge/1"
"""A rollout whose comparison takes about the ten CPU seconds that it has: decided where the machine is fast."""


@pytest.mark.real_data
def test_rollouts_agree_with_their_rewards_or_the_difference_was_read(real_data: Path):
    if missing_parts():
        pytest.skip(f"no sandbox on this machine: {missing_parts()}")
    found = judged_rollouts(real_data / "verifier_rollouts")
    assert {one.name for one in found if one.agrees is False} == set(OTHERWISE)
    late = {one.name for one in found if one.cause == "timeout"}
    assert late <= {TAKES_LONG}
    assert {one.cause for one in found if one.agrees is None} - {"timeout"} == {"judge_unavailable"}
    assert sum(one.agrees is True for one in found) + len(late) == 35
