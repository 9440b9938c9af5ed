"""What a writer goes on from, what it refuses, and what it says is still due."""

from pathlib import Path

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.engines.commits import CommitConflict
from amr_pipeline.engines.tables_on_disk import TableStore

PRINTS = {"rows": "r", "code": "c", "inputs": {}}
TABLE = "near_duplicates"


def frame(*ids: str) -> pl.DataFrame:
    rows = [{"query_id": name, "stands_for_it": "x", "similarity": 0.9} for name in ids]
    return pl.DataFrame(rows, schema=tables.NEAR_DUPLICATES.schema)


@pytest.fixture
def store(place: tuple[str, dict[str, object]]) -> TableStore:
    return TableStore(*place)


@pytest.fixture
def local(tmp_path: Path) -> TableStore:
    return TableStore(str(tmp_path / "tables"))


def ids(found: pl.DataFrame) -> list[str]:
    return found["query_id"].to_list()


def test_a_key_that_is_there_already_is_refused_before_it_is_durable(local: TableStore):
    with local.writer(TABLE, "all", fingerprints=PRINTS) as writer:
        for name in "ab":
            writer.append(frame(name))
            writer.commit_part()
        writer.append(frame("c", "a"))
        with pytest.raises(ValueError, match="'repeated key': 1"):
            writer.commit_part()
    with local.writer(TABLE, "all", fingerprints=PRINTS) as resumed:
        resumed.append(frame("b"))
        with pytest.raises(ValueError, match="repeated key"):
            resumed.complete()
        resumed.append(frame("c"))
        resumed.complete()
    assert ids(local.read(TABLE, "all")) == ["a", "b", "c"]


def test_a_writer_that_replaces_may_write_the_same_keys_again(store: TableStore):
    store.write(TABLE, "all", frame("a", "b"), fingerprints=PRINTS)
    with store.writer(TABLE, "all", fingerprints=PRINTS, replace=True) as writer:
        assert ids(writer.found()) == ["a", "b"]
        writer.append(frame("b"))
        writer.commit_part()
        writer.append(frame("b"))
        with pytest.raises(ValueError, match="repeated key"):
            writer.commit_part()
        writer.complete()
    assert ids(store.read(TABLE, "all")) == ["b"]


def test_a_writer_goes_on_from_what_it_found_even_when_another_one_commits(store: TableStore):
    first = store.writer(TABLE, "all", fingerprints=PRINTS)
    with store.writer(TABLE, "all", fingerprints=PRINTS) as second:
        second.append(frame("a"))
        second.commit_part()
    assert first.found(["query_id"]).is_empty()
    assert ids(store.writer(TABLE, "all", fingerprints=PRINTS).found(["query_id"])) == ["a"]
    first.append(frame("a"))
    with pytest.raises(CommitConflict):
        first.commit_part()
    with store.writer(TABLE, "all", fingerprints=PRINTS) as resumed:
        assert ids(resumed.found()) == ["a"]
        resumed.complete()
    assert ids(store.read(TABLE, "all")) == ["a"]


def test_rows_still_due_are_on_the_record_and_paying_them_is_a_new_version(store: TableStore):
    writer = store.writer(TABLE, "all", fingerprints=PRINTS)
    writer.append(frame("a"))
    assert writer.complete(owed=2).owed == 2
    again = store.writer(TABLE, "all", fingerprints=PRINTS).complete(owed=2)
    settled = store.writer(TABLE, "all", fingerprints=PRINTS).complete()
    assert (again.version, settled.version, settled.owed) == (1, 2, 0)


def test_every_version_notes_its_own_and_a_writer_finds_the_last_ones(store: TableStore):
    writer = store.writer(TABLE, "all", fingerprints=PRINTS)
    assert writer.found_notes == {}
    writer.append(frame("a"))
    writer.commit_part({"took": 1})
    resumed = store.writer(TABLE, "all", fingerprints=PRINTS)
    assert resumed.found_notes == {"took": 1}
    resumed.append(frame("b"))
    resumed.commit_part()
    assert store.writer(TABLE, "all", fingerprints=PRINTS).found_notes == {}
