import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from amr_pipeline.engines import tables_on_disk
from amr_pipeline_tests.assets.imported_world import ImportedWorld


@contextmanager
def undone(folder: Path) -> Iterator[None]:
    """Whatever the block changes in a folder is as it was afterwards, with the times of its files.

    In the same place, since rows of a study hold the paths that they read.
    """
    kept = folder.with_name(f"{folder.name}-kept")
    shutil.copytree(folder, kept)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)
        # Names of records come again with other content; what this process remembers by them is of another time.
        with tables_on_disk._remembering:
            tables_on_disk._seen.clear()


def _asked_world(folder: Path) -> ImportedWorld:
    made = ImportedWorld(folder)
    made.ask("Who first?", "Who second?", "Who third?")
    made.answer("one", {"Who first?": ["a", "a, b"], "Who second?": ["c", "d"], "Who third?": ["e, f", "g"]})
    made.answer("two", {"Who first?": ["h", "i"], "Who second?": ["j, k", "l, m"], "Who third?": ["n", "o, p"]})
    return made


@pytest.fixture
def world(tmp_path: Path) -> ImportedWorld:
    """Three questions with two responses each, by two distillers; nothing is materialized."""
    return _asked_world(tmp_path)


@pytest.fixture(scope="session")
def finished_world(tmp_path_factory: pytest.TempPathFactory) -> ImportedWorld:
    """The same with everything materialized, for tests that only look at it."""
    made = _asked_world(tmp_path_factory.mktemp("finished"))
    made.materialize()
    return made


@pytest.fixture
def finished(finished_world: ImportedWorld) -> Iterator[ImportedWorld]:
    """The same for a test that changes it; what it changes is undone."""
    with undone(finished_world.folder):
        yield finished_world


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory; where one has to be on disk, the test makes its own."""
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened
