"""Ray nodes as an operator starts them: on loopback, with files of their own, ended by pid with all below them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amr_pipeline_tests.conftest import REPOSITORY
from amr_pipeline_tests.told import kill_tree

START = """
import sys
from amr_pipeline.engines.ray_cluster import _agents_may_take_their_time
from ray.scripts.scripts import cli

with _agents_may_take_their_time() as ports:
    cli([
        "start", *sys.argv[1:],
        f"--dashboard-agent-grpc-port={ports['metrics_agent_port']}",
        f"--metrics-export-port={ports['metrics_export_port']}",
        f"--runtime-env-agent-port={ports['runtime_env_agent_port']}",
        f"--dashboard-agent-listen-port={ports['dashboard_agent_listen_port']}",
    ])
"""
"""`ray start`, whose raylet dies on a machine where its agents take longer than 15 seconds to start."""


@contextmanager
def node(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node of one CPU, as `ray start` makes it; everything below it ends with it."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        START,
        "--block",
        "--num-cpus=1",
        "--object-store-memory=100000000",
        *options,
    ]
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(REPOSITORY),
    }
    with (folder / f"node{len(options)}").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            if process.poll() is None:
                kill_tree(process)


@contextmanager
def head_node(folder: Path, port: int, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The first node of a cluster at `127.0.0.1:port`."""
    sockets = tempfile.mkdtemp(prefix="amr-nodes-")  # names of sockets are short
    options = ("--head", "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={sockets}", *more)
    try:
        with node(folder, f"--port={port}", *options) as process:
            yield process
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
