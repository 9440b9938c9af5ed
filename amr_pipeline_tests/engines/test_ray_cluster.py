"""A private cluster: heard by nobody outside this machine, and gone with the process that started it."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from amr_pipeline.engines import ray_cluster

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1200)]

DRIVER = """
import json, sys
from amr_pipeline.engines.ray_cluster import ensure_ray  # before Ray, which reads how it authenticates when imported
import psutil, ray

@ray.remote
class Actor:
    def ready(self):
        return True

ensure_ray()
actor = Actor.remote()
ray.get(actor.ready.remote())
own = psutil.Process()
family = [own, *own.children(recursive=True)]
heard, running = [], []
for one in family:
    try:
        running.append(" ".join(one.cmdline()))
        heard += [(one.name(), c.laddr.ip) for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        pass
print(json.dumps({"heard": heard, "running": running, "family": [one.pid for one in family]}), flush=True)
sys.stdin.readline()
"""


STRUCK = """
import threading, time
import psutil

def strike_the_first() -> None:
    while True:
        for one in psutil.Process().children(recursive=True):
            try:
                if any(word.endswith("{victim}") for word in one.cmdline()[:{words}]):
                    one.{harm}()
                    print("struck", one.pid, flush=True)
                    time.sleep(20)
                    {repair}
                    return
            except psutil.NoSuchProcess:
                pass
        time.sleep(0.02)

threading.Thread(target=strike_the_first, daemon=True).start()
"""
SLOW_AGENT = STRUCK.format(victim="dashboard/agent.py", words=3, harm="suspend", repair="one.resume()")
DEAD_RAYLET = STRUCK.format(victim="raylet/raylet", words=1, harm="kill", repair="")


UNASKED = r"autoscaler/\S*monitor\.py|log_monitor\.py|dashboard/dashboard\.py|ray::IDLE"
"""Processes of a Ray cluster that nobody here asks, and that cost half of its start."""


@pytest.mark.parametrize("struck", [SLOW_AGENT, DEAD_RAYLET], ids=["slow agent", "dead raylet"])
def test_it_starts_on_a_busy_machine_is_heard_on_loopback_alone_and_ends_with_its_process(struck: str, tmp_path: Path):
    """Ray's raylet waits 15 seconds for its agents, and Ray half a minute for its raylet."""
    complaints = tmp_path / "complaints"
    with complaints.open("wb") as errors:
        driver = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", struck + DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert driver.stdout is not None
    first, victim = driver.stdout.readline().split()
    assert first == "struck"
    said = json.loads(driver.stdout.readline())
    assert {"gcs_server", "raylet"} <= {name for name, _ in said["heard"]}, "nothing was looked at"
    assert {address for _, address in said["heard"]} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert [one for one in said["running"] if re.search(UNASKED, one)] == []
    if struck is SLOW_AGENT:
        assert int(victim) in said["family"], "what was slow was waited for"
        psutil.Process(int(victim)).resume()
    else:
        assert "Ray did not start" in complaints.read_text()
    driver.kill()
    driver.communicate()
    deadline = time.monotonic() + 600  # its agents notice last
    while left := [pid for pid in said["family"] if _is_alive(pid)]:
        assert time.monotonic() < deadline, f"{left} outlived the process that started them"
        time.sleep(0.2)


def test_what_else_fails_is_not_tried_again(monkeypatch: pytest.MonkeyPatch):
    tried: list[str | None] = []

    def connect(address: str | None) -> None:
        tried.append(address)
        raise ConnectionError("no Ray cluster lets this process in")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster, "_connect", connect)
    with pytest.raises(ConnectionError, match="lets this process in"):
        ray_cluster.ensure_ray("ray://127.0.0.1:1")
    assert len(tried) == 1


def test_a_machine_that_never_starts_it_is_told_so(monkeypatch: pytest.MonkeyPatch):
    tried: list[str | None] = []

    def connect(address: str | None) -> None:
        tried.append(address)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster, "_connect", connect)
    monkeypatch.setattr(ray_cluster, "SECONDS_BETWEEN_STARTS", 0.0)
    with pytest.raises(RuntimeError, match=r"did not start within 4 attempts; wanted .* AMR_RAY_ADDRESS"):
        ray_cluster.ensure_ray()
    assert len(tried) == ray_cluster.STARTS


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
