"""The whole story in real engines, on a few queries: killed, finished, run again.

How it goes on (a distiller added, a verifier changed) is told by `test_guides` on the command line and by
`test_deployed_graph` in Dagster's pages.
"""

import os
import random
import re
from collections.abc import Callable

import pytest
from polars.testing import assert_frame_equal

from amr_pipeline.assets.lineage import DEPENDENCES
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.evaluation import benchmark_summary
from amr_pipeline.responses.expected import expected_responses
from amr_pipeline.tables import TABLES
from amr_pipeline_tests.told import IN_FLIGHT, NUM_PROBLEMS, NUM_SAMPLES, Story

SOAK = bool(os.environ.get("AMR_SOAK"))

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

    if not SOAK:  # amid distillers' responses `test_kills` does it
        return [benchmark_part]
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
    said = ""
    for reached in instants(told):
        told.run_until(reached)
        said += told.said.read_text()
    told.ended.write_text(said + told.run("demo"))
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
    assert set(responses["engine"]) == set(answers["engine"]) == {"vllm 0.29.0, draws 1"}
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
    """The same story, run once without a kill; in CI up to its responses, on which all that follows depends."""
    told = Story(tmp_path_factory.mktemp("undisturbed"))
    told.run("demo" if SOAK else "responses")
    assert told.written == told.committed
    return told


def test_every_long_step_says_how_far_it_is(story: Story):
    said = story.ended.read_text()
    for what in ("responses of strong", "perplexities", "verdicts", "benchmark responses of", "benchmark verdicts of"):
        assert re.search(rf"^ +{what}.*: [\d,]+/[\d,]+ \(100 %\)", said, re.MULTILINE), what


OF_ONE_RUN = {"mlflow_run_id", "resumed_from_step", "digest", "first_loss", "last_loss"}
"""Columns of a checkpoint that name its run, or may differ in the last digits where it went on from a checkpoint."""

OF_ATTEMPTS = {"attempts", "last_failure"}
"""What kills may change of a response."""

OF_CHECKPOINTS = {"benchmark_responses", "benchmark_scores"}
"""What follows from weights; scores are compared within their intervals."""


UP_TO_RESPONSES = {"raw_queries", "benchmark_queries", "near_duplicates", "queries", "dropped_queries", "responses"}

COMPARED = [name for name in STORED if name not in OF_CHECKPOINTS and (SOAK or name in UP_TO_RESPONSES)]


@pytest.mark.parametrize("table", COMPARED)
def test_after_kills_tables_are_those_of_an_undisturbed_run(story: Story, undisturbed: Story, table: str):
    mine, theirs = (told.rows(table) for told in (story, undisturbed))
    if table == "checkpoints":
        mine, theirs = mine.drop(OF_ONE_RUN), theirs.drop(OF_ONE_RUN)
    if table == "responses":
        mine, theirs = mine.drop(OF_ATTEMPTS), theirs.drop(OF_ATTEMPTS)
    assert mine.height > 0 or table == "frequent_ngrams"
    assert_frame_equal(mine, theirs, rel_tol=1e-5)


@pytest.mark.skipif(not SOAK, reason="in CI a second run ends with its responses; AMR_SOAK=1 goes on")
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
