"""Dagster's pages in a real browser: what a person clicks and looks at."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.studies.micro import STUDY
from amr_pipeline_tests.served import browser_page, dagster_pages, needs_chromium, switch_on

pytestmark = [pytest.mark.browser, needs_chromium]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with dagster_pages(home, {}) as served:
        yield served


@pytest.fixture
def page() -> Iterator[Page]:
    with browser_page() as opened:
        yield opened


def test_an_asset_materializes_by_clicking(page: Page, address: str, home: Path):
    page.goto(f"{address}/assets/benchmark_queries")
    expect(page.get_by_text("benchmark_queries").first).to_be_visible()
    page.get_by_role("button", name="Materialize").first.click()
    launch = page.get_by_role("button", name=re.compile("^Launch"))
    page.get_by_role("button", name="All", exact=True).click()
    expect(launch).to_be_enabled(timeout=30_000)
    launch.click()
    store, deadline = TableStore(str(home / "tables")), time.monotonic() + 150
    while store.latest("benchmark_queries", "held_out") is None and time.monotonic() < deadline:
        time.sleep(1)
    assert store.latest("benchmark_queries", "held_out") is not None
    page.goto(f"{address}/runs")
    expect(page.get_by_text("Success").first).to_be_visible(timeout=90_000)


def test_the_graph_shows_every_asset(page: Page, address: str):
    graph = assemble(deployment_from_environment({}), STUDY).resolve_asset_graph()
    groups = {node.group_name for node in graph.asset_nodes}
    page.set_viewport_size({"width": 3200, "height": 4000})  # what is out of sight is not drawn
    page.goto(f"{address}/asset-groups")
    shown = page.locator("foreignObject").filter(has_text=re.compile("."))
    expect(shown).to_have_count(len(groups))
    page.keyboard.press("Alt+e")  # every group unfolds into its assets
    names = sorted([*groups, *(node.key.to_user_string() for node in graph.asset_nodes)])
    expect(shown).to_have_count(len(names))
    labels = shown.all_text_contents()
    for name in names:  # a long one is cut in its middle
        matching = [label for label in labels if re.fullmatch(re.escape(label).replace("…", ".*"), name)]
        assert matching, f"{name} is not among {labels}"
        labels.remove(matching[0])
    assert labels == []
    expect(page.locator("path[marker-end]").first).to_be_attached()


def test_the_schedule_that_re_grades_is_switched_on_by_clicking(page: Page, address: str):
    page.goto(f"{address}/automation")
    switch_on(page, "regrade")
