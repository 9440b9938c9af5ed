"""A private cluster: heard by nobody outside this machine, and gone with the process that started it."""

import json
import subprocess
import sys
import time

import psutil
import pytest
import ray

from amr_pipeline.engines import ray_cluster

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

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
heard = []
for one in family:
    try:
        heard += [(one.name(), c.laddr.ip) for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        pass
print(json.dumps({"heard": heard, "family": [one.pid for one in family]}), flush=True)
sys.stdin.readline()
"""


def test_it_listens_on_loopback_alone_and_ends_with_its_process():
    driver = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    said = json.loads(driver.stdout.readline())
    names = {name for name, _ in said["heard"]}
    assert {"gcs_server", "raylet"} <= names, "nothing was looked at"
    assert {address for _, address in said["heard"]} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    driver.kill()
    driver.communicate()
    deadline = time.monotonic() + 150  # its agents notice last
    while left := [pid for pid in said["family"] if _is_alive(pid)]:
        assert time.monotonic() < deadline, f"{left} outlived the process that started them"
        time.sleep(0.2)


PAUSED = """
import threading, time
import psutil

def pause_the_first_agent() -> None:
    while True:
        for one in psutil.Process().children(recursive=True):
            try:
                if any(word.endswith("dashboard/agent.py") for word in one.cmdline()):
                    one.suspend()
                    print("paused", one.pid, flush=True)
                    return
            except psutil.NoSuchProcess:
                pass
        time.sleep(0.02)

threading.Thread(target=pause_the_first_agent, daemon=True).start()
"""


def test_a_cluster_whose_agent_is_slow_is_started_again():
    """Ray's raylet waits 15 seconds for its agent, and Ray half a minute for its raylet."""
    driver = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PAUSED + DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    paused = driver.stdout.readline().split()
    assert paused[:1] == ["paused"]
    said = json.loads(driver.stdout.readline())
    assert int(paused[1]) not in said["family"], "what the first attempt left is gone"
    assert {"gcs_server", "raylet"} <= {name for name, _ in said["heard"]}
    assert sum(name == "gcs_server" for name, _ in said["heard"]) == 1
    _, complaints = driver.communicate("\n")
    assert driver.returncode == 0
    assert "Ray did not start (attempt 1 of 4); trying again" in complaints


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
