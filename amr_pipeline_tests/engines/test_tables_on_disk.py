"""Readers see whole partitions or none, on a folder and on S3, whatever dies, races or rots."""

import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.engines.commits import (
    Commit,
    CommitConflict,
    CommitSummary,
    DamagedPart,
    PartitionMissing,
    TableSummary,
)
from amr_pipeline.engines.storage import LocalStorage
from amr_pipeline.engines.tables_on_disk import TableStore

PRINTS = {"rows": "r", "code": "c", "inputs": {}}
TABLE = "near_duplicates"


def frame(*ids: str) -> pl.DataFrame:
    return pl.DataFrame(
        [{"query_id": name, "stands_for_it": "x", "similarity": 0.9} for name in ids],
        schema=tables.NEAR_DUPLICATES.schema,
    )


@pytest.fixture
def store(place: tuple[str, dict[str, object]]) -> TableStore:
    return TableStore(*place)


@pytest.fixture
def local(tmp_path: Path) -> TableStore:
    return TableStore(str(tmp_path / "tables"))


def ids(found: pl.DataFrame) -> list[str]:
    return found["query_id"].to_list()


def part_files(commit: Commit | None) -> list[str]:
    assert commit is not None
    return [f"{TABLE}/all/parts/{part.name}" for part in commit.parts]


# ------------------------------------------------------------------------------------------------ whole or not at all


def test_readers_see_complete_commits_only_and_a_writer_resumes_partial_ones(store: TableStore):
    with pytest.raises(PartitionMissing, match="materialize"):
        store.read(TABLE, "all")
    with store.writer(TABLE, "all", fingerprints=PRINTS) as writer:
        writer.append(frame("a"))
        writer.commit_part()
        writer.append(frame("b"))  # never committed: the writer dies here
    assert store.read(TABLE, "all", missing="empty").is_empty()
    assert store.partitions(TABLE) == []
    assert ids(store.read_any(TABLE, "all")) == ["a"]
    with store.writer(TABLE, "all", fingerprints=PRINTS) as writer:
        writer.append(frame("c"))
        commit = writer.complete(counts={"kept": 2})
    assert ids(store.read(TABLE, "all")) == ["a", "c"]
    assert (commit.state, commit.rows, commit.counts) == ("complete", 2, {"kept": 2})
    assert store.latest(TABLE, "all") == commit
    assert store.partitions(TABLE) == ["all"]


def test_a_partial_commit_after_a_complete_one_does_not_hide_it(store: TableStore):
    store.write(TABLE, "all", frame("a"), fingerprints=PRINTS)
    with store.writer(TABLE, "all", fingerprints=PRINTS) as writer:
        writer.append(frame("b"))
        writer.commit_part()
        assert ids(store.read(TABLE, "all")) == ["a"]
        writer.complete()
    assert ids(store.read(TABLE, "all")) == ["a", "b"]


def test_equal_content_has_equal_digests_however_it_arrived(store: TableStore):
    first = store.write(TABLE, "one", frame("a", "b", "c"), fingerprints=PRINTS)
    with store.writer(TABLE, "two", fingerprints={"rows": "other"}) as writer:
        for name in "cab":
            writer.append(frame(name))
            writer.commit_part()
        second = writer.complete()
    assert first.digest == second.digest
    assert store.digest(TABLE, "one") == first.digest
    assert store.write(TABLE, "three", frame("a", "b"), fingerprints=PRINTS).digest != first.digest


@settings(max_examples=25)
@given(st.permutations("abcdef"), st.lists(st.booleans(), min_size=6, max_size=6))
def test_neither_order_nor_cuts_change_a_digest(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], cuts: list[bool]
):
    store = TableStore(str(tmp_path_factory.mktemp("tables")))
    with store.writer(TABLE, "all", fingerprints=PRINTS) as writer:
        for name, cut in zip(order, cuts, strict=True):
            writer.append(frame(name))
            if cut:
                writer.commit_part()
        commit = writer.complete()
    assert commit.digest == store.write(TABLE, "sorted", frame(*"abcdef"), fingerprints=PRINTS).digest
    assert ids(store.read(TABLE, "all")) == list("abcdef")


def test_writing_the_same_again_leaves_the_commit_and_other_fingerprints_make_a_new_one(store: TableStore):
    first = store.write(TABLE, "all", frame("a"), fingerprints=PRINTS)
    assert store.write(TABLE, "all", frame("a"), fingerprints=PRINTS) == first
    again = store.write(TABLE, "all", frame("a"), fingerprints={**PRINTS, "code": "d"})
    assert (again.version, again.digest) == (first.version + 1, first.digest)
    store.write(TABLE, "all", frame("b"), fingerprints=PRINTS)
    assert [commit.version for commit in store.versions(TABLE, "all")] == [1, 2, 3]
    assert ids(store.read_version(TABLE, "all", 1)) == ["a"]
    with pytest.raises(PartitionMissing, match="4"):
        store.read_version(TABLE, "all", 4)


def test_rows_that_break_the_dictionary_are_not_published(store: TableStore):
    with pytest.raises(ValueError, match="repeated key"):
        store.write(TABLE, "all", frame("a", "a"), fingerprints=PRINTS)
    with pytest.raises(ValueError, match="similarity"):
        store.write(TABLE, "all", frame("a").with_columns(similarity=pl.lit(2.0)), fingerprints=PRINTS)
    with pytest.raises(tables.TableMismatchError):
        store.write(TABLE, "all", frame("a").drop("similarity"), fingerprints=PRINTS)
    assert store.latest(TABLE, "all") is None


def test_summaries_say_of_many_partitions_what_each_newest_complete_commit_says(store: TableStore):
    keys = [f"x|{place:02d}" for place in range(12)]
    for place, key in enumerate(keys[:-1]):
        for version in range(place % 3):
            store.write(TABLE, key, frame(f"{version}"), fingerprints={"rows": f"{key} {version}"})
        if place % 2:
            with store.writer(TABLE, key, fingerprints={"rows": "partial"}) as writer:
                writer.append(frame("z"))
                writer.commit_part()
    store.writer(TABLE, keys[3], fingerprints=PRINTS).complete(owed=7)

    def one_by_one() -> dict[str, CommitSummary]:
        found = {key: store.latest(TABLE, key) for key in keys}
        return {key: CommitSummary.of(commit) for key, commit in found.items() if commit is not None}

    assert store.summary(TABLE, keys).partitions == one_by_one()
    assert store.summary(TABLE, keys[:5]).partitions == {
        key: one for key, one in one_by_one().items() if key in keys[:5]
    }
    assert store.summary("queries", keys) == TableSummary(partitions={}, made_at=None)
    assert store.summary(TABLE, []).partitions == {}
    begun = time.time()
    store.write(TABLE, keys[0], frame("new"), fingerprints={"rows": "new"})
    made_at = store.summary(TABLE, keys).made_at
    assert made_at is not None
    assert abs(made_at - begun) < 60
    assert store.summary(TABLE, keys).partitions == one_by_one(), "what came since is seen"


def test_a_reader_of_an_unfinished_version_goes_on_when_its_writer_completes(
    local: TableStore, monkeypatch: pytest.MonkeyPatch
):
    writer = local.writer(TABLE, "all", fingerprints=PRINTS)
    for name in "abc":
        writer.append(frame(name))
        writer.commit_part()
    read_part = TableStore.read_part

    def completed_first(self: TableStore, *arguments: object) -> pl.DataFrame:
        monkeypatch.setattr(TableStore, "read_part", read_part)
        writer.complete()  # its parts become one, and those of before are gone
        return read_part(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TableStore, "read_part", completed_first)
    assert sorted(ids(local.read_any(TABLE, "all"))) == ["a", "b", "c"]


def test_a_record_is_read_once_and_again_where_everything_was_deleted(
    local: TableStore, monkeypatch: pytest.MonkeyPatch
):
    keys = [f"{place:02d}" for place in range(10)]
    for key in keys:
        local.write(TABLE, key, frame(key), fingerprints=PRINTS)
    read: list[int] = []
    read_each = type(local.files).read_each

    def counted(self: LocalStorage, names: Sequence[str]) -> list[bytes | None]:
        read.append(len(names))
        return read_each(self, names)

    monkeypatch.setattr(LocalStorage, "read_each", counted)
    first = local.summary(TABLE, keys).partitions
    assert TableStore(local.root).summary(TABLE, keys).partitions == first
    local.write(TABLE, keys[4], frame("other"), fingerprints=PRINTS)
    second = local.summary(TABLE, keys).partitions
    assert read == [10, 0, 1]
    assert [key for key in keys if second[key] != first[key]] == [keys[4]]
    shutil.rmtree(local.root)
    time.sleep(0.02)  # of a file's time, the kernel keeps ticks
    local.write(TABLE, keys[0], frame("again"), fingerprints=PRINTS)
    found = local.latest(TABLE, keys[0])
    assert found is not None
    assert local.summary(TABLE, keys).partitions == {keys[0]: CommitSummary.of(found)}


def test_buckets_and_columns_are_read_alone(store: TableStore):
    rows = frame("a", "b").with_columns(stands_for_it=pl.Series(["00", "01"]))
    store.write(TABLE, "x|y/z", rows, fingerprints=PRINTS, bucket_by="stands_for_it")
    assert ids(store.read(TABLE, "x|y/z", bucket="01")) == ["b"]
    assert store.read(TABLE, "x|y/z", columns=["similarity"]).columns == ["similarity"]
    assert store.partitions(TABLE) == ["x|y/z"]


# ------------------------------------------------------------------------------------------------------------- races


def test_of_two_writers_one_wins_and_the_other_changes_nothing(store: TableStore):
    first, second = (store.writer(TABLE, "all", fingerprints=PRINTS) for _ in range(2))
    first.append(frame("a"))
    second.append(frame("b"))
    first.complete()
    with pytest.raises(CommitConflict):
        second.complete()
    assert ids(store.read(TABLE, "all")) == ["a"]


def test_a_writer_that_was_overtaken_leaves_no_version(store: TableStore):
    slow, fast = (store.writer(TABLE, "all", fingerprints=PRINTS) for _ in range(2))
    slow.append(frame("slow"))
    fast.append(frame("a"))
    fast.commit_part()
    fast.append(frame("b"))
    fast.complete()  # prunes version 1, whose name is free again
    with pytest.raises(CommitConflict, match="newer"):
        slow.complete()
    assert [(commit.version, commit.rows) for commit in store.versions(TABLE, "all")] == [(2, 2)]


def test_eight_writers_at_once_have_one_winner(place: tuple[str, dict[str, object]]):
    together = threading.Barrier(8)

    def race(index: int) -> str | None:
        writer = TableStore(*place).writer(TABLE, "all", fingerprints=PRINTS)
        writer.append(frame(str(index)))
        together.wait()
        try:
            writer.complete()
        except CommitConflict:
            return None
        return str(index)

    with ThreadPoolExecutor(8) as pool:
        winners = [name for name in pool.map(race, range(8)) if name is not None]
    assert ids(TableStore(*place).read(TABLE, "all")) == winners
    assert len(winners) == 1


def _race(root: str, name: str, together: "threading.Barrier", outcomes: "multiprocessing.SimpleQueue[str]") -> None:
    writer = TableStore(root).writer(TABLE, "all", fingerprints=PRINTS)
    writer.append(frame(name))
    together.wait()
    try:
        writer.complete()
        outcomes.put("won")
    except CommitConflict:
        outcomes.put("lost")


def test_eight_processes_at_once_have_one_winner(local: TableStore):
    context = multiprocessing.get_context("spawn")
    outcomes, together = context.SimpleQueue(), context.Barrier(8)
    racers = [context.Process(target=_race, args=(local.root, f"q{index}", together, outcomes)) for index in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 8
    assert sorted(outcomes.get() for _ in racers) == ["lost"] * 7 + ["won"]
    assert local.read(TABLE, "all").height == 1


# ------------------------------------------------------------------------------------------------------------ damage

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flip in a page": lambda content: content[:200] + bytes([content[200] ^ 0xFF]) + content[201:],
    "flip in the last byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "shorten": lambda content: content[:-8],
    "empty": lambda content: b"",
    "lengthen": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed(store: TableStore, damage: str):
    (name,) = part_files(store.write(TABLE, "all", frame(*(f"q{i}" for i in range(500))), fingerprints=PRINTS))
    store.files.put(name, DAMAGES[damage](store.files.read(name)))
    with pytest.raises(DamagedPart, match="materialize"):
        store.read(TABLE, "all")
    assert store.verify(TABLE, "all") == [name.rsplit("/", 1)[1]]


def test_a_part_that_is_gone_is_noticed(store: TableStore):
    (name,) = part_files(store.write(TABLE, "all", frame("a"), fingerprints=PRINTS))
    assert store.verify(TABLE, "all") == []
    store.files.remove(name)
    with pytest.raises(DamagedPart, match="gone"):
        store.read(TABLE, "all")
    assert store.verify(TABLE, "all") == [name.rsplit("/", 1)[1]]


def test_neither_pages_nor_headers_nor_footer_can_change_unnoticed(local: TableStore):
    (name,) = part_files(local.write(TABLE, "all", frame("a", "b", "c"), fingerprints=PRINTS))
    path = Path(local.root) / name
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with pytest.raises(DamagedPart):
            local.read(TABLE, "all")


# ----------------------------------------------------------------------------------------------------------- leftovers


def test_orphans_are_invisible_and_collected_when_old(store: TableStore):
    store.write(TABLE, "all", frame("a"), fingerprints=PRINTS)
    writer = store.writer(TABLE, "all", fingerprints=PRINTS, replace=True)
    writer.append(frame("b"))
    writer._flush()
    assert ids(store.read(TABLE, "all")) == ["a"]
    assert store.collect_garbage(3600) == 0
    assert store.collect_garbage(-60) == 1
    assert store.collect_garbage(-60) == 0
    assert ids(store.read(TABLE, "all")) == ["a"]
    assert store.verify(TABLE, "all") == []


def test_parts_of_older_versions_and_of_a_resumable_writer_are_not_garbage(store: TableStore):
    store.write(TABLE, "all", frame("a"), fingerprints=PRINTS)
    store.write(TABLE, "all", frame("b"), fingerprints=PRINTS)
    with store.writer(TABLE, "all", fingerprints=PRINTS) as writer:
        writer.append(frame("c"))
        writer.commit_part()
    assert store.collect_garbage(-60) == 0
    assert ids(store.read_version(TABLE, "all", 1)) == ["a"]
    assert sorted(ids(store.read_any(TABLE, "all"))) == ["b", "c"]


def test_unfinished_files_are_collected(local: TableStore):
    local.write(TABLE, "all", frame("a"), fingerprints=PRINTS)
    for folder in ("parts", "commits"):
        (Path(local.root) / TABLE / "all" / folder / ".unfinished-0").write_bytes(b"half")
    assert ids(local.read(TABLE, "all")) == ["a"]
    assert local.collect_garbage(-60) == 2


def test_completing_drops_partial_commits_and_the_parts_they_alone_named(store: TableStore):
    with store.writer(TABLE, "all", fingerprints=PRINTS) as writer:
        for name in "abc":
            writer.append(frame(name))
            writer.commit_part()
        writer.complete()
    assert list(store.files.names(f"{TABLE}/all/commits")) == ["00000004.json"]
    assert len(store.files.names(f"{TABLE}/all/parts")) == 1


def test_a_full_disk_leaves_the_old_version(store: TableStore, monkeypatch: pytest.MonkeyPatch):
    store.write(TABLE, "all", frame("a"), fingerprints=PRINTS)

    def full(name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    for operation in ("put", "create"):
        with monkeypatch.context() as disk:
            disk.setattr(store.files, operation, full)
            with pytest.raises(OSError, match="No space"):
                store.write(TABLE, "all", frame("b"), fingerprints=PRINTS)
        assert ids(store.read(TABLE, "all")) == ["a"]


def test_columns_new_in_the_dictionary_are_null_in_older_parts(local: TableStore, monkeypatch: pytest.MonkeyPatch):
    local.write(TABLE, "all", frame("a"), fingerprints=PRINTS)
    wider = replace(
        tables.NEAR_DUPLICATES,
        columns=(*tables.NEAR_DUPLICATES.columns, replace(tables.NEAR_DUPLICATES.columns[1], name="later")),
    )
    monkeypatch.setitem(tables.TABLES, TABLE, wider)
    assert local.read(TABLE, "all")["later"].to_list() == [None]
