"""An instance whose database is behind is named, with the command that moves it; PostgreSQL is in test_upgrades."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from amr_pipeline.assets.schema_check import EMBEDDED, check_schema

REPOSITORY = Path(__file__).parent.parent.parent
OLDER = "6b7fb194ff9c"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.get_runs()
        instance.event_log_storage.get_concurrency_keys()
    return tmp_path


def mark(home: Path, name: str, version: str) -> None:
    with closing(sqlite3.connect(home / name)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))


def test_an_instance_of_this_version_is_well_and_one_that_is_not_made_yet_lacks_nothing(home: Path, tmp_path: Path):
    assert all((home / name).is_file() for name in EMBEDDED), "Dagster keeps them elsewhere"
    assert [one.level for one in check_schema(home, {})] == ["ok"]
    assert check_schema(tmp_path / "none", {}) == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_file_that_is_behind_is_named_until_it_is_moved(home: Path, name: str):
    mark(home, name, OLDER)
    (found,) = check_schema(home, {})
    assert (found.level, name in found.found, OLDER in found.found) == ("broken", True, True)
    assert found.fix == f"stop the servers, take a backup, then: DAGSTER_HOME={home} dagster instance migrate"
    program = str(Path(sys.executable).parent / "dagster")
    subprocess.run([program, "instance", "migrate"], env={"DAGSTER_HOME": str(home)}, check=True, capture_output=True)
    assert [one.level for one in check_schema(home, {})] == ["ok"]


def test_a_newer_instance_is_not_to_be_moved(home: Path):
    mark(home, EMBEDDED[0], "ffff00000000")
    (found,) = check_schema(home, {})
    assert (found.level, "does not know" in found.found, "migrate" in found.fix) == ("broken", True, False)


def test_what_other_checks_say_is_not_said_twice(home: Path, free_port: int):
    (home / "dagster.yaml").write_text("storage: [")
    assert check_schema(home, {}) == []
    shutil.copy(REPOSITORY / "docker" / "dagster.yaml", home)
    assert check_schema(home, {}) == []
    away = {"AMR_POSTGRES_HOST": "127.0.0.1", "AMR_POSTGRES_USER": "amr", "AMR_POSTGRES_PASSWORD": "x"}
    text = (home / "dagster.yaml").read_text().replace("db_name:", f"port: {free_port}\n        db_name:")
    (home / "dagster.yaml").write_text(text)
    assert check_schema(home, away) == []
