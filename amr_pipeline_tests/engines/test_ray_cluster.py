"""A private cluster: heard by nobody outside this machine, and gone with the process that started it."""

import json
import subprocess
import sys
import time

import psutil
import pytest

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


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
