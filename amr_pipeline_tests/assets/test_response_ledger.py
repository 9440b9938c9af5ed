"""The ledger of responses: what is paid for once, whoever else writes, at bounded memory."""

from collections.abc import Iterator

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.assets import response_ledger
from amr_pipeline.assets.publication import Publication
from amr_pipeline.assets.response_ledger import ResponseLedger
from amr_pipeline.engines.commits import CommitConflict
from amr_pipeline.engines.imported_responses import imported_responses
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.responses.progress import Progress
from amr_pipeline_tests.assets.imported_world import ImportedWorld

KEY = "one|00"
QUESTIONS = tuple(f"Question {number}?" for number in range(12))


def ledger(world: ImportedWorld, *keys: str, done: Publication | None = None) -> ResponseLedger:
    done = done or Publication(table=tables.RESPONSES)
    return ResponseLedger(world.study, world.store, "one", keys or (KEY,), done)


def answers(world: ImportedWorld, mine: ResponseLedger) -> Iterator[GeneratedResponse]:
    return imported_responses(world.study.distiller("one"), mine.requests())


@pytest.fixture
def asked(world: ImportedWorld) -> ImportedWorld:
    world.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    return world


@pytest.fixture
def sharded(world: ImportedWorld) -> ImportedWorld:
    """Twelve questions in four shards, one pass each."""
    world.change("NUM_SHARDS = 1", "NUM_SHARDS = 4")
    world.change("NUM_PASSES = 2", "NUM_PASSES = 1")
    world.ask(*QUESTIONS)
    world.answer("one", {question: [question.lower()] for question in QUESTIONS})
    world.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    return world


def test_two_runs_on_one_partition_leave_it_usable_and_pay_once(asked: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(response_ledger, "SECONDS_BETWEEN_PARTS", 0.0)
    monkeypatch.setattr(response_ledger, "RESPONSES_PER_PART", 2)
    first, second = ledger(asked), ledger(asked)
    late = answers(asked, first)
    stale = next(late)  # asked for when nothing was there yet
    for _, answer in zip(range(2), answers(asked, second), strict=False):
        second.take(answer)
    first.take(stale)
    with pytest.raises(CommitConflict), first:
        first.take(next(late))
    assert asked.store.read_any("responses", KEY).height == 2
    assert len(list(ledger(asked).requests())) == 4
    asked.materialize(assets=("responses",))
    stored = asked.store.read("responses", KEY)
    assert (stored.height, stored["response_id"].n_unique()) == (6, 6)


def test_an_error_loses_nothing_that_came_before(asked: ImportedWorld):
    mine = ledger(asked)

    def break_down() -> None:
        with mine:
            for _, answer in zip(range(3), answers(asked, mine), strict=False):
                mine.take(answer)
            raise RuntimeError("the engine is gone")

    with pytest.raises(RuntimeError, match="engine"):
        break_down()
    assert asked.store.latest("responses", KEY) is None, "no reader sees half of it"
    assert asked.store.read_any("responses", KEY).height == 3
    assert len(list(ledger(asked).requests())) == 3


def test_a_partition_is_opened_when_its_turn_comes_and_completed_by_its_last_answer(sharded: ImportedWorld):
    keys = [f"one|{shard}" for shard in sharded.study.shards]
    done = Publication(table=tables.RESPONSES)
    mine = ledger(sharded, *keys, done=done)
    progress = Progress(total=mine.estimate, what="x", say=lambda _: None)
    assert mine.estimate == len(QUESTIONS)
    opened: list[int] = []
    held: list[GenerationRequest] = []
    for request in mine.requests(progress):
        held.append(request)
        opened.append(len(mine._open))
        if len(held) == 2:  # in flight at most
            mine.take(reply(held.pop(0)))
    assert max(opened) <= 3
    for request in held:
        mine.take(reply(request))
    assert mine._open == {}
    assert mine._asked == {}
    assert progress.total == mine.num_owed == mine.num_taken == len(QUESTIONS)
    assert sorted(done.written) == keys
    assert sum(done.rows.values()) == len(QUESTIONS)
    assert ledger(sharded, *keys).is_empty
    stored = pl.concat(sharded.store.read("responses", key) for key in keys)
    asked_for = pl.concat(sharded.store.read("queries", shard) for shard in sharded.study.shards)
    said = stored.join(asked_for, on="query_id").select("text", pl.col("messages").list.first().struct.field("content"))
    assert [text for text, question in said.iter_rows() if text != question.upper()] == [], "no answer is mis-paired"


def reply(request: GenerationRequest) -> GeneratedResponse:
    return GeneratedResponse(
        response_id=request.response_id,
        text=request.messages[-1][1].upper(),
        finish_reason="stop",
        prompt_tokens=1,
        response_tokens=1,
        engine="e",
    )


def test_shuffled_extended_and_edited_input_owes_its_difference(sharded: ImportedWorld):
    keys = [f"one|{shard}" for shard in sharded.study.shards]

    def ask_all() -> list[str]:
        mine = ledger(sharded, *keys)
        with mine:
            questions = []
            for request in mine.requests():
                questions.append(request.messages[-1][1])
                mine.take(reply(request))
            mine.finish()
        return questions

    assert sorted(ask_all()) == sorted(QUESTIONS)
    sharded.ask(*reversed(QUESTIONS[1:]), "Question zero, edited?", "A new question?")
    sharded.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    assert sorted(ask_all()) == ["A new question?", "Question zero, edited?"]
    assert ask_all() == []
    stored = pl.concat(sharded.store.read("responses", key) for key in keys)
    assert stored.height == stored["response_id"].n_unique() == len(QUESTIONS) + 2


def test_large_and_quick_partitions_are_committed_in_few_parts(asked: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(response_ledger, "RESPONSES_PER_PART", 1)
    mine = ledger(asked)
    with mine:
        for answer in answers(asked, mine):
            mine.take(answer)
        mine.finish()
    commit = asked.store.latest("responses", KEY)
    assert commit is not None
    assert commit.version == 1, "six answers within half a second are one part"
    monkeypatch.setattr(response_ledger, "LARGEST_PART", 2)
    asked.change("NUM_PASSES = 2", "NUM_PASSES = 3")
    asked.answer("one", {question: ["x", "y", "z"] for question in ("Who first?", "Who second?", "Who third?")})
    more = ledger(asked)
    with more:
        for answer in answers(asked, more):
            more.take(answer)
    assert asked.store.read_any("responses", KEY).height >= 8, "no part waits for more than it may hold"
