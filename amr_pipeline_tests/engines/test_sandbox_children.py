import os
import signal
import subprocess
import sys

from amr_pipeline.engines.sandbox_children import Allowance, cpu_of_the_dead, cpu_of_the_living, failure_of

LIMITS = {"cpu_seconds": 2.0, "wall_seconds": 10.0, "memory_bytes": 0.0, "processes": 0.0}


def test_how_a_child_ended_has_a_name():
    assert failure_of(0, 0.1, LIMITS) is None
    assert failure_of(1 << 8, 0.1, LIMITS) == "exception"
    assert failure_of(3 << 8, 0.1, LIMITS) == "memory_limit"
    assert failure_of(4 << 8, 0.1, LIMITS) == "output_limit"
    assert failure_of(signal.SIGXCPU, 0.1, LIMITS) == "time_limit"
    assert failure_of(signal.SIGKILL, 2.1, LIMITS) == "time_limit"
    assert failure_of(signal.SIGKILL, 0.1, LIMITS) == "killed"
    assert failure_of(signal.SIGSEGV, 0.1, LIMITS) == "crashed"


def test_cpu_time_of_a_group_counts_every_process_of_it():
    spin = "import os, time\nif len(os.sys.argv) > 1: os.fork()\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\ntime.sleep(30)"
    child = subprocess.Popen([sys.executable, "-c", spin, "twice"], start_new_session=True)
    try:
        while cpu_of_the_living(child.pid) < 0.75:
            assert child.poll() is None
        allowance = Allowance(child.pid, {**LIMITS, "cpu_seconds": -0.5})
        assert allowance.exceeded() == "time_limit"
        assert Allowance(child.pid, LIMITS).exceeded() is None
        assert Allowance(child.pid, {**LIMITS, "wall_seconds": -1.0}).exceeded() == "wall_limit"
    finally:
        before = cpu_of_the_dead()
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert cpu_of_the_dead() > before
