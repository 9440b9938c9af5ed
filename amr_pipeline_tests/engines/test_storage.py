import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from amr_pipeline.engines.commits import CommitConflict
from amr_pipeline.engines.storage import LocalStorage, ObjectStorage, Storage, open_storage
from amr_pipeline.engines.tables_on_disk import TableStore


@pytest.fixture
def files(place: tuple[str, dict[str, object]]) -> Storage:
    return open_storage(*place)


def test_create_wins_once_and_put_replaces(files: Storage):
    assert files.create("a/b", b"1")
    assert not files.create("a/b", b"2")
    assert files.read("a/b") == b"1"
    files.put("a/b", b"3")
    assert files.read("a/b") == b"3"
    files.put("a/b", b"")
    assert files.read("a/b") == b""


def test_names_are_files_and_folders_are_folders(files: Storage):
    assert files.names("none") == {}
    assert files.folders("none") == []
    for name in ("t/x.json", "t/y.json", "t/p/parts/z", "t/a%7Cb/z"):
        files.put(name, b"1")
    assert sorted(files.names("t")) == ["x.json", "y.json"]
    assert files.folders("t") == ["a%7Cb", "p"]
    assert all(changed > 1_700_000_000 for changed in files.names("t").values())


def test_many_names_are_listed_and_many_files_read_together(files: Storage):
    assert files.names_below("t") == {}
    assert files.read_each([]) == []
    names = [f"t/p%7C{place:03d}/commits/1.json" for place in range(150)]
    for place, name in enumerate(names):
        files.put(name, str(place).encode())
    files.put("t/x.json", b"x")
    files.put("tt/y.json", b"y")
    listed = files.names_below("t")
    assert sorted(listed) == sorted([name.removeprefix("t/") for name in names] + ["x.json"])
    assert all(changed > 1_700_000_000 for changed in listed.values())
    wanted: list[bytes | None] = [str(place).encode() for place in range(150)]
    assert files.read_each([*names, "t/none", "t/x.json"]) == [*wanted, None, b"x"]


def test_what_is_removed_is_gone_and_may_be_removed_again(files: Storage):
    files.put("a/b", b"1")
    files.remove("a/b")
    files.remove("a/b")
    files.remove("never/there")
    with pytest.raises(FileNotFoundError):
        files.read("a/b")
    assert files.create("a/b", b"2")


def test_of_many_creators_exactly_one_wins_and_its_bytes_stay(place: tuple[str, dict[str, object]]):
    together = threading.Barrier(8)

    def create(index: int) -> bool:
        mine = open_storage(*place)
        together.wait()
        return mine.create("race/one", str(index).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert open_storage(*place).read("race/one") == str(won.index(True)).encode()


def test_a_root_says_which_storage_it_is(tmp_path: Path):
    assert isinstance(open_storage(str(tmp_path)), LocalStorage)
    open_storage(f"file://{tmp_path}").put("a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert isinstance(open_storage("memory://root"), ObjectStorage)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = LocalStorage(tmp_path)
    files.put("a", b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for write in (files.put, files.create):
        with pytest.raises(OSError, match="No space"):
            write("a", b"new")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert files.read("a") == b"old"


def test_losing_leaves_no_temporary_file(tmp_path: Path):
    files = LocalStorage(tmp_path)
    assert [files.create("a", b"1"), files.create("a", b"2")] == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_that_come_and_go_hide_no_file_that_stays(tmp_path: Path):
    files = LocalStorage(tmp_path)
    files.put("folder/stays", b"1")
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            files.create("folder/stays", b"2")

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(come_and_go) for _ in range(4)]
        missed = sum("stays" not in files.names("folder") for _ in range(2000))
        done.set()
        for writer in writers:
            writer.result()
    assert not missed


class LostReplies:
    """A store whose first reply to a write is lost, and whose client therefore writes a second time."""

    def __init__(self, files: object, refusal: OSError) -> None:
        self._files, self._refusal = files, refusal

    def __getattr__(self, name: str) -> object:
        return getattr(self._files, name)

    def pipe_file(self, path: str, content: bytes, mode: str = "overwrite") -> None:
        if mode != "create" or not self._files.exists(path):  # type: ignore[attr-defined]
            self._files.pipe_file(path, content)  # type: ignore[attr-defined]
        if mode == "create":
            raise self._refusal


REFUSALS = [
    FileExistsError("a/b"),
    OSError("An error occurred (PreconditionFailed) when calling the PutObject operation"),
    OSError("An error occurred (ConditionalRequestConflict) when calling the PutObject operation"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: str(error)[19:40])
def test_a_write_whose_reply_was_lost_is_not_taken_for_anothers(refusal: OSError, tmp_path: Path):
    files = open_storage(f"memory://lost/{tmp_path.name}")
    files._files = LostReplies(files._files, refusal)  # type: ignore[attr-defined]
    assert files.create("a/b", b"mine")
    assert not files.create("a/b", b"theirs")
    assert files.read("a/b") == b"mine"


def test_a_commit_whose_reply_was_lost_stands_and_equal_content_of_another_writer_loses(tmp_path: Path):
    store = TableStore(f"memory://lost/{tmp_path.name}")
    store.files._files = LostReplies(store.files._files, REFUSALS[0])  # type: ignore[attr-defined]
    first, second = (store.writer("near_duplicates", "all", fingerprints={}) for _ in range(2))
    first.complete()
    with pytest.raises(CommitConflict):
        second.complete()
    assert len(store.versions("near_duplicates", "all")) == 1
