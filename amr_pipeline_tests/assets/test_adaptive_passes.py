"""Rounds of generating and judging: what is generated is what is due, nothing twice, whatever interrupts between."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from amr_pipeline.adaptive_passes import replay
from amr_pipeline.assets.adaptive_passes import passes_due, spent_by_distiller
from amr_pipeline.assets.automation import partitions_to_deepen, partitions_to_regrade
from amr_pipeline.assets.forecast import forecast_of, forecast_text
from amr_pipeline.assets.overview import status_table
from amr_pipeline.assets.owed import what_is_owed
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.session import Session
from amr_pipeline.engines.imported_responses import imported_responses, stored_responses
from amr_pipeline.queries.identity import normalized_text, query_id
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.studies.study import Distiller
from amr_pipeline_tests.assets.imported_world import ImportedWorld

POLICY = "AdaptivePasses(first=3, step=2, most=8, confidence=0.8, unless_settled_by=SPARED.get(name, ()))"
QUESTIONS = [f"Question {number}?" for number in range(8)]


class Engine:
    """A stand-in that reads answers from the world's files, counts what it wrote, and breaks when it is told to."""

    def __init__(self) -> None:
        self.wrote: Counter[str] = Counter()
        self.order: list[str] = []
        self.breaks_after: int | None = None

    def generate(
        self, _: Platform, row: Distiller, requests: Iterable[GenerationRequest]
    ) -> Iterator[GeneratedResponse]:
        for answer in imported_responses(row, requests):
            if self.breaks_after is not None and self.wrote.total() >= self.breaks_after:
                raise RuntimeError("the engine broke")
            self.wrote[answer.response_id] += 1
            self.order.append(row.name)
            yield answer


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(Platform, "generate", lambda self, row, requests: made.generate(self, row, requests))
    return made


@pytest.fixture
def deep(world: ImportedWorld) -> ImportedWorld:
    """Eight questions; distiller `one` is adaptive, five passes on average: some always pass, some never, some do."""
    world.change("NUM_PASSES = 2", "NUM_PASSES = 5\nSPARED = {}")
    world.change('DISTILLERS = ("one", "two")', 'DISTILLERS = ("one",)')
    world.change("gpus_per_replica=0,", f"gpus_per_replica=len(name), passes_policy={POLICY},")
    world.ask(*QUESTIONS)
    world.answer("one", answers(lambda number, index: number < 3 or (number > 4 and (number + index) % 2 == 0)))
    return world


def answers(passes) -> dict[str, list[str]]:
    """Eight answers to each question; one passes when it has no comma."""
    return {
        question: [f"{question[9]} {index}" + ("" if passes(number, index) else ",") for index in range(8)]
        for number, question in enumerate(QUESTIONS)
    }


def outcomes(world: ImportedWorld) -> pl.DataFrame:
    """Every pass that there could be: query_id, pass_index, passed."""
    stored = stored_responses(world.study.distiller("one"))
    ids = {question: query_id([{"role": "user", "content": question}]) for question in QUESTIONS}
    asked = [(ids[question], *entry) for question in QUESTIONS for entry in _by_question(stored.by_question, question)]
    schema = {"query_id": pl.String, "pass_index": pl.Int32, "passed": pl.Boolean}
    return pl.DataFrame(asked, schema=schema, orient="row")


def _by_question(by_question, question: str) -> list[tuple[int, bool]]:
    found = by_question[normalized_text([{"role": "user", "content": question}])]
    return [(index, "," not in text) for index, (text, _) in found.items()]


def asked_passes(world: ImportedWorld, name: str = "one") -> dict[str, int]:
    """Passes that are stored, by query; they must be the first ones, without a gap."""
    stored = world.store.read("responses", f"{name}|00").group_by("query_id").agg("pass_index")
    assert all(sorted(indexes) == list(range(len(indexes))) for indexes in stored["pass_index"])
    return {query: len(indexes) for query, indexes in stored.iter_rows()}


def expected_passes(world: ImportedWorld) -> dict[str, int]:
    row = world.study.distiller("one")
    assert row.passes_policy is not None
    found = replay(outcomes(world), row.passes_policy, row.num_passes)
    return dict(found.select("query_id", "num_due").iter_rows())


def test_the_walk_goes_on_until_nothing_is_due_and_generates_just_that(deep: ImportedWorld, engine: Engine):
    deep.materialize()
    expected = expected_passes(deep)
    assert asked_passes(deep) == expected
    assert set(expected.values()) > {3}, "some stop early"
    assert max(expected.values()) > 5, "others get what they save"
    assert sum(expected.values()) <= 5 * len(QUESTIONS)
    assert set(engine.wrote.values()) == {1}
    assert engine.wrote.total() == sum(expected.values())
    assert deep.owed("responses") == deep.owed("verdicts") == []
    assert deep.materialize() == {}, "a second walk finds nothing owed"
    graded = deep.store.read("difficulty", "00").filter(pl.col("distiller") == "one")
    assert dict(graded.select("query_id", "num_responses").iter_rows()) == expected


@pytest.mark.parametrize("written", [2, 24, 25, 29])
def test_a_walk_that_breaks_is_gone_on_with_and_pays_for_nothing_twice(
    deep: ImportedWorld, engine: Engine, written: int
):
    engine.breaks_after = written
    with pytest.raises(RuntimeError, match="the engine broke"):
        deep.materialize()
    assert deep.owed("responses") == ["one|00"]
    engine.breaks_after = None
    deep.materialize()
    assert asked_passes(deep) == expected_passes(deep)
    assert set(engine.wrote.values()) == {1}
    assert engine.wrote.total() == sum(expected_passes(deep).values())


def test_between_rounds_status_and_schedules_say_whose_turn_it_is(deep: ImportedWorld, engine: Engine):
    def responses_line() -> list[str]:
        with deep.session() as session:
            lines = status_table(deep.study, session.platform).splitlines()
        return next(line for line in lines if line.startswith("responses")).split()[-2:]

    def turns() -> tuple[list[str], list[str]]:
        return (
            partitions_to_deepen(deep.study, deep.store, set(), 8),
            partitions_to_regrade(deep.study, deep.store, set(), 8),
        )

    deep.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    assert turns() == ([], []), "first passes are the backfill's"
    deep.materialize(assets=("responses",))
    assert set(asked_passes(deep).values()) == {3}
    assert (responses_line(), turns()) == (["1", "0"], ([], ["one|00"]))
    deep.materialize(assets=("verdicts",))
    assert (responses_line(), turns()) == (["0", "1"], (["one|00"], []))
    assert partitions_to_deepen(deep.study, deep.store, {"one|00"}, 8) == []
    rounds = 1
    while any(turns()):
        deep.materialize(assets=("responses",))
        deep.materialize(assets=("verdicts",))
        rounds += 1
    assert rounds > 2
    assert asked_passes(deep) == expected_passes(deep)


def test_a_study_with_adaptive_passes_has_a_schedule_for_them(deep: ImportedWorld, engine: Engine, tmp_path: Path):
    deep.materialize(assets=("raw_queries", "near_duplicates", "queries", "responses"))
    deep.materialize(assets=("verdicts",))

    (tmp_path / "instance").mkdir()

    def tick(session: Session) -> list[str | None]:
        with (
            dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as instance,
            dg.build_schedule_context(
                instance=instance,
                repository_def=session.definitions.get_repository_def(),
                scheduled_execution_time=datetime(2025, 6, 1, tzinfo=UTC),
                resources={"platform": session.platform},
            ) as context,
        ):
            found = session.definitions.resolve_schedule_def("deepen").evaluate_tick(context)
            return [request.partition_key for request in found.run_requests or []]

    with deep.session() as session:
        assert tick(session) == ["one|00"]
    deep.materialize()
    with deep.session() as session:
        assert tick(session) == []
    deep.change(f"passes_policy={POLICY},", "")
    with deep.session() as session:
        schedules = session.definitions.schedules or []
        assert [schedule.name for schedule in schedules] == ["regrade"]


def test_what_was_saved_and_moved_is_on_the_page(deep: ImportedWorld, engine: Engine):
    deep.materialize()
    (found,) = spent_by_distiller(deep.study, deep.store).values()
    assert (found["queries"], found["fixed"], found["spent"]) == (8, 40, sum(expected_passes(deep).values()))
    assert found["given more"] == sum(number > 5 for number in expected_passes(deep).values())
    page = deep.store.files.read("reports/difficulty_report.html").decode()
    assert "What adaptive passes saved and changed" in page
    deep.change("confidence=0.8", "confidence=0.81")
    assert "difficulty_report" in deep.materialize(), "the page states what follows from the policy"


def test_the_forecast_counts_what_the_ledger_would_ask_and_says_that_more_may_come(deep: ImportedWorld, engine: Engine):
    def forecast_and_ledger() -> tuple[int, int]:
        with deep.session() as session:
            *_, every = forecast_of(deep.study, session.platform, deep.study.distiller("one"))
        rows = (partition.num_rows or 0 for partition in what_is_owed(deep.study, deep.store, ["responses"]).owed)
        return every.owed, sum(rows)

    deep.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    assert forecast_and_ledger() == (3 * len(QUESTIONS),) * 2, "first passes"
    deep.materialize(assets=("responses",))
    assert forecast_and_ledger() == (0, 0), "nothing more before verdicts say so"
    deep.materialize(assets=("verdicts",))
    forecast, asked = forecast_and_ledger()
    assert 0 < forecast == asked < 2 * len(QUESTIONS), "of open queries"
    deep.materialize()
    assert forecast_and_ledger() == (0, 0), "what settled early saves is not forecast"
    with deep.session() as session:
        said = forecast_text(deep.study, session.platform)
    assert "one: passes that are due now; its adaptive policy may add more once these are judged, up to 8" in said


def test_fixed_passes_after_adaptive_ones_fill_up_and_keep_what_was_paid_for(deep: ImportedWorld, engine: Engine):
    deep.materialize()
    before = set(engine.wrote)
    deep.change(f"passes_policy={POLICY},", "")
    assert passes_due(deep.study, deep.store, "one|00") is None
    deep.materialize()
    assert set(engine.wrote.values()) == {1}
    assert before < set(engine.wrote)
    graded = deep.store.read("difficulty", "00").filter(pl.col("distiller") == "one")
    assert set(graded["num_responses"]) == {5}, "passes beyond num_passes stay stored and do not count"


def test_cheap_distillers_first_and_what_they_settle_is_not_asked_of_the_dear_one(deep: ImportedWorld, engine: Engine):
    deep.change('DISTILLERS = ("one",)', 'DISTILLERS = ("one", "dearer")')
    deep.change("SPARED = {}", 'SPARED = {"dearer": ("one",)}')
    deep.answer("dearer", answers(lambda number, index: index < 6))
    deep.materialize()
    assert asked_passes(deep) == expected_passes(deep)
    assert engine.order == sorted(engine.order, reverse=True), "one, to its end, and then dearer"
    settled = deep.store.read("difficulty", "00").filter(
        (pl.col("distiller") == "one") & pl.col("pass_rate").is_in([0.0, 1.0])
    )
    assert settled.height >= 5
    assert not asked_passes(deep, "dearer").keys() & set(settled["query_id"])
    assert asked_passes(deep, "dearer").keys() < asked_passes(deep).keys()
    assert set(engine.wrote.values()) == {1}
    assert deep.materialize() == {}
