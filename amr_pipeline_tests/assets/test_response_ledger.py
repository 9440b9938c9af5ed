"""The ledger of responses: what is paid for once, whoever else writes, at bounded memory."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.assets import response_ledger
from amr_pipeline.assets.publication import Publication
from amr_pipeline.assets.response_ledger import ResponseLedger
from amr_pipeline.engines.commits import Commit, CommitConflict
from amr_pipeline.engines.imported_responses import imported_responses
from amr_pipeline.responses.budget import Amount, Budget
from amr_pipeline.responses.cost import Cost, EngineTime, noted_cost
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.responses.prices import Prices
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


def test_what_cannot_be_written_hides_no_reason_and_costs_no_other_partition(
    sharded: ImportedWorld, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(response_ledger, "SECONDS_BETWEEN_PARTS", 0.0)
    monkeypatch.setattr(response_ledger, "RESPONSES_PER_PART", 2)
    keys = [f"one|{shard}" for shard in sharded.study.shards]
    mine = ledger(sharded, *keys)
    asked = list(mine.requests())
    by_key: dict[str, list[GenerationRequest]] = {}
    for request in asked:
        by_key.setdefault(mine._asked[request.response_id], []).append(request)
    full, sound = [key for key in keys if len(by_key.get(key, ())) > 2][:2]
    commit = type(sharded.store).commit

    def refused(self: object, record: Commit) -> Commit:
        if record.partition == full:
            raise OSError("disk full")
        return commit(sharded.store, record)

    monkeypatch.setattr(type(sharded.store), "commit", refused)

    def fill() -> None:
        with mine:
            mine.take(reply(by_key[sound][0]))  # not enough for a part
            for request in by_key[full]:
                mine.take(reply(request))

    with pytest.raises(OSError, match="disk full"):
        fill()
    assert sharded.store.read_any("responses", sound).height == 1


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


def reply(request: GenerationRequest, tokens: int = 1) -> GeneratedResponse:
    return GeneratedResponse(
        response_id=request.response_id,
        text=request.messages[-1][1].upper(),
        finish_reason="stop",
        prompt_tokens=1,
        response_tokens=tokens,
        engine="e",
    )


def test_how_often_a_response_was_asked_and_why_in_vain_is_a_part_of_its_row(asked: ImportedWorld):
    mine = ledger(asked, KEY)
    with mine:
        for number, request in enumerate(mine.requests()):
            failed = {"attempts": 3, "last_failure": "HTTP 503"} if number == 1 else {"attempts": 1}
            mine.take(replace(reply(request), **failed))
        mine.finish()
    stored = asked.store.read("responses", KEY)
    assert stored["attempts"].to_list().count(3) == 1
    assert stored.filter(attempts=3)["last_failure"].to_list() == ["HTTP 503"]
    assert stored.filter(attempts=1)["last_failure"].null_count() == stored.height - 1


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
    for pause in ("SECONDS_BETWEEN_PARTS", "SECONDS_PER_PART"):  # that no machine is slow enough for
        monkeypatch.setattr(response_ledger, pause, 3600.0)
    mine = ledger(asked)
    with mine:
        for answer in answers(asked, mine):
            mine.take(answer)
        mine.finish()
    commit = asked.store.latest("responses", KEY)
    assert commit is not None
    assert commit.version == 1, "six answers before the next part is due are one part"
    monkeypatch.setattr(response_ledger, "LARGEST_PART", 2)
    asked.change("NUM_PASSES = 2", "NUM_PASSES = 3")
    asked.answer("one", {question: ["x", "y", "z"] for question in ("Who first?", "Who second?", "Who third?")})
    more = ledger(asked)
    with more:
        for answer in answers(asked, more):
            more.take(answer)
    assert asked.store.read_any("responses", KEY).height >= 8, "no part waits for more than it may hold"


def noted(world: ImportedWorld, key: str, *, complete: bool = True) -> Cost:
    commit = (world.store.latest if complete else world.store.latest_any)("responses", key)
    assert commit is not None
    return noted_cost(commit.notes, world.study.distiller("one").distiller_fingerprint)


def test_what_writing_took_accumulates_over_errors_and_runs(asked: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(response_ledger, "EngineTime", lambda gpus: EngineTime(gpus, lambda: now[0]))

    def run(at_most: int) -> None:
        mine = ResponseLedger(
            asked.study, asked.store, "one", [KEY], Publication(table=tables.RESPONSES), gpus=lambda: 2.0
        )
        with mine:
            for request in mine.requests():
                now[0] += 10.0
                mine.take(reply(request, tokens=7))
                if mine.num_taken == at_most:
                    raise RuntimeError("the engine is gone")
            mine.finish()

    with pytest.raises(RuntimeError, match="engine"):
        run(at_most=2)
    first = Cost(runs=1, responses=2, response_tokens=14, engine_seconds=20.0, gpu_seconds=40.0)
    assert noted(asked, KEY, complete=False) == first, (
        "a part carries its record, so that a kill after it loses nothing"
    )
    with pytest.raises(RuntimeError, match="engine"):
        run(at_most=1)
    run(at_most=99)
    assert noted(asked, KEY) == Cost(runs=3, responses=6, response_tokens=42, engine_seconds=60.0, gpu_seconds=120.0)
    asked.change("NUM_PASSES = 2", "NUM_PASSES = 3")
    run(at_most=99)
    assert noted(asked, KEY) == Cost(runs=4, responses=9, response_tokens=63, engine_seconds=90.0, gpu_seconds=180.0)
    run(at_most=99)
    assert noted(asked, KEY).runs == 4, "a run that found nothing owed took nothing"


def under_budget(world: ImportedWorld, budget: Budget, in_flight: int = 1, tokens: int = 3) -> ResponseLedger:
    """One run over every shard, so many requests in flight, each answer of so many tokens; one is expected."""
    keys = [f"one|{shard}" for shard in world.study.shards]
    mine = ResponseLedger(world.study, world.store, "one", keys, Publication(table=tables.RESPONSES), budget=budget)
    with mine:
        while mine.may_ask():
            held: list[GenerationRequest] = []
            for request in mine.requests():
                held.append(request)
                if len(held) == in_flight:
                    mine.take(reply(held.pop(0), tokens))
            for request in held:
                mine.take(reply(request, tokens))
        mine.finish()
    return mine


def stored(world: ImportedWorld) -> pl.DataFrame:
    return pl.concat(world.store.read("responses", f"one|{shard}") for shard in world.study.shards)


def test_a_budget_stops_in_time_and_the_next_run_goes_on(sharded: ImportedWorld):
    budget = Budget(tokens=13)
    mine = under_budget(sharded, budget)
    assert (mine.num_taken, budget.spent.tokens) == (4, 12), "one token is left, and a fifth may take more"
    assert budget.has_refused
    assert mine.num_owed == len(QUESTIONS), "what was never asked is counted"
    assert stored(sharded).height == 4
    commits = [sharded.store.latest("responses", f"one|{shard}") for shard in sharded.study.shards]
    assert sum(commit.owed for commit in commits if commit) == len(QUESTIONS) - 4
    assert all(commits), "readers find every partition, those without an answer too"
    assert under_budget(sharded, Budget(tokens=16)).num_taken == 5
    last = Budget(tokens=10**6)
    assert under_budget(sharded, last).num_taken == 3
    assert not last.has_refused
    assert stored(sharded)["response_id"].n_unique() == len(QUESTIONS)
    assert ledger(sharded, *(f"one|{shard}" for shard in sharded.study.shards)).is_empty


def test_what_is_in_flight_when_the_budget_ends_is_taken(sharded: ImportedWorld):
    budget = Budget(tokens=6)
    mine = under_budget(sharded, budget, in_flight=5)
    assert mine.num_taken == 5, "the first takes three, and four are in flight at one each"
    assert budget.spent.tokens == 15
    assert stored(sharded).height == 5


def test_what_shorter_answers_leave_is_asked_for_in_the_same_run(sharded: ImportedWorld):
    sharded.change("gpus_per_replica=0", "gpus_per_replica=0, mean_response_tokens=40")
    sharded.change("max_tokens=1)", "max_tokens=50)")
    budget = Budget(tokens=100)
    mine = under_budget(sharded, budget, in_flight=9, tokens=5)
    assert mine.num_taken == len(QUESTIONS), "two fit at once, and what they leave is enough for all"
    assert (budget.spent.tokens, budget.has_refused) == (60, False)


def test_what_another_holds_is_waited_for_and_given_back_by_an_error(sharded: ImportedWorld):
    budget, came = Budget(tokens=12), list[int]()
    done = Publication(table=tables.RESPONSES)
    first = ResponseLedger(sharded.study, sharded.store, "one", ["one|00"], done, budget=budget)
    held = len(list(first.requests()))
    assert held > 0
    others = Amount(tokens=12 - held)
    assert budget.reserve(others), "all of it is in flight"
    second = threading.Thread(target=lambda: came.append(under_budget(sharded, budget, tokens=1).num_taken))
    second.start()
    first.__exit__(RuntimeError("the engine is gone"))
    budget.settle(others, others)
    second.join(60)
    assert came == [held], "as many as were given back"


def test_a_budget_in_money_counts_the_gpus_that_are_held(asked: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(response_ledger, "EngineTime", lambda gpus: EngineTime(lambda: 4.0, lambda: now[0]))
    budget, mine = Budget(money=2.5, prices=Prices(gpu_hours={"": 1.0})), []
    one = ResponseLedger(asked.study, asked.store, "one", [KEY], Publication(table=tables.RESPONSES), budget=budget)
    with one:
        for request in one.requests():
            now[0] += 900.0
            mine.append(request)
            one.take(reply(request))
        assert not one.may_ask()
        one.finish()
    assert len(mine) == 2, "two quarters of an hour of four GPUs, and a third would be too much"
    assert budget.spent.money == 2.0


def test_parts_come_less_often_the_more_there_are(asked: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(response_ledger, "SECONDS_BETWEEN_PARTS", 0.0)
    monkeypatch.setattr(response_ledger, "RESPONSES_PER_PART", 1)
    monkeypatch.setattr(response_ledger, "MANY_PARTS", 2)
    mine = ledger(asked)
    stored = []
    for answer in answers(asked, mine):
        mine.take(answer)
        newest = asked.store.latest_any("responses", KEY)
        stored.append(0 if newest is None else newest.rows)
    assert stored == [1, 2, 3, 3, 3, 3], "after three parts the next one waits for seconds"
    mine.finish()
    assert asked.store.read("responses", KEY).height == 6


def test_answers_that_came_to_nothing_are_not_asked_for_again(sharded: ImportedWorld):
    keys, ends = [f"one|{shard}" for shard in sharded.study.shards], ("looping", "length", "error", "stop")
    mine = ledger(sharded, *keys)
    with mine:
        for place, request in enumerate(mine.requests()):
            text = "" if place % 3 else "text"
            mine.take(replace(reply(request), finish_reason=ends[place % 4], text=text))
        mine.finish()
    rows = stored(sharded)
    assert (set(rows["finish_reason"]), set(rows["text"])) == (set(ends), {"", "text"})
    again = ledger(sharded, *keys)
    assert (again.is_empty, again.estimate, list(again.requests())) == (True, 0, [])
    assert not [key for key in sharded.owed("responses") if key in keys]
    sharded.change("NUM_PASSES = 1", "NUM_PASSES = 2")
    assert len(list(ledger(sharded, *keys).requests())) == len(QUESTIONS), "the second passes, and no first one"


def test_regenerating_is_said_in_the_row_and_leaves_what_was_written_readable(asked: ImportedWorld):
    asked.materialize(assets=("responses",))
    before = asked.store.read("responses", KEY)
    asked.change("gpus_per_replica=0", "gpus_per_replica=0, regeneration=1")
    assert KEY in asked.owed("responses")
    asked.materialize(assets=("responses",))
    after = asked.store.read("responses", KEY)
    fresh = after.join(before, on="response_id", how="anti")
    assert (before.height, fresh.height, after.height) == (6, 6, 12)
    assert set(fresh["distiller_fingerprint"]) == {asked.study.distiller("one").distiller_fingerprint}
    assert ledger(asked).is_empty


def test_an_imported_row_may_say_what_its_model_was_asked_with(asked: ImportedWorld):
    added = 'system_prompt="Think.", prompt_suffixes=(PromptSuffix(category=NO_COMMA, text="Box it."),)'
    asked.change("gpus_per_replica=0", f"gpus_per_replica=0, {added}")
    asked.materialize(assets=("responses",))
    assert asked.store.read("responses", KEY).height == 6
    assert KEY not in asked.owed("responses")
