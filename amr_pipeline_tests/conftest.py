"""What every chapter's tests share: real input, a free port, one Ray cluster, and the few warnings not ours to fix.

Does not belong here: fixtures that one chapter uses; they stand in that chapter's folder.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from amr_pipeline_tests.servers import free_ports

# Before any import of an engine: no test may reach the network, by hand or by make.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "true")
# What vLLM found out about a model's code takes a process of its own to find out, in every home that does not know it.
os.environ.setdefault("VLLM_CACHE_ROOT", str(Path(tempfile.gettempdir()) / f"amr-vllm-{os.getuid()}"))

# Two cores shared with engines make wall-clock deadlines meaningless; a failing example prints how to repeat it.
settings.register_profile("amr", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("amr")

REPOSITORY = Path(__file__).parent.parent

THIRD_PARTY_WARNINGS = (
    # Backfill policies, pools and partition mappings are marked beta; 1.13.27 is pinned and the definitions test
    # would show a change. By message, since importing the class would load Dagster for every test.
    "ignore:.* is currently in (beta|preview), and may have breaking changes",
    # Dagster tags runs of two-dimensional partitions with keys that it would refuse from others (1.13.27).
    "ignore:Non-compliant tag keys like:DeprecationWarning",
    # Ray Data sets its own deprecated options when Ray Train imports it (2.60).
    "ignore:`use_.*` is deprecated:DeprecationWarning",
)


class FailuresAtOnce:
    """Prints a failure when it is known: who stops a long run, or loses it, still reads what failed until then."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.terminal.ensure_newline()
            self.terminal.write_line(f"failed in {report.when}: {report.nodeid}\n{report.longreprtext}")


def pytest_configure(config: pytest.Config) -> None:
    """Add the exceptions to `filterwarnings = error`, each with its reason above."""
    for line in THIRD_PARTY_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Print failures at once, where there is a terminal: a worker of several has none."""
    plugins = session.config.pluginmanager
    terminal = plugins.get_plugin("terminalreporter")
    if isinstance(terminal, pytest.TerminalReporter):
        plugins.register(FailuresAtOnce(terminal))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, so that two workers end together; within a file nothing moves."""
    order = list(dict.fromkeys(item.path for item in items))
    weight = dict.fromkeys(order, 0)
    for item in items:
        for place, mark in enumerate(("soak", "engines", "browser")):
            if item.get_closest_marker(mark):
                weight[item.path] = max(weight[item.path], 3 - place)
    items.sort(key=lambda item: (-weight[item.path], order.index(item.path)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real input: $AMR_REAL_DATA, else `shared/data` beside the checkout; skips where there is none."""
    folder = Path(os.environ.get("AMR_REAL_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real data here; AMR_REAL_DATA names the folder")
    return folder


@pytest.fixture
def free_port() -> int:
    """A loopback port that nothing listens on, and that no connection takes meanwhile."""
    (port,) = free_ports(1)
    return port


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One private Ray cluster for all `engines` tests of a session.

    It belongs to the session: closing pools does not end it, because a start costs 4 to 40 seconds.
    """
    from amr_pipeline.engines import ray_cluster as cluster

    cluster.ensure_ray()
    cluster._started_here = False
    yield
    cluster.ray.shutdown()
