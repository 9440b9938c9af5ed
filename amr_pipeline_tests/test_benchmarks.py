"""What the benchmarks count, on small things whose cost is known."""

import resource
import subprocess
import sys

from benchmarks.demo import STAGE, Watch
from benchmarks.nothing_owed import measure
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


def test_a_measurement_says_what_it_ran_on():
    found = measured_on("polars", "vllm", "no-such-package")
    assert found["versions"]["no-such-package"] is None  # type: ignore[index]
    assert all(found["versions"][name] for name in ("polars", "vllm", "python"))  # type: ignore[index]
