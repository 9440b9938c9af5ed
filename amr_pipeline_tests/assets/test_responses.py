"""Responses and what reads them: what is missing stays owed, what was edited is another response."""

import polars as pl

from amr_pipeline.assets.materialization import AFTER_RESPONSES, ORDER
from amr_pipeline.assets.overview import status_table
from amr_pipeline_tests.assets.imported_world import ImportedWorld

KEY = "one|00"


def test_a_pass_that_the_file_lacks_stays_owed_and_is_taken_when_it_comes(world: ImportedWorld):
    world.answer("one", {"Who first?": ["a"], "Who second?": ["c", "d"], "Who third?": ["e, f", "g"]})
    world.materialize()
    assert world.store.read("responses", KEY).height == 5
    assert world.owed("responses") == [KEY]
    with world.session() as session:
        lines = status_table(world.study, session.platform).splitlines()
    (line,) = (line for line in lines if line.startswith("responses"))
    assert line.split()[-2:] == ["1", "1"]
    assert world.materialize() == {"responses": 1}, "asked again, and nothing follows from no news"


def test_an_edited_file_of_responses_is_owed_and_what_was_corrected_is_another_response(world: ImportedWorld):
    world.materialize()
    before = world.store.read("responses", KEY)
    world.answer("one", {"Who first?": ["a", "z"], "Who second?": ["c", "d"], "Who third?": ["e, f", "g"]})
    assert world.owed("responses") == [KEY]
    world.materialize()
    after = world.store.read("responses", KEY)
    assert set(before["response_id"]) <= set(after["response_id"]), "the ledger keeps what was paid for"
    fresh = after.join(before, on="response_id", how="anti")
    assert sorted(fresh["text"]) == ["a", "c", "d", "e, f", "g", "z"]
    rates = world.store.read("difficulty", "00").filter(pl.col("distiller") == "one")["pass_rate"]
    assert sorted(rates) == [0.5, 1.0, 1.0]


def test_an_edited_file_of_queries_is_owed(world: ImportedWorld):
    world.materialize()
    assert world.owed("raw_queries") == []
    world.ask("Who first?", "Who second?", "Who fourth?")
    assert world.owed("raw_queries") == ["s"]
    world.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    assert world.store.read("queries", "00").height == 3


def test_dead_responses_make_no_ngram_frequent(world: ImportedWorld):
    world.change("highest_perplexity=None", "highest_perplexity=None, ngram_tokens=2, ngram_occurrences=2")
    world.answer("one", {"Who first?": ["same words", "x same words"], "Who second?": ["same words y", "z"]})
    world.materialize(assets=AFTER_RESPONSES[:2] + ORDER[:4])
    assert world.store.read("frequent_ngrams", "all")["ngram"].to_list() == ["same words"]
    world.answer("one", {"Who first?": ["same words", "x same words"], "Who second?": ["y", "z"]})
    world.materialize(assets=AFTER_RESPONSES[:2] + ORDER[:4])
    assert world.store.read("frequent_ngrams", "all").is_empty(), "the corrected response is not seen any more"
