"""What can fail in a deployment, as context managers: each does its harm when it is entered, and repairs it when left.

Does not belong here: what must hold afterwards (`test_fault_matrix`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress

import psutil

from amr_pipeline_tests.deployed import Deployed
from amr_pipeline_tests.faulty_store import Trouble, sometimes
from amr_pipeline_tests.small_disk import full

Fault = Callable[[Deployed, Callable[[], None]], AbstractContextManager[None]]
"""The callable that it is given returns once the work is over."""


def run_process(platform: Deployed) -> psutil.Process:
    """The process in which the run happens: a child of the code server's own child."""
    for one in platform.code.below():
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(one.cmdline()):
                return one
    raise AssertionError(f"no run is under way: {platform.code.said()[-2000:]}")


@contextmanager
def web_server(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
    """The web server is killed."""
    platform.webserver.kill()
    yield
    platform.webserver.start()


@contextmanager
def daemon(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
    """The daemon is killed, and started again."""
    platform.daemon.kill()
    platform.daemon.start()
    yield


@contextmanager
def run_worker(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
    """The process of the run is killed."""
    run_process(platform).kill()
    yield


@contextmanager
def code_server(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
    """The code server is killed without the run in it, and started again."""
    platform.code.kill(spare=[run_process(platform)])
    platform.code.start()
    yield


@contextmanager
def code_server_and_run(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
    """The code server is killed with everything in it, as its container is, and started again."""
    platform.code.kill()
    platform.code.start()
    yield


@contextmanager
def postgres_restarts(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
    """PostgreSQL is killed, and started again."""
    platform.database.program.kill()
    platform.database.program.start()
    yield


@contextmanager
def postgres_away(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
    """PostgreSQL is killed, and comes back when the run has ended or half a minute later."""
    platform.database.program.kill()
    with suppress(psutil.TimeoutExpired, AssertionError):
        run_process(platform).wait(30)
    platform.database.program.start()
    yield


@contextmanager
def objects_restart(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
    """The S3 server is killed, and started again."""
    platform.objects.program.kill()
    platform.objects.program.start()
    yield


def troubled(trouble: Trouble, one_in: int, what: str, **methods: tuple[str, ...]) -> Fault:
    """Requests to the object store have a trouble until the run is over."""

    @contextmanager
    def fault(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
        assert platform.proxy is not None
        with platform.proxy.doing(sometimes(trouble, one_in=one_in, **methods)):
            over()
        assert platform.proxy.troubles, "no request had the trouble"
        platform.proxy.troubles.clear()
        yield

    fault.__doc__ = what
    return fault


@contextmanager
def postgres_is_full(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
    """PostgreSQL's disk is full until the run has ended or for a minute."""
    with full(platform.database.folder), suppress(psutil.TimeoutExpired, AssertionError):
        run_process(platform).wait(60)
    if not platform.database.program.runs:  # it gives up where it cannot write down what it is about to do
        platform.database.program.start()
    yield


@contextmanager
def s3_disk_is_full(platform: Deployed, over: Callable[[], None]) -> Iterator[None]:
    """The S3 server's disk is full until the run is over."""
    with full(platform.folder / "objects"):
        over()
    yield


ON_SMALL_DISKS = ("postgres_is_full", "s3_disk_is_full")
"""Faults for which the deployment lies on disks of its own."""

FULL = Trouble(status=507, code="InsufficientStorage")
FAULTS: Mapping[str, Fault] = {
    "code_server_and_run": code_server_and_run,
    "postgres_restarts": postgres_restarts,
    "s3_loses_replies": troubled(
        Trouble(reply_is_lost=True), 3, "Every third write to S3 is carried out and not acknowledged.", methods=("PUT",)
    ),
    "web_server": web_server,
    "daemon": daemon,
    "run_worker": run_worker,
    "code_server": code_server,
    "postgres_away": postgres_away,
    "s3_restarts": objects_restart,
    "s3_refuses": troubled(Trouble(status=503), 3, "Every third request to S3 is refused with 503."),
    "s3_hangs": troubled(Trouble(seconds=20.0), 12, "Every twelfth request to S3 gets no answer for 20 s."),
    "s3_is_slow": troubled(Trouble(seconds=1.0), 1, "Every request to S3 takes a second more."),
    "s3_is_full": troubled(FULL, 1, "Every write to S3 is refused because its disk is full.", methods=("PUT",)),
    "postgres_is_full": postgres_is_full,
    "s3_disk_is_full": s3_disk_is_full,
}
