"""Only responses that today's study expects are counted, though the ledger keeps all."""

import polars as pl

from amr_pipeline_tests.assets.imported_world import ImportedWorld


def graded(world: ImportedWorld) -> dict[str, int]:
    """Decided responses by question, of both distillers."""
    texts = {
        row["query_id"]: row["messages"][0]["content"]
        for row in world.store.read("raw_queries", "s").iter_rows(named=True)
    }
    joint = world.store.read("difficulty", "00").filter(pl.col("distiller") == "joint")
    return {texts[query]: count for query, count in joint.select("query_id", "num_responses").iter_rows()}


def test_a_query_that_was_dropped_and_passes_that_were_given_up_do_not_count(finished: ImportedWorld):
    assert graded(finished) == {"Who first?": 4, "Who second?": 4, "Who third?": 4}
    third = finished.store.read("subsets", "uneven")
    finished.ask("Who first?", "Who second?", "Who third? See https://example.org/x")
    finished.materialize()
    assert graded(finished) == {"Who first?": 4, "Who second?": 4}
    assert finished.store.read("subsets", "uneven").height < third.height
    finished.change("NUM_PASSES = 2", "NUM_PASSES = 1")
    finished.materialize()
    assert graded(finished) == {"Who first?": 2, "Who second?": 2}
    assert finished.store.read("subsets", "uneven").is_empty(), "one pass does not vary"
    assert finished.store.read("responses", "one|00").height == 6, "what was paid for stays"
    assert finished.owed("difficulty") == finished.owed("subsets") == finished.owed("release") == []
