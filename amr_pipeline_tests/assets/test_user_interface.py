"""Dagster's and MLflow's pages in a real browser: what a person clicks and looks at."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.resources import deployment_from_environment
from amr_pipeline.engines.mlflow_runs import MlflowRuns
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.studies.micro import STUDY, SWEEP
from amr_pipeline_tests.served import browser_page, dagster_pages, mlflow_pages, needs_chromium, switch_on
from amr_pipeline_tests.trained_on import SUBSET

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


def test_the_comparison_of_a_sweep_shows_every_rate_beside_its_score(page: Page, tmp_path: Path):
    runs = MlflowRuns(f"sqlite:///{tmp_path / 'mlflow.db'}", artifacts=tmp_path / "artifacts", study="micro")
    ids = []
    for place, recipe in enumerate(SWEEP):
        curve = [{"step": step, "loss": 3.0 / step, "learning_rate": recipe.learning_rate} for step in (1, 2, 3)]
        ids.append(runs.record_training(recipe, identity="1", subset=SUBSET, tags={}, curve=curve))
        runs.record_scores(ids[-1], {"held_out_pass_at_1": 0.125 * place})
    with mlflow_pages(tmp_path / "mlflow.db") as served:
        page.set_viewport_size({"width": 2600, "height": 1600})  # columns out of sight are not drawn
        named = f"runs={quote(json.dumps(ids))}&experiments={quote(json.dumps(['1']))}"
        page.goto(f"{served}/#/compare-runs?{named}")
        expect(page.get_by_text("held_out_pass_at_1").first).to_be_visible()
        for place, recipe in enumerate(SWEEP):
            expect(page.get_by_text(recipe.name).first).to_be_visible()
            expect(page.get_by_text(str(recipe.learning_rate), exact=True).first).to_be_visible()
            expect(page.get_by_text(str(0.125 * place), exact=True).first).to_be_visible()
