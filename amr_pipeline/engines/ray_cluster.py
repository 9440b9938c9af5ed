"""One Ray cluster per process: an existing one by address, or a private one on this machine.

A private cluster listens on loopback, has a token of its own, keeps its files in a short folder (unix socket names
end at 107 characters), and ends with the process that started it, however that process ends.
"""

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import parameter, ray_constants
from ray._private.node import Node
from ray._raylet import (  # of the compiled module nobody knows the names
    DASHBOARD_AGENT_LISTEN_PORT_NAME,  # pyright: ignore[reportAttributeAccessIssue]
    Config,  # pyright: ignore[reportAttributeAccessIssue]
    persist_port,  # pyright: ignore[reportAttributeAccessIssue]
)

OBJECT_STORE_BYTES = 200 * 2**20
"""Only prompts, texts and small results pass through the object store; Ray's own default is 30 % of memory."""

LOGICAL_CPUS = max(8, os.cpu_count() or 1)
"""More than two cores have: an idle engine and a trainer may stand side by side (`EnginePools.max_engines`)."""

STARTS = 4
"""Attempts to start a private cluster: on a busy machine its raylet may take longer than Ray waits, which is 30 s."""
SECONDS_BETWEEN_STARTS = 5.0
_PORTS_OF_AGENTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "runtime_env_agent_port",
    "dashboard_agent_listen_port",
)
_DIED_WHILE_STARTING = "timed out during startup"

# Whoever imported Ray before this package had it read the environment before this package wrote to it.
Config.initialize("")

_log = logging.getLogger(__name__)
_started_here = False
_connecting = threading.Lock()


def ensure_ray(address: str | None = None) -> None:
    """Connect this process to a cluster, or start a private one; nothing happens when it is connected already.

    Raises:
        ConnectionError: the cluster at `address` lets this process not in.
        RuntimeError: a private one did not start, however often it was tried.
    """
    with _connecting:
        if ray.is_initialized():
            return
        for attempt in range(1, STARTS + 1):
            try:
                # Where this fails, the thread ends, and with it the kernel ends what it had started.
                _on_a_lasting_thread(lambda: _connect(address))
                return
            except Exception as error:  # Ray's own for this is of no narrower class; any other goes on to the caller
                if _DIED_WHILE_STARTING not in str(error):
                    raise
                if attempt == STARTS:
                    raise RuntimeError(
                        f"Ray did not start within {STARTS} attempts; wanted a machine that starts its agents within "
                        "15 s: end what else keeps it busy, or name a cluster in AMR_RAY_ADDRESS"
                    ) from error
                _log.warning("Ray did not start (attempt %d of %d); trying again", attempt, STARTS)
            time.sleep(SECONDS_BETWEEN_STARTS)


def _on_a_lasting_thread(start: Callable[[], None]) -> None:
    """Call `start` on a thread that lives as long as the process.

    Ray asks the kernel to end its processes when their parent dies, and the kernel's parent is the thread that
    started them: started from a worker thread, the cluster would end with that thread's work.
    """
    outcome: Future[None] = Future()

    def keep() -> None:
        try:
            start()
        except BaseException as error:  # noqa: BLE001 (handed to the caller, who raises it)
            outcome.set_exception(error)
            return
        outcome.set_result(None)
        threading.Event().wait()

    threading.Thread(target=keep, name="ray-cluster", daemon=True).start()
    outcome.result()


def _connect(address: str | None) -> None:
    global _started_here  # one connection per process is Ray's own rule
    if address is not None:
        try:
            ray.init(address=address, namespace="amr_pipeline", log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError as error:  # which is all that a client with another token is told, too
            raise ConnectionError(
                f"no Ray cluster lets this process in at {address} ({error}); wanted a head that runs there, and "
                "its token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (RAY_AUTH_MODE=disabled where it has none)"
            ) from error
        return
    folder = Path(tempfile.gettempdir()) / f"amr-ray-{os.getuid()}"
    with _loopback_is_an_address(), _nobody_looks_on(), _agents_may_take_their_time() as ports:
        ray.init(
            num_cpus=LOGICAL_CPUS,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            namespace="amr_pipeline",
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
            _metrics_export_port=ports["metrics_export_port"],
            # Nor workers for tasks, one per core: actors with variables of their own start others.
            _system_config={"prestart_worker_first_driver": False},
        )
    _started_here = True


@contextmanager
def _loopback_is_an_address() -> Iterator[None]:
    """Let Ray take 127.0.0.1 for a node's address.

    Ray 2.60 replaces it by the machine's outward address, and listens on every interface then, except where it is not
    meant for clusters (Windows and macOS), which is what this constant says.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _nobody_looks_on() -> Iterator[None]:
    """Start a head without its autoscaler, its dashboard's server and what hands workers' output to drivers.

    Nothing here asks them, and they are half of what a start costs in time and memory.
    """
    parameters, start = parameter.RayParams, Node.start_api_server
    unwatched: dict[str, Any] = {"no_monitor": True, "include_log_monitor": False}  # the second is annotated as text
    parameter.RayParams = partial(parameters, **unwatched)
    Node.start_api_server = lambda self, **named: None
    try:
        yield
    finally:
        parameter.RayParams, Node.start_api_server = parameters, start


@contextmanager
def _agents_may_take_their_time() -> Iterator[dict[str, int]]:
    """Say beforehand where a raylet's agents will listen; gives the ports, of which `ray.init` wants one to be said.

    Ray 2.60's raylet gives them 15 seconds, hard-coded, to say it themselves in a file, and dies on a machine that
    takes longer to import what they need (ray-project/ray#65983). It asks for no file of a port that it was given, but
    for that of the agents' own listener.
    """
    held = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS_OF_AGENTS]
    ports = {name: one.getsockname()[1] for name, one in zip(_PORTS_OF_AGENTS, held, strict=True)}
    for one in held:
        one.close()
    listener = ports["dashboard_agent_listen_port"]
    parameters, start = parameter.RayParams, Node.start_raylet

    def start_raylet(self: Node, *given: object, **named: object) -> None:
        persist_port(self.get_session_dir_path(), self.node_id, DASHBOARD_AGENT_LISTEN_PORT_NAME, listener)
        start(self, *given, **named)  # type: ignore[arg-type]

    parameter.RayParams = partial(parameters, **ports)
    Node.start_raylet = start_raylet
    try:
        yield ports
    finally:
        parameter.RayParams, Node.start_raylet = parameters, start


def leave_ray() -> None:
    """End the private cluster this process started; a cluster that existed before stays."""
    global _started_here
    if _started_here and ray.is_initialized():
        ray.shutdown()
    _started_here = False
