from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from amr_pipeline_tests.assets.imported_world import ImportedWorld


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
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in a folder of its own, telling nobody."""
    with dg.DagsterInstance.local_temp(
        str(tmp_path_factory.mktemp("instance")), overrides={"telemetry": {"enabled": False}}
    ) as opened:
        yield opened
