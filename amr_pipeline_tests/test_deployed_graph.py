"""The micro study in the deployment of `docker/`, worked through Dagster's and MLflow's pages as a person does.

Everything is real: PostgreSQL, S3, MLflow behind its server, Dagster's three processes with the deployment's own
dagster.yaml, a browser that clicks, vLLM, DeepSpeed. Two things are smaller: the study, and the daemon's half minute
between two looks at a backfill. AMR_SCREENSHOTS names a folder for what the browser saw.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from dagster._core.execution.backfill import BulkActionStatus
from mlflow.tracking import MlflowClient
from playwright.sync_api import Page, expect

from amr_pipeline.assets.lineage import DEPENDENCES, Lineage, verifier_fingerprints
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.engines.checkpoint_files import fetch
from amr_pipeline.engines.mlflow_runs import MlflowRuns
from amr_pipeline.tables import TABLES
from amr_pipeline_tests.deployed import Deployed, deployed, environment_of
from amr_pipeline_tests.served import browser_page, needs_chromium, switch_on
from amr_pipeline_tests.servers import needs_postgres

pytestmark = [
    pytest.mark.engines,
    pytest.mark.soak,
    pytest.mark.browser,
    pytest.mark.timeout(5000),
    needs_chromium,
    needs_postgres,
]

STUDY = """
from dataclasses import replace
from amr_pipeline.categories import Category
from amr_pipeline.studies.micro import STAGE_1, STAGE_2, STUDY as MICRO, SWEEP
from amr_pipeline.studies.study import CodeVerifier

DISTILLERS = ["middle"]
NUM_TESTS = 10
KEPT = (Category.MATH, Category.CODE, Category.INSTRUCTION_FOLLOWING)  # judged without a model, whose start takes half a minute

def smaller(recipe):
    rules = tuple(rule for rule in recipe.rules if rule.category in KEPT)
    return replace(recipe, rules=rules, distillers=tuple(DISTILLERS))

STUDY = replace(
    MICRO,
    name="deployed",
    num_shards=2,
    sources=tuple(replace(row, reads=replace(row.reads, num_rows=16)) for row in MICRO.sources if row.category in (*KEPT, None)),
    benchmarks=tuple(replace(row, reads=replace(row.reads, num_rows=2), num_samples=4) for row in MICRO.benchmarks),
    distillers=tuple(row for row in MICRO.distillers if row.name in DISTILLERS),
    quality_rules=replace(MICRO.quality_rules, perplexity_scorer=None, highest_perplexity=None),
    verifiers=tuple(
        CodeVerifier(num_tests=NUM_TESTS) if row.name == "code_tests" else row for row in MICRO.verifiers if row.category in KEPT
    ),
    selection_recipes=(smaller(STAGE_1), smaller(STAGE_2)),
    training_recipes=tuple(replace(run, epochs=1) for run in (SWEEP[2], SWEEP[3])),
)
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("deployed"), STUDY, {"AMR_REGRADE_CRON": "* * * * *"}) as running:
        yield running


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page() as opened:
        opened.set_viewport_size({"width": 1800, "height": 1200})
        yield opened


@pytest.fixture(scope="module")
def pictured(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Keep what the browser shows under a name."""
    folder = Path(os.environ.get("AMR_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name: page.screenshot(path=folder / f"{name}.png")  # type: ignore[return-value]


def wait_until(platform: Deployed, reached: Callable[[], bool], seconds: float = 2500.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        for program in (platform.code, platform.webserver, platform.daemon, platform.mlflow):
            assert program.process is not None
            assert program.process.poll() is None, f"{program.name} ended: {program.said()[-3000:]}"
        assert time.monotonic() < deadline, f"not reached in time: {platform.daemon.said()[-6000:]}"
        time.sleep(2)


def ended(platform: Deployed, backfill: str) -> bool:
    """Whether a backfill is over; it has to have succeeded then."""
    found = platform.instance.get_backfill(backfill)
    assert found is not None
    assert found.status not in (BulkActionStatus.FAILED, BulkActionStatus.COMPLETED_FAILED), found.error
    return found.status is BulkActionStatus.COMPLETED_SUCCESS


def launch(page: Page) -> str:
    """Click the dialog's button; the backfill's name, which the page then shows."""
    page.get_by_role("button", name="Launch backfill").click()
    said = page.get_by_text(re.compile("Created backfill")).first
    said.wait_for()
    return re.findall(r"[a-z]{8}", (said.text_content() or "").replace("Created backfill", ""))[0]


def reload_definitions(page: Page, platform: Deployed) -> None:
    """Have the code server read the study again, by the button that people use."""
    page.goto(f"{platform.pages}/asset-groups")
    page.get_by_role("button", name="Reload definitions").click()
    expect(page.get_by_text(re.compile("Definitions reloaded|reloaded", re.IGNORECASE)).first).to_be_visible()


def test_everything_is_materialized_by_one_click(
    page: Page, platform: Deployed, pictured: Callable[[str], None]
) -> None:
    page.goto(f"{platform.pages}/asset-groups")
    page.get_by_role("button", name=re.compile("Materialize all")).click()
    expect(page.get_by_text(re.compile("Launch runs to materialize"))).to_be_visible()
    pictured("1-materialize-all")
    backfill = launch(page)
    wait_until(platform, lambda: ended(platform, backfill))
    page.goto(f"{platform.pages}/runs/b/{backfill}")
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()
    pictured("2-materialized")
    study, store = platform.study, platform.store
    for table in DEPENDENCES:
        assert Lineage(study, store).owed(table) == [], table
        for key in stored_partitions(study, table):
            assert store.verify(table, key) == []
            assert not TABLES[table].violations(store.read(table, key))
    for run in study.training_recipes:
        row = store.read("checkpoints", run.name).row(0, named=True)
        fetched = fetch(store.files, row["path"], row["digest"], platform.folder / "fetched")
        assert {path.suffix for path in fetched.iterdir()} == {".safetensors", ".json", ".jinja"}
    for file in store.read("release", [recipe.name for recipe in study.selection_recipes])["path"]:
        assert store.files.read(file)
    assert set(store.read("responses", stored_partitions(study, "responses"))["engine"]) == {"vllm 0.29.0, draws 1"}


def test_an_added_distiller_is_filled_in_from_the_page(
    page: Page, platform: Deployed, pictured: Callable[[str], None]
) -> None:
    before = {key: platform.store.digest("responses", key) for key in stored_partitions(platform.study, "responses")}
    platform.change('["middle"]', '["middle", "weak"]')
    reload_definitions(page, platform)
    page.goto(f"{platform.pages}/assets/responses")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Select a partition").first.click()
    page.get_by_text("weak", exact=True).first.click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="All", exact=True).nth(1).click()
    pictured("3-backfill-of-a-distiller")
    backfill = launch(page)
    wait_until(platform, lambda: ended(platform, backfill))
    page.goto(f"{platform.pages}/assets/responses?view=partitions")
    expect(page.get_by_text("weak").first).to_be_visible()
    pictured("4-partitions")
    store, study = platform.store, platform.study
    written = store.read("responses", [f"weak|{shard}" for shard in study.shards])
    assert written.height == 4 * store.read("queries", list(study.shards)).height
    assert {key: store.digest("responses", key) for key in before} == before


def test_a_changed_verifier_is_re_graded_by_the_schedule(
    page: Page, platform: Deployed, pictured: Callable[[str], None]
) -> None:
    store, keys = platform.store, stored_partitions(platform.study, "responses")
    responses = {key: store.digest("responses", key) for key in keys}
    platform.change("NUM_TESTS = 10", "NUM_TESTS = 1")
    reload_definitions(page, platform)
    wanted = verifier_fingerprints(platform.study)["code"]
    page.goto(f"{platform.pages}/automation")
    switch_on(page, "regrade")
    pictured("5-schedule")

    def judged_anew(key: str) -> bool:
        return wanted in set(store.read("verdicts", key, missing="empty")["verifier_fingerprint"])

    wait_until(platform, lambda: all(map(judged_anew, keys)))
    page.goto(f"{platform.pages}/runs")
    expect(page.get_by_text("regrade").first).to_be_visible()
    pictured("6-runs")
    assert {key: store.digest("responses", key) for key in keys} == responses


def test_the_sweep_is_compared_in_mlflow(page: Page, platform: Deployed, pictured: Callable[[str], None]) -> None:
    runs = MlflowRuns(platform.tracking, artifacts=platform.folder, study="deployed")
    (sweep,) = {run.sweep for run in platform.study.training_recipes if run.sweep}
    ids = runs.run_ids(sweep)
    experiment = MlflowClient(platform.tracking).get_run(next(iter(ids.values()))).info.experiment_id
    assert set(ids) == {run.name for run in platform.study.training_recipes}
    with environment_of({"MLFLOW_TRACKING_URI": platform.tracking}):
        runs.record_figure(next(iter(ids.values())), "figure.png", b"png")  # this process has no key to the store
    client = MlflowClient(platform.tracking)
    for run in platform.study.training_recipes:
        stored, logged = platform.store.read("checkpoints", run.name).row(0, named=True), client.get_run(ids[run.name])
        assert [one.dataset.name for one in logged.inputs.dataset_inputs] == [run.subset]
        assert logged.data.tags["amr.checkpoint"] == f"{platform.store.root}/{stored['path']}"
        assert logged.data.tags["amr.subset_digest"] == stored["subset_digest"]
        assert platform.instance.get_run_by_id(logged.data.tags["amr.dagster_run"]) is not None
    best = client.get_model_version_by_alias(f"deployed.{sweep}", "best")
    assert best.run_id in ids.values()
    assert best.source == client.get_run(best.run_id).data.tags["amr.checkpoint"]
    page.set_viewport_size({"width": 2600, "height": 1600})  # columns out of sight are not drawn
    named = f"runs={quote(json.dumps(list(ids.values())))}&experiments={quote(json.dumps([experiment]))}"
    page.goto(f"{platform.tracking}/#/compare-runs?{named}")
    expect(page.get_by_text("held_out_pass_at_1").first).to_be_visible()
    for run in platform.study.training_recipes:
        expect(page.get_by_text(run.name).first).to_be_visible()
        expect(page.get_by_text(str(run.learning_rate), exact=True).first).to_be_visible()
    pictured("7-sweep")


def test_no_secret_is_in_anything_that_was_recorded(platform: Deployed) -> None:
    """After every asset, training and MLflow among them: not in artifacts, checkpoints, runs or pages either."""
    assert platform.shown({}) == []
