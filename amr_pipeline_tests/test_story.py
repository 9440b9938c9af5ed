"""The whole story in real engines, on a few queries: killed, finished, run again, extended, re-graded.

First from the command line, then by clicking in Dagster's pages with its daemon awake.
"""

import os
import random
import re
import time
from collections.abc import Callable

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from amr_pipeline.assets.lineage import DEPENDENCES, verifier_fingerprints
from amr_pipeline.assets.partitions import response_partition, stored_partitions
from amr_pipeline.evaluation import benchmark_summary
from amr_pipeline.responses.expected import expected_responses
from amr_pipeline.tables import TABLES
from amr_pipeline_tests.served import browser_page, dagster_pages, needs_chromium, switch_on
from amr_pipeline_tests.told import IN_FLIGHT, NUM_PROBLEMS, NUM_SAMPLES, Story

STORED = [*DEPENDENCES, "dropped_queries"]
"""Tables that some asset writes."""

pytestmark = [pytest.mark.engines, pytest.mark.soak, pytest.mark.timeout(2400)]


def instants(told: Story) -> list[Callable[[float], bool]]:
    """When to kill, one after another: at random times, amid the distillers' responses, amid a checkpoint's."""
    draw = random.Random(11)

    def seconds() -> Callable[[float], bool]:
        wait = draw.uniform(4, 45)
        return lambda passed: passed >= wait

    def responses(lowest: int, highest: int) -> Callable[[float], bool]:
        number = draw.randrange(lowest, highest)
        return lambda _: told.written >= number

    def benchmark_part(_: float) -> bool:
        keys = [run.name for run in told.study.training_recipes]
        return any(told.store.latest_any("benchmark_responses", key) for key in keys)

    if not os.environ.get("AMR_SOAK"):
        return [seconds(), responses(50, 600), benchmark_part]
    amid = [responses(lowest, lowest + 150) for lowest in (10, 200, 400, 600)]
    return [
        *amid,
        seconds(),
        seconds(),
        seconds(),
        seconds(),
        benchmark_part,
        lambda _: told.written > told.kills[-1].written + 9,
    ]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The story up to its first end: killed several times on the way."""
    told = Story(tmp_path_factory.mktemp("story"))
    for reached in instants(told):
        told.run_until(reached)
    told.run("demo")
    print(IN_FLIGHT, told.kills, told.written, told.committed)
    return told


def test_kills_leave_whole_tables(story: Story):
    study, store = story.study, story.store
    for table in STORED:
        for key in stored_partitions(study, table):
            assert store.verify(table, key) == []
            assert not TABLES[table].violations(store.read(table, key))
    responses, queries = story.rows("responses"), story.rows("queries")
    expected = {name for row in study.distillers for name in expected_responses(queries, row)["response_id"]}
    assert set(responses["response_id"]) == expected
    assert responses["response_id"].n_unique() == responses.height
    answers = story.rows("benchmark_responses")
    assert (
        answers["response_id"].n_unique() == answers.height == NUM_PROBLEMS * NUM_SAMPLES * len(study.training_recipes)
    )
    assert set(responses["engine"]) == set(answers["engine"]) == {"vllm 0.29.0"}
    assert story.rows("raw_queries").height == queries.height + story.rows("dropped_queries").height


def test_a_kill_costs_what_was_in_flight_and_nothing_else(story: Story):
    total = story.committed
    assert total == story.rows("responses").height + story.rows("benchmark_responses").height
    assert total / 10 > IN_FLIGHT, "a looser bound would say nothing"
    lost = [kill.written - kill.committed for kill in story.kills]
    each = [after - before for before, after in zip([0, *lost], lost, strict=False)]
    assert all(0 <= cost <= IN_FLIGHT for cost in each), story.kills
    assert any(0 < kill.committed < total for kill in story.kills), "no kill came while responses were written"
    assert story.written - total == lost[-1], "what is owed after the last kill is written exactly once"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The same story, run once without a kill."""
    told = Story(tmp_path_factory.mktemp("undisturbed"))
    told.run("demo")
    assert told.written == told.committed
    return told


def test_every_long_step_says_how_far_it_is(undisturbed: Story):
    said = undisturbed.said.read_text()
    for what in ("responses of strong", "perplexities", "verdicts", "benchmark responses of", "benchmark verdicts of"):
        assert re.search(rf"^ +{what}.*: [\d,]+/[\d,]+ \(100 %\)", said, re.MULTILINE), what


OF_ONE_RUN = {"mlflow_run_id", "resumed_from_step", "digest", "first_loss", "last_loss"}
"""Columns of a checkpoint that name its run, or may differ in the last digits where it went on from a checkpoint."""

OF_CHECKPOINTS = {"benchmark_responses", "benchmark_scores"}
"""What follows from weights; scores are compared within their intervals."""


@pytest.mark.parametrize("table", [name for name in STORED if name not in OF_CHECKPOINTS])
def test_after_kills_tables_are_those_of_an_undisturbed_run(story: Story, undisturbed: Story, table: str):
    mine, theirs = (told.rows(table) for told in (story, undisturbed))
    if table == "checkpoints":
        mine, theirs = mine.drop(OF_ONE_RUN), theirs.drop(OF_ONE_RUN)
    assert mine.height > 0 or table == "frequent_ngrams"
    assert_frame_equal(mine, theirs, rel_tol=1e-5)


def test_after_kills_scores_are_those_of_an_undisturbed_run(story: Story, undisturbed: Story):
    mine, theirs = (benchmark_summary(told.rows("benchmark_scores").lazy()) for told in (story, undisturbed))
    assert mine.select("training_recipe", "benchmark").equals(theirs.select("training_recipe", "benchmark"))
    for one, other in zip(mine.iter_rows(named=True), theirs.iter_rows(named=True), strict=True):
        assert other["pass_at_1_low"] <= one["pass_at_1"] <= other["pass_at_1_high"]


def test_a_second_run_owes_nothing(story: Story):
    before = story.written
    said = story.run("demo")
    assert "Nothing is owed" in said
    assert story.written == before
    assert all(line.split()[-1] == "0" for line in story.run("status").splitlines()[2:])


def test_every_number_leads_back_to_its_inputs(story: Story):
    study, store = story.study, story.store
    row = store.read("checkpoints", study.training_recipes[0].name).row(0, named=True)
    subset = store.latest("subsets", study.training_recipes[0].subset)
    assert subset is not None
    assert (row["subset_version"], row["subset_digest"]) == (subset.version, subset.digest)
    assert any(name.startswith("verdicts/strong|00") for name in subset.fingerprints["inputs"])  # type: ignore[attr-defined]
    scores, answers = story.rows("benchmark_scores"), story.rows("benchmark_responses")
    assert scores.height == NUM_PROBLEMS * NUM_SAMPLES * len(study.training_recipes)
    assert set(scores["response_id"]) == set(answers["response_id"])
    assert set(answers["digest"]) == set(story.rows("checkpoints")["digest"])


def test_an_added_distiller_generates_exactly_its_own_and_moves_difficulty_and_subsets(story: Story):
    before, written = story.digests("responses"), story.written
    answers, trained = story.digests("benchmark_responses"), story.digests("checkpoints")
    difficulty, joint = story.digests("difficulty"), joint_passes(story)
    stage_1, stage_2 = (story.store.read("subsets", name) for name in ("stage1", "stage2"))
    assert set(stage_1["distiller"]) == {"weak", "strong"}
    story.change('["weak", "strong"]', '["weak", "strong", "middle"]')
    story.run("backfill", "middle")
    after = story.digests("responses")
    assert {key: after[key] for key in before} == before
    assert story.written - written == 4 * story.rows("queries").height
    assert (story.digests("benchmark_responses"), story.digests("checkpoints")) == (answers, trained)
    assert set(story.digests("difficulty").values()).isdisjoint(difficulty.values())
    now = joint_passes(story)
    assert {query: now[query] - passes for query, passes in joint.items()} == dict.fromkeys(joint, 4)
    chosen = story.store.read("subsets", "stage1")
    assert set(chosen["distiller"]) == {"weak", "strong", "middle"}
    assert_frame_equal(chosen.filter(pl.col("distiller") != "middle"), stage_1, check_row_order=False)
    assert_frame_equal(story.store.read("subsets", "stage2"), stage_2, check_row_order=False)


def joint_passes(story: Story) -> dict[str, int]:
    """Passes behind each query's joint difficulty, undecided ones too."""
    joint = story.rows("difficulty").filter(pl.col("distiller") == "joint")
    return dict(joint.select("query_id", pl.col("num_responses") + pl.col("num_undecided")).iter_rows())


def test_a_changed_verifier_re_grades_its_category_and_generates_nothing(story: Story):
    responses, written = story.digests("responses"), story.written
    keys = stored_partitions(story.study, "verdicts")
    before = story.store.read("verdicts", keys)
    story.change("NUM_TESTS = 10", "NUM_TESTS = 1")
    story.run("regrade")
    after = story.store.read("verdicts", keys)
    fresh = after.join(before, on=["response_id", "verifier_fingerprint"], how="anti")
    assert set(fresh["category"]) == {"code"}
    assert set(fresh["verifier_fingerprint"]) == {verifier_fingerprints(story.study)["code"]}
    assert fresh.height == before.filter(before["category"] == "code").height
    assert after.height == before.height + fresh.height, "old verdicts stay readable"
    assert story.digests("responses") == responses
    assert story.written == written


def wait_until(reached: Callable[[], bool], seconds: float = 420.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(2)


@needs_chromium
@pytest.mark.browser
def test_in_the_browser_the_schedule_re_grades_and_an_added_distiller_is_filled_in(story: Story):
    story.change("NUM_TESTS = 1", "NUM_TESTS = 3")
    story.change('"strong", "middle"]', '"strong", "middle", "careful"]')
    study, store = story.study, story.store
    responses = {key: digest for key, digest in story.digests("responses").items() if digest}
    num_queries = store.read("queries", list(study.shards)).height
    wanted = verifier_fingerprints(study)["code"]

    def judged_anew(distiller: str) -> bool:
        keys = [response_partition(distiller, shard) for shard in study.shards]
        return all(
            wanted in set(store.read("verdicts", [key], missing="empty")["verifier_fingerprint"]) for key in keys
        )

    variables = {"AMR_STUDY": str(story.file), "AMR_REGRADE_CRON": "* * * * *"}
    with dagster_pages(story.home, variables) as address, browser_page() as page:
        page.goto(f"{address}/automation")
        switch_on(page, "regrade")
        wait_until(lambda: all(map(judged_anew, ("weak", "strong", "middle"))))
        assert {key: digest for key, digest in story.digests("responses").items() if digest} == responses

        page.goto(f"{address}/assets/responses")
        page.get_by_role("button", name="Materialize").first.click()
        page.get_by_text("Select a partition").first.click()
        page.get_by_text("careful", exact=True).first.click()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="All", exact=True).nth(1).click()
        page.get_by_role("button", name="Launch backfill").click()
        wait_until(lambda: judged_anew("careful"))
    written = store.read("responses", [response_partition("careful", shard) for shard in study.shards])
    assert written.height == 4 * num_queries
    assert set(written["engine"]) == {"vllm 0.29.0"}
    assert {key: digest for key, digest in story.digests("responses").items() if key in responses} == responses
