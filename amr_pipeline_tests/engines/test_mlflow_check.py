"""A tracking store that cannot be used is found and named, and what the finding says to do makes it well."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from alembic import command
from mlflow.store.db.utils import _get_alembic_config, _upgrade_db
from mlflow.store.tracking.dbmodels.initial_models import Base

from amr_pipeline.engines.mlflow_check import check_mlflow
from amr_pipeline.report.findings import Finding

EARLIEST = "451aebb31d03"
"""The first revision of MLflow's own schema."""


def looked(uri: str) -> Finding:
    (found,) = check_mlflow(uri)
    return found


def test_a_store_that_is_not_there_yet_is_well_and_stays_unmade(tmp_path: Path):
    assert looked(f"sqlite:///{tmp_path}/mlflow.db").level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_an_older_schema_is_broken_until_it_is_upgraded(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    command.upgrade(_get_alembic_config(uri), EARLIEST)
    found = looked(uri)
    assert (found.level, f"older schema {EARLIEST}" in found.found) == ("broken", True)
    assert found.fix == f"take a backup, then: mlflow db upgrade {uri}"
    _upgrade_db(engine)  # what `mlflow db upgrade` calls
    engine.dispose()
    assert looked(uri).level == "ok"


def test_a_schema_from_the_future_is_broken_and_no_upgrade_is_advised(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('ffff00000000')")
    found = looked(f"sqlite:///{tmp_path}/mlflow.db")
    assert (found.level, "does not know" in found.found) == ("broken", True)
    assert "upgrade" in found.fix
    assert "mlflow db upgrade" not in found.fix


def test_a_file_that_is_no_database_is_broken(tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("not a database, though long enough to be looked at as one" * 20)
    found = looked(f"sqlite:///{tmp_path}/mlflow.db")
    assert (found.level, "not a database" in found.found) == ("broken", True)
    (tmp_path / "mlflow.db").unlink()
    assert looked(f"sqlite:///{tmp_path}/mlflow.db").level == "ok"


@pytest.mark.parametrize("uri", ["nonsense+driver://host/db", "://"])
def test_an_address_that_names_no_store_is_broken(uri: str):
    assert looked(uri).level == "broken"


def test_a_database_that_does_not_answer_is_broken_and_its_password_is_not_shown(free_port: int):
    found = looked(f"postgresql+psycopg2://mlflow:canary-0123@127.0.0.1:{free_port}/mlflow")
    assert (found.level, "cannot be read" in found.found) == ("broken", True)
    assert "MLFLOW_TRACKING_URI" in found.fix
    assert "canary" not in str(found)


# ----------------------------------------------------------------------------------------------------------- servers


class Answers(BaseHTTPRequestHandler):
    """/health and /version as told."""

    told: dict[str, tuple[int, str]]

    def do_GET(self) -> None:
        status, body = self.told.get(self.path, (404, "nothing"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        """Nothing to say."""


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, tuple[int, str]]]]:
    """The address of a server, and what it answers by path; at first as MLflow does."""
    told = {"/health": (200, "OK"), "/version": (200, mlflow.__version__)}
    listener = HTTPServer(("127.0.0.1", 0), type("Told", (Answers,), {"told": told}))
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}", told
    listener.shutdown()
    thread.join()
    listener.server_close()


def test_a_server_is_well_when_it_answers_as_mlflow(server: tuple[str, dict[str, tuple[int, str]]]):
    uri, told = server
    assert looked(uri).level == "ok"
    told["/version"] = (200, "1.30.0")
    assert (looked(uri).level, "MLflow 1.30.0" in looked(uri).found) == ("warning", True)
    told["/health"] = (403, "Invalid Host header")
    assert (looked(uri).level, "--allowed-hosts" in looked(uri).fix) == ("broken", True)
    told["/health"] = (200, "<html>something else</html>")
    assert (looked(uri).level, "not as MLflow does" in looked(uri).found) == ("broken", True)


def test_a_server_that_does_not_answer_is_broken(free_port: int):
    found = looked(f"http://user:canary-0123@127.0.0.1:{free_port}")
    assert (found.level, f"nothing answers at 127.0.0.1:{free_port}" in found.found) == ("broken", True)
    assert "canary" not in str(found)
