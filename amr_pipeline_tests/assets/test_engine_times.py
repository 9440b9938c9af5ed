"""What models do for a partition is on its record, by category, added up over runs; the models are stood in for."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.assets import engine_times, verdicts
from amr_pipeline.assets.engine_times import EngineTimes, model_of
from amr_pipeline.assets.resources import Platform
from amr_pipeline.categories import Category
from amr_pipeline.responses.cost import NOTE, Cost, EngineTime, noted_costs
from amr_pipeline.responses.generation import PerplexityScore, ScoringRequest
from amr_pipeline.studies.study import (
    CategoryRule,
    ConversationVerifier,
    InstructionVerifier,
    JudgeModel,
    QualityRules,
    ScienceVerifier,
    Scorer,
    SecondOpinion,
    SelectionRecipe,
    Study,
)
from amr_pipeline.verdicts.verifier import JudgeReply, JudgeRequest
from amr_pipeline_tests.assets.judged import Stored, instruction_study, store_answers
from amr_pipeline_tests.studies.small import SOURCE, WEAK, small_study

KEY, GPUS = "weak|00", 4.0
SCORER = Scorer(model="m", revision="r", max_model_len=9)
JUDGE = JudgeModel(scorer=SCORER, prompt="deepdistill_science")
OTHER = replace(JUDGE, max_tokens=9)


class Clock:
    """Seconds that pass when a model works."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(engine_times, "EngineTime", lambda gpus: EngineTime(gpus, made))
    monkeypatch.setattr(Platform, "gpus_held", lambda _, row: GPUS)
    return made


class Judge:
    """A judge that takes two seconds a reply, after ten to load, and dies after so many."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.replies, self.dies_after = clock, 0, 10**9

    def __call__(self, requests: Iterable[JudgeRequest]) -> Iterator[JudgeReply]:
        self.clock.now += 10.0
        for request in requests:
            if self.replies == self.dies_after:
                raise RuntimeError("the judge is gone")
            self.clock.now += 2.0
            self.replies += 1
            yield JudgeReply(request_id=request.request_id, text="5")


@pytest.fixture
def judge(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Judge:
    made = Judge(clock)
    monkeypatch.setattr(verdicts, "judge_of", lambda platform, row: made)
    monkeypatch.setattr(verdicts, "VERDICTS_PER_BATCH", 4)
    return made


def science_study(judge: JudgeModel = JUDGE, **changed: object) -> Study:
    rule = CategoryRule(category=Category.SCIENCE, lowest_score=0.99, cv_threshold=0.0)
    rows: dict[str, object] = {
        "num_shards": 1,
        "sources": (SOURCE,),
        "benchmarks": (),
        "distillers": (WEAK,),
        "verifiers": (ScienceVerifier(judge=judge),),
        "selection_recipes": (SelectionRecipe(name="stage1", distillers=("weak",), rules=(rule,), seed=7),),
        "training_recipes": (),
    }
    return small_study(**(rows | changed))


class Science(Stored):
    """A shard of two questions with four responses each, which only a judge can decide."""

    def write_shard(self, place: int, shard: str, num_queries: int) -> None:
        queries = pl.DataFrame(
            [
                {
                    "query_id": f"{index:032x}",
                    "shard": shard,
                    "category": "science",
                    "messages": [{"role": "user", "content": f"Why {index}?"}],
                    "reference": f"Because of the reason with number {index}",
                    "test_cases": None,
                    "constraints": None,
                    "source": "numbers",
                    "source_row": str(index),
                    "licence": "MIT",
                }
                for index in range(num_queries)
            ],
            schema=tables.QUERIES.schema,
        )
        store_answers(self.store, self.study, shard, queries, lambda category, row: f"It has a cause, {row}")


@pytest.fixture
def stored(tmp_path: Path) -> Science:
    return Science(tmp_path, science_study(), num_queries=2)


def noted(stored: Stored, table: str, key: str, *, complete: bool = True) -> dict[str, Cost]:
    commit = (stored.store.latest if complete else stored.store.latest_any)(table, key)
    assert commit is not None
    assert NOTE in commit.notes, "that nothing was spent is on record, too"
    return noted_costs(commit.notes)


def test_a_judges_time_is_on_the_record_of_what_it_judged(stored: Science, judge: Judge):
    stored.judge(KEY)
    assert judge.replies >= 8
    cost = noted(stored, "verdicts", KEY)["science"]
    assert (cost.runs, cost.responses, cost.response_tokens) == (1, judge.replies, 0)
    assert (cost.engine_seconds, cost.gpu_seconds) == (2.0 * judge.replies, 2.0 * judge.replies * GPUS), (
        "loading is in none, and neither is what happens between two batches"
    )


def test_judging_again_adds_to_the_record_and_finding_nothing_owed_does_not(stored: Science, judge: Judge):
    stored.judge(KEY)
    first = judge.replies
    stored.judge(KEY)
    assert judge.replies == first
    stored.judge(KEY, study=science_study(OTHER))
    cost = noted(stored, "verdicts", KEY)["science"]
    assert (cost.runs, cost.responses, cost.engine_seconds) == (2, judge.replies, 2.0 * judge.replies)
    commit = stored.store.latest("verdicts", KEY)
    assert commit is not None
    assert "verifiers" in commit.notes


def test_what_a_killed_run_committed_is_on_record_and_what_it_did_after_that_is_not(stored: Science, judge: Judge):
    judge.dies_after = 6
    with pytest.raises(RuntimeError, match="judge is gone"):
        stored.judge(KEY)
    begun = noted(stored, "verdicts", KEY, complete=False)["science"]
    assert begun.responses == 4, "one batch"
    judge.dies_after = 10**9
    stored.judge(KEY)
    cost = noted(stored, "verdicts", KEY)["science"]
    assert (cost.runs, cost.responses) == (2, judge.replies - 2)


def test_rules_take_no_models_time_and_the_record_says_so(tmp_path: Path, clock: Clock):
    told = Stored(tmp_path, instruction_study())
    told.judge(KEY)
    assert noted(told, "verdicts", KEY) == {}


def test_second_opinions_have_a_record_of_their_own(tmp_path: Path, judge: Judge):
    opinion = SecondOpinion(recipe="stage1", verifier=ScienceVerifier(judge=OTHER), num_responses=2, seed=1)
    told = Science(tmp_path, science_study(second_opinions=(opinion,)), num_queries=2)
    told.walk(("frequent_ngrams", "response_quality", "verdicts", "difficulty", "subsets"))
    chosen = told.store.read("responses", KEY).head(3)
    subset = chosen.select("response_id", "query_id", "category", "distiller", "pass_index", "response_tokens")
    extra = {"selection_recipe": "stage1", "shard": "00", "verify_score": 5.0, "pass_rate": 0.5}
    extra |= {"coefficient_of_variation": 1.0, "chosen_because": "challenging"}
    frame = subset.with_columns(pl.lit(value).alias(name) for name, value in extra.items())
    frame = frame.select(pl.col(name).cast(kind) for name, kind in tables.SUBSETS.schema.items())
    told.store.write("subsets", "stage1", frame, fingerprints={})
    before = judge.replies
    told.walk(("second_opinions",))
    cost = noted(told, "second_opinions", "stage1")["science"]
    assert cost.responses == judge.replies - before >= 2
    assert cost.gpu_seconds == 2.0 * cost.responses * GPUS


class Reader:
    """`Platform.pools`: perplexities at a second each."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def score_perplexity(self, _: Scorer, requests: Iterable[ScoringRequest]) -> Iterator[PerplexityScore]:
        for request in requests:
            self.clock.now += 1.0
            yield PerplexityScore(response_id=request.response_id, perplexity=2.0)


def test_perplexities_are_on_the_record_and_add_up_over_runs(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Platform, "pools", lambda _: Reader(clock))
    rules = QualityRules(perplexity_scorer=SCORER, highest_perplexity=20.0, ngram_tokens=None)
    told = Stored(tmp_path, instruction_study(quality_rules=rules))
    told.walk(("frequent_ngrams", "response_quality"))
    one = Cost(runs=1, responses=12, response_tokens=12, engine_seconds=12.0, gpu_seconds=48.0)
    assert noted(told, "response_quality", KEY) == {"instruction_following": one}
    stricter = instruction_study(quality_rules=replace(rules, highest_perplexity=1.5))
    told.walk(("response_quality",), stricter)
    assert noted(told, "response_quality", KEY) == {"instruction_following": one + one}


def test_clocks_are_kept_by_partition_and_model(stored: Science, clock: Clock):
    times = EngineTimes(stored.platform, "verdicts")
    assert times.clock("a", SCORER) is times.clock("a", SCORER)
    assert times.clock("a", SCORER) is not times.clock("b", SCORER)
    for key, model, category in (("a", SCORER, "math"), ("a", replace(SCORER, model="n"), "math"), ("b", None, "code")):
        times.clock(key, model).start()
        clock.now += 3.0
        times.clock(key, model).wrote(category, 1)
        times.clock(key, model).stop()
    assert {name: (cost.engine_seconds, cost.gpu_seconds) for name, cost in times.costs("a").items()} == {
        "math": (6.0, 6.0 * GPUS)
    }
    assert times.costs("b")["code"].gpu_seconds == 0.0, "without a model no GPU"
    assert times.costs("c") == {}


def test_the_model_of_a_verifier_is_its_judge_or_its_reward_model():
    assert model_of(InstructionVerifier()) is None
    assert model_of(ScienceVerifier(judge=JUDGE)) == SCORER
    rewarded = ConversationVerifier.__dataclass_fields__
    assert "reward_model" in rewarded, "the name that is looked for"
