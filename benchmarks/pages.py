"""How fast Dagster's pages answer in the deployment, and what a run that finds nothing owed costs there.

`python -m benchmarks.pages` puts the deployment of `docker/` up as processes on this machine (PostgreSQL, S3, MLflow,
Dagster's three), records every partition of three distillers and 64 shards, and opens the graph and the partition pages
in a headless browser: seconds until the page shows what it is for, and the slowest answer of the server among them,
once cold and then the median of a few, loaded anew each time and gone to within the page. Then it launches a partition
that owes nothing, and takes the CPU seconds of the run's process from the code server's account of its children. What
of it is ours: the same partition and an asset that does nothing, each run by a Dagster command of its own on the same
PostgreSQL, both in turns.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from playwright.sync_api import Page, Request

from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.lineage import DEPENDENCES
from amr_pipeline.assets.partitions import ALL, stored_partitions
from amr_pipeline.assets.session import Session
from amr_pipeline_tests.deployed import Deployed, deployed, environment_of
from amr_pipeline_tests.served import browser_page
from benchmarks.versions import measured_on

STUDY = """
from dataclasses import replace
from amr_pipeline.studies.micro import STUDY as MICRO

STUDY = replace(MICRO, name="pages", num_shards=64)
"""
REPEATS, RUNS = 5, 3
GO = "path => { history.pushState({}, '', path); dispatchEvent(new PopStateEvent('popstate')) }"
"""What a link does in the page's own application."""
EMPTY = """
import dagster as dg

@dg.asset
def empty() -> None: ...

defs = dg.Definitions(assets=[empty], executor=dg.in_process_executor)
"""
LAUNCH = """
mutation($what: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $what) { __typename ... on LaunchBackfillSuccess { backfillId } }
}
"""


def record(platform: Deployed) -> int:
    """A materialization of every partition of every table, as its run would leave it; how many."""
    count = 0
    for table in DEPENDENCES:
        for key in stored_partitions(platform.study, table):
            partition = None if key == ALL else key
            event = dg.AssetMaterialization(table, partition=partition, metadata={"dagster/row_count": 100})
            platform.instance.report_runless_asset_event(event)
            count += 1
    return count


def opened(page: Page, address: str, shows: Callable[[], object]) -> tuple[float, float]:
    """Seconds until a page shows what it is for, and the longest that it waited for one answer."""
    page.goto("about:blank")
    asked: list[Request] = []

    def note(request: Request) -> None:
        asked.append(request)

    page.on("requestfinished", note)
    begun = time.perf_counter()
    page.goto(address)
    shows()
    taken = time.perf_counter() - begun
    page.remove_listener("requestfinished", note)
    waited = [one.timing["responseEnd"] / 1000 for one in asked if "/graphql" in one.url]
    return taken, max(waited, default=0.0)


def gone_to(page: Page, path: str, shows: Callable[[], object]) -> float:
    """Seconds until a page shows what it is for, when another page of the same application is open."""
    page.evaluate(GO, "/deployment")
    page.get_by_text("Code locations").first.wait_for()
    begun = time.perf_counter()
    page.evaluate(GO, path)
    shows()
    return time.perf_counter() - begun


def pages(platform: Deployed) -> dict[str, dict[str, float]]:
    """Cold and warm seconds of each page."""
    found = {}
    with browser_page() as page:
        page.set_viewport_size({"width": 1800, "height": 1200})
        views: dict[str, tuple[str, Callable[[], object]]] = {
            "graph": ("/asset-groups", lambda: page.locator("foreignObject").filter(has_text="verdicts").wait_for()),
            **{
                f"partitions of {name}": (
                    f"/assets/{name}?view=partitions",
                    lambda shown=shown: page.get_by_text(shown, exact=True).first.wait_for(),
                )
                for name, shown in (("responses", "weak"), ("verdicts", "weak"), ("difficulty", "0a"))
            },
            "runs": ("/runs", lambda: page.get_by_text("Created at").first.wait_for()),
        }
        for name, (path, shows) in views.items():
            cold, *warm = [opened(page, platform.pages + path, shows) for _ in range(1 + REPEATS)]
            within = [gone_to(page, path, shows) for _ in range(REPEATS)]
            found[name] = {
                "cold_seconds": round(cold[0], 2),
                "warm_seconds": round(statistics.median(one[0] for one in warm), 2),
                "within_the_page_seconds": round(statistics.median(within), 2),
                "slowest_answer_seconds": round(statistics.median(one[1] for one in warm), 2),
            }
    return found


def nothing_owed(platform: Deployed) -> float:
    """CPU seconds of the process of a run that finds its partition current."""
    with (
        environment_of(platform.environment),
        Session.open(deployment_from_environment(), platform.study, instance=False) as session,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        replace(session, instance=instance).materialize_owed(assets=("raw_queries",), say=lambda _: None)
    before = platform.store.latest("raw_queries", "math")
    spent = []
    for _ in range(RUNS):
        begun = _children_seconds(platform)
        what = {"partitionNames": ["math"], "assetSelection": [{"path": ["raw_queries"]}]}
        backfill = platform.ask_dagster(LAUNCH, {"what": what})["launchPartitionBackfill"]["backfillId"]
        while True:
            state = platform.instance.get_backfill(backfill)
            if state is not None and state.status in BULK_ACTION_TERMINAL_STATUSES:
                break
            time.sleep(0.5)
        while any(_is_run(one) for one in platform.code.below()):
            time.sleep(0.2)
        time.sleep(2.0)  # the code server takes in its children once a second
        spent.append(_children_seconds(platform) - begun)
    assert platform.store.latest("raw_queries", "math") == before, "a run that finds nothing owed commits nothing"
    return round(statistics.median(spent), 2)


def _is_run(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # a zombie is one of these
        return "spawn_main" in " ".join(process.cmdline())
    return False


def overhead(platform: Deployed) -> dict[str, float]:
    """CPU seconds of commands that run a current partition and an asset that does nothing."""
    file = platform.folder / "empty.py"
    file.write_text(EMPTY)
    command = ["-W", "ignore", "-m", "dagster", "asset", "materialize"]
    ways = {
        "ours": [*command, "-m", "amr_pipeline.definitions", "--select", "raw_queries", "--partition", "math"],
        "an asset that does nothing": [*command, "-f", str(file), "--select", "empty"],
    }
    environment = {**os.environ, **platform.environment}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, arguments in ways.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    found = {name: round(statistics.median(taken), 2) for name, taken in spent.items()}
    return {**found, "difference": round(found["ours"] - found["an asset that does nothing"], 2)}


def _children_seconds(platform: Deployed) -> float:
    """CPU seconds of every process that the code server has started and seen end."""
    times = [one.cpu_times() for one in [psutil.Process(platform.code.pid), *platform.code.below()]]
    return sum(one.children_user + one.children_system for one in times)


def main() -> None:
    """Print the figures, the last line as one JSON object."""
    warnings.simplefilter("ignore")  # Dagster's notes on what it calls beta
    with tempfile.TemporaryDirectory() as folder, deployed(Path(folder) / "deployed", STUDY) as platform:
        partitions = record(platform)
        print(f"{partitions:,} partitions recorded", flush=True)
        measured = pages(platform)
        spent = {"run in the deployment": nothing_owed(platform), **overhead(platform)}
    figures = {"benchmark": "pages", "partitions": partitions, "pages": measured, "nothing_owed_cpu_seconds": spent}
    print(json.dumps({**figures, "load_average": round(os.getloadavg()[0], 1), **measured_on("dagster", "mlflow")}))


if __name__ == "__main__":
    main()
