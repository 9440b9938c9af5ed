"""An id is found wherever it stands, by its beginning too, and no more is read than has to be."""

import polars as pl
import pytest

from amr_pipeline.assets.row_search import Asked, Match, UnreadableIdError, find, read_asked
from amr_pipeline.engines.commits import Part
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline_tests.assets.imported_world import ImportedWorld


def asked(text: str, recipe: str | None = None) -> Asked:
    return Asked(beginning=text, recipe=recipe)


def found(world: ImportedWorld, text: str, recipe: str | None = None) -> list[Match]:
    return find(world.study, world.store, asked(text, recipe))


def first(world: ImportedWorld, table: str, partition: str, column: str = "response_id") -> str:
    return world.store.read(table, partition)[column].sort()[0]


@pytest.fixture
def partitions_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(table, partition) of every part that is read from now on."""
    reads: list[tuple[str, str]] = []
    read_part = TableStore.read_part

    def reading(self: TableStore, table: str, partition: str, part: Part, columns: object) -> object:
        reads.append((table, partition))
        return read_part(self, table, partition, part, columns)  # type: ignore[arg-type]

    monkeypatch.setattr(TableStore, "read_part", reading)
    return reads


def test_responses_and_queries_are_found_by_id_and_by_its_beginning(finished_world: ImportedWorld):
    response, query = first(finished_world, "responses", "two|00"), first(finished_world, "queries", "00", "query_id")
    for text in (response, response[:8], response[:20]):
        assert found(finished_world, text) == [Match(kind="response", identity=response, partition="two|00")]
    for text in (query, query[:8]):
        assert found(finished_world, text) == [Match(kind="query", identity=query, partition="00")]
    assert found(finished_world, "0" * 32) == found(finished_world, "0" * 8) == []


def test_a_beginning_of_several_ids_is_all_of_them(finished: ImportedWorld):
    frame = finished.store.read("responses", "one|00")
    twin = frame["response_id"][0][:8] + "f" * 24
    more = pl.concat([frame, frame.tail(1).with_columns(response_id=pl.lit(twin))])
    finished.store.write("responses", "one|00", more, fingerprints={})
    assert {match.identity for match in found(finished, twin[:8])} == {twin, frame["response_id"][0]}
    assert [match.identity for match in found(finished, twin)] == [twin], "no slim table knows it"


def test_a_query_names_its_shard_and_only_that_is_read(world: ImportedWorld, partitions_read: list[tuple[str, str]]):
    world.change("NUM_SHARDS = 1", "NUM_SHARDS = 4")
    world.materialize()
    shard = next(shard for shard in world.study.shards if world.store.read("queries", shard).height)
    query = first(world, "queries", shard, "query_id")
    partitions_read.clear()
    assert found(world, query)[0].partition == shard
    assert set(partitions_read) == {("queries", shard)}


def test_a_whole_id_ends_the_search_and_no_text_is_read(
    finished_world: ImportedWorld, partitions_read: list[tuple[str, str]]
):
    response = first(finished_world, "responses", "one|00")
    partitions_read.clear()
    assert len(found(finished_world, response)) == 1
    assert {table for table, _ in partitions_read} == {"queries", "response_quality"}
    assert {key for table, key in partitions_read if table == "response_quality"} == {"one|00"}
    partitions_read.clear()
    assert len(found(finished_world, response[:12])) == 1
    assert ("response_quality", "two|00") in partitions_read, "a beginning may mean another one too"
    assert "responses" not in {table for table, _ in partitions_read}


def test_what_nobody_assessed_or_judged_yet_is_found_in_the_responses_themselves(world: ImportedWorld):
    world.materialize(assets=("raw_queries", "near_duplicates", "queries", "responses"))
    response = first(world, "responses", "two|00")
    assert (
        found(world, response)
        == found(world, response[:8])
        == [Match(kind="response", identity=response, partition="two|00")]
    )


def test_a_distiller_that_the_study_dropped_is_still_found(finished: ImportedWorld):
    response = first(finished, "responses", "two|00")
    finished.change('DISTILLERS = ("one", "two")', 'DISTILLERS = ("one",)')
    assert found(finished, response[:10]) == [Match(kind="response", identity=response, partition="two|00")]


def test_a_dropped_query_is_found(world: ImportedWorld):
    world.ask("Who first?", "See https://example.org for more")
    world.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    query = first(world, "dropped_queries", "00", "query_id")
    assert found(world, query[:9]) == [Match(kind="dropped query", identity=query, partition="00")]


def test_a_row_of_a_subset_is_a_response_only(finished_world: ImportedWorld):
    query, response = first(finished_world, "queries", "00", "query_id"), first(finished_world, "responses", "one|00")
    assert found(finished_world, query, "uneven") == []
    assert [match.kind for match in found(finished_world, response, "uneven")] == ["response"]


def test_what_is_asked_for_is_read_or_refused_with_what_was_wanted(finished_world: ImportedWorld):
    study = finished_world.study
    assert read_asked(" ABCDEF01 ", study) == asked("abcdef01")
    assert read_asked("uneven/abcdef01", study) == asked("abcdef01", "uneven")
    for text in ("abcdef0", "abcdefgh", "a" * 33, "", "uneven/"):
        with pytest.raises(UnreadableIdError, match="wanted 32 hex digits or the first 8"):
            read_asked(text, study)
    with pytest.raises(UnreadableIdError, match="no selection recipe 'odd'; wanted one of uneven"):
        read_asked("odd/abcdef01", study)
