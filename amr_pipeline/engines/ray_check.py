"""Whether a Ray cluster can be joined: its port answers, and it runs this Ray and this Python.

Belongs here: an address that the deployment names. Does not belong here: the private cluster that is started where it
names none (`ray_cluster`).
"""

import json
import platform
import socket
import subprocess
import sys
from importlib.metadata import version

from amr_pipeline.report.findings import Finding, broken, ok, warning

CHECK = "ray"
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 20.0
"""Asking takes a second; importing Ray takes several on a busy machine."""


def check_ray(address: str | None) -> list[Finding]:
    """Reach the cluster at `AMR_RAY_ADDRESS`; None: a private one is started on loopback when it is needed."""
    if address is None:
        return [ok(CHECK, "a private cluster is started on this machine when engines are needed")]
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return [
            broken(
                CHECK,
                f"AMR_RAY_ADDRESS is {address!r}",
                wanted="HOST:6379, or ray://HOST:10001 for a client",
                fix="set AMR_RAY_ADDRESS, or unset it for a private cluster",
            )
        ]
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return [
            broken(
                CHECK,
                f"nothing answers at {address} ({error})",
                wanted="the head of a Ray cluster",
                fix="start it (ray start --head), or set AMR_RAY_ADDRESS to where it is",
            )
        ]
    return [_compared(address, *_asked(address))]


def _asked(address: str) -> tuple[dict[str, str] | None, str]:
    """The cluster's versions, or None and why they are not known."""
    command = [sys.executable, "-W", "ignore", "-m", "amr_pipeline.engines.ray_versions", address]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {ANSWER_SECONDS:.0f} s"
    if said.returncode == 0:
        return json.loads(said.stdout.strip().splitlines()[-1]), ""
    return None, (said.stderr.strip().splitlines() or ["it says nothing"])[-1]


def _compared(address: str, found: dict[str, str] | None, why: str) -> Finding:
    here = {"ray": version("ray"), "python": platform.python_version()}
    if found is None:
        return broken(
            CHECK,
            f"{address} is open and does not answer as Ray does: {why}",
            wanted=f"a cluster of Ray {here['ray']}; one that asks for a token wants RAY_AUTH_MODE=token here too",
            fix="set AMR_RAY_ADDRESS to the cluster's head, and RAY_AUTH_TOKEN_PATH to its token",
        )
    fits = found["ray"] == here["ray"] and found["python"].split(".")[:2] == here["python"].split(".")[:2]
    said = f"{address}: Ray {found['ray']}, Python {found['python']}"
    if not fits:
        return broken(
            CHECK,
            said,
            wanted=f"Ray {here['ray']} and Python {here['python']}, as here",
            fix="install the same lock on the cluster's nodes and here (make install)",
        )
    if found["python"] != here["python"]:
        return warning(CHECK, said, wanted=f"Python {here['python']}, as here", fix="use one Python on all nodes")
    return ok(CHECK, said)
