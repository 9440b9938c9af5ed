"""In which order a ledger asks: longest first where all is asked, a random sample where a budget ends it."""

import pytest

from amr_pipeline import tables
from amr_pipeline.assets.publication import Publication
from amr_pipeline.assets.response_ledger import ResponseLedger
from amr_pipeline.queries.identity import query_id
from amr_pipeline.responses.budget import Budget
from amr_pipeline_tests.assets.imported_world import ImportedWorld

QUESTIONS = tuple(f"Question {number}?" for number in range(12))


@pytest.fixture
def measured(world: ImportedWorld) -> ImportedWorld:
    """Twelve questions in four shards; what `two` wrote of each has another length, which its id does not tell."""
    world.change("NUM_SHARDS = 1", "NUM_SHARDS = 4")
    world.change("NUM_PASSES = 2", "NUM_PASSES = 1")
    world.ask(*QUESTIONS)
    world.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    world.answer("two", {question: ["word " * (9 * place % 13 + 1)] for place, question in enumerate(QUESTIONS)})
    world.materialize(assets=("responses",), only=[f"two|{shard}" for shard in world.study.shards])
    return world


def asked_in_each_shard(world: ImportedWorld, **settings: object) -> list[list[tuple[int, str]]]:
    """Length of what `two` wrote and id of each query that `one` is asked, in the order of requests."""
    found = []
    for shard in world.study.shards:
        wrote = world.store.read("responses", f"two|{shard}")
        known = {query: (tokens, query) for query, tokens in wrote.select("query_id", "response_tokens").iter_rows()}
        mine = ResponseLedger(
            world.study, world.store, "one", [f"one|{shard}"], Publication(table=tables.RESPONSES), **settings
        )  # type: ignore[arg-type]
        asked = [query_id([{"role": role, "content": text} for role, text in one.messages]) for one in mine.requests()]
        found.append([known[query] for query in asked])
    assert sum(map(len, found)) == len(QUESTIONS)
    return found


def test_requests_go_out_longest_first_where_everything_is_asked(measured: ImportedWorld):
    found = asked_in_each_shard(measured)
    assert [[tokens for tokens, _ in shard] for shard in found] == [
        sorted((tokens for tokens, _ in shard), reverse=True) for shard in found
    ]
    assert found != asked_in_each_shard(measured, is_limited=True)


@pytest.mark.parametrize(
    "settings",
    [{"budget": Budget(tokens=10**6)}, {"budget": Budget(money=1e6)}, {"is_limited": True}],
    ids=["tokens", "money", "somebody else's"],
)
def test_where_a_budget_may_end_the_run_its_beginning_is_a_random_sample(
    measured: ImportedWorld, settings: dict[str, object]
):
    found = asked_in_each_shard(measured, **settings)
    assert [[query for _, query in shard] for shard in found] == [
        sorted(query for _, query in shard) for shard in found
    ]
