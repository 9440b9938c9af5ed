"""A server and a browser for tests that look at pages: Dagster with its daemon, Chromium.

Belongs here: starting each on a free loopback port and ending exactly what was started. Does not belong here: what a
page should show.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from amr_pipeline_tests.servers import free_ports

REPOSITORY = Path(__file__).parent.parent
PROGRAMS = Path(sys.executable).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PAGE_MILLISECONDS = 60_000

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; make test installs it where it may")


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of a headless Chromium that asks nobody for anything."""
    expect.set_options(timeout=60_000)  # two cores, and Chromium is not alone on them
    quiet = ["--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
        )
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(PAGE_MILLISECONDS)
        expect.set_options(timeout=PAGE_MILLISECONDS)  # five seconds else, which a busy machine exceeds
        yield page
        browser.close()


def switch_on(page: Page, schedule: str) -> None:
    """On Dagster's page of automations, the switch of a schedule: the second box of its row, once it is there.

    The first selects the row, and the next one in the page may be another row's.
    """
    rows = "ancestor::*[count(.//a[contains(@href, '/schedules/') or contains(@href, '/sensors/')]) = 1]"
    switch = page.locator(f"xpath=((//a[.//*[text()='{schedule}']]/{rows})[1]//input[@type='checkbox'])[2]")
    switch.locator("xpath=ancestor::label[1]").click()
    expect(switch).to_be_checked()


@contextmanager
def dagster_pages(home: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """Address of `dagster dev`: the web server, the daemon and the code location of this repository, on a home."""
    instance = home / "dagster_home"
    instance.mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "dagster.yaml", instance / "dagster.yaml")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AMR_ST", "RAY_", "DAGSTER"))},
        "AMR_HOME": str(home),
        "DAGSTER_HOME": str(instance),
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONWARNINGS": "ignore",
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        **variables,
    }
    (port,) = free_ports(1)
    command = [str(PROGRAMS / "dagster"), "dev", "-h", "127.0.0.1", "-p", str(port), "-w", str(REPOSITORY / "workspace.yaml")]  # fmt: skip
    with _running(command, environment, f"http://127.0.0.1:{port}", "/server_info") as address:
        yield address


@contextmanager
def _running(command: list[str], environment: Mapping[str, str], address: str, answers_at: str) -> Iterator[str]:
    server = subprocess.Popen(
        command,
        env=dict(environment),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not _answers(address + answers_at):
            assert server.poll() is None, f"{command[0]} ended by itself"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError:
        return False
    return True
