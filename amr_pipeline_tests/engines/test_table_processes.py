"""Processes that use tables: one ends as soon as it has read, one finds the disk full, one is killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.engines.tables_on_disk import TableStore

TABLE = "near_duplicates"


@pytest.fixture
def local(tmp_path: Path) -> TableStore:
    return TableStore(str(tmp_path / "tables"))


LEFT_BY_A_READ = """
import sys, time
from contextlib import suppress
from pathlib import Path
from amr_pipeline.engines.tables_on_disk import TableStore

def threads() -> dict[str, str]:
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it may end between being listed and being looked at
            found[folder.name] = (folder / "comm").read_text()
    return found

def of_arrow() -> list[str]:
    # Threads of Arrow, unlike those of polars and its allocator, have the program's own name.
    name = Path("/proc/self/comm").read_text()
    return [one for one, own in threads().items() if own == name and one not in before]

store, before = TableStore(sys.argv[1]), threads().keys()
assert store.read("near_duplicates", "all").height == 1000
deadline = time.monotonic() + 30
while of_arrow() and time.monotonic() < deadline:  # those of polars name themselves late; Arrow's stay as they are
    time.sleep(0.05)
print(len(of_arrow()))
"""


def test_a_process_may_end_as_soon_as_it_has_read(local: TableStore):
    rows = [{"query_id": str(place), "stands_for_it": "x", "similarity": 0.9} for place in range(1000)]
    local.write(TABLE, "all", pl.DataFrame(rows, schema=tables.NEAR_DUPLICATES.schema), fingerprints={})
    ended = subprocess.run(
        [sys.executable, "-c", LEFT_BY_A_READ, local.root], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "0", "a thread of Arrow that still lets go of a part aborts a process that ends"


ON_A_SMALL_DISK = """
import errno, os, sys
from pathlib import Path
import polars as pl
from amr_pipeline import tables
from amr_pipeline.engines.tables_on_disk import TableStore

def rows(name, size):
    found = [{"query_id": f"{name}{place}", "stands_for_it": os.urandom(500).hex(), "similarity": 0.9} for place in range(size)]
    return pl.DataFrame(found, schema=tables.NEAR_DUPLICATES.schema)

store, ballast = TableStore(sys.argv[1]), Path(sys.argv[1], "ballast")
store.write("near_duplicates", "all", rows("a", 10), fingerprints={})
ballast.write_bytes(bytes(700_000))
refused = []
for attempt in range(3):  # what a refused attempt left behind must not add up
    try:
        store.write("near_duplicates", "all", rows("b", 1000), fingerprints={})
    except OSError as error:
        refused.append(error.errno)
assert refused == [errno.ENOSPC] * 3, refused
assert store.read("near_duplicates", "all")["query_id"].to_list() == [f"a{place}" for place in range(10)]
assert store.verify("near_duplicates", "all") == []
store.write("near_duplicates", "small", rows("c", 10), fingerprints={})
ballast.unlink()
store.write("near_duplicates", "all", rows("b", 1000), fingerprints={})
assert store.read("near_duplicates", "all").height == 1000
"""


def is_boxed() -> bool:
    return subprocess.run(["bwrap", "--dev-bind", "/", "/", "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(shutil.which("bwrap") is None or not is_boxed(), reason="no bubblewrap makes a small disk here")
def test_a_disk_that_is_really_full_leaves_the_old_version_and_nothing_of_the_new(tmp_path: Path):
    box = ["bwrap", "--dev-bind", "/", "/", "--size", "1000000", "--tmpfs", str(tmp_path)]
    ended = subprocess.run(
        [*box, sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


WRITER = """
import json, sys, polars as pl
from amr_pipeline import tables
from amr_pipeline.engines.tables_on_disk import TableStore
store = TableStore(sys.argv[1], json.loads(sys.argv[2]))
for version in range(10_000):
    with store.writer("near_duplicates", "all", fingerprints={"rows": str(version)}, replace=True) as writer:
        for part in range(3):
            rows = [{"query_id": f"{version}-{part}-{i}", "stands_for_it": f"{sys.argv[3]} {version}", "similarity": 0.5} for i in range(100)]
            writer.append(pl.DataFrame(rows, schema=tables.NEAR_DUPLICATES.schema))
            writer.commit_part()
        writer.complete()
    if version == 0:
        print("committed once", flush=True)
"""


@pytest.mark.soak
def test_kill_9_leaves_the_old_version_or_the_new_one(place: tuple[str, dict[str, object]]):
    root, options = place
    store, draw, versions = TableStore(root, options), random.Random(3), []
    for life in range(100 if os.environ.get("AMR_SOAK") else 3 if options else 10):
        command = [sys.executable, "-c", WRITER, root, json.dumps(options), str(life)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"committed once\n"
            time.sleep(draw.uniform(0.0, 0.2))
            writer.send_signal(signal.SIGKILL)
        seen = store.read(TABLE, "all")
        assert seen.height == 300
        (label,) = seen["stands_for_it"].unique()
        assert label.startswith(f"{life} ")  # what this life committed before it said so is not lost
        assert store.verify(TABLE, "all") == []
        versions.append(len(store.versions(TABLE, "all")))
    assert versions == sorted(set(versions))
    store.collect_garbage(-60)
    assert store.verify(TABLE, "all") == []
