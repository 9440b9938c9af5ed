"""A database's version is compared with the migrations that are installed, and nothing in it changes."""

from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from amr_pipeline.engines.schema_versions import schema_version

MIGRATIONS = Path(mlflow.__file__).parent / "store" / "db_migrations"


@pytest.mark.parametrize(
    ("upgraded_to", "standing"), [("451aebb31d03", "older"), ("heads", "current")], ids=["earliest", "newest"]
)
def test_a_database_stands_where_its_migrations_left_it(upgraded_to: str, standing: str, tmp_path: Path):
    url = make_url(f"sqlite:///{tmp_path}/some.db")
    engine = sqlalchemy.create_engine(url)
    Base.metadata.create_all(engine)
    command.upgrade(_get_alembic_config(str(url)), upgraded_to)
    engine.dispose()
    before = (tmp_path / "some.db").read_bytes()
    found = schema_version(url, MIGRATIONS)
    assert found.standing == standing
    assert (found.found == found.newest) == (standing == "current")
    assert (tmp_path / "some.db").read_bytes() == before


def test_an_empty_database_lacks_nothing_and_one_of_the_future_is_not_known(tmp_path: Path):
    url = make_url(f"sqlite:///{tmp_path}/some.db")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        empty = schema_version(url, MIGRATIONS)
        connection.execute(sqlalchemy.text("CREATE TABLE alembic_version (version_num TEXT)"))
        connection.execute(sqlalchemy.text("INSERT INTO alembic_version VALUES ('ffff00000000')"))
    engine.dispose()
    assert (empty.found, empty.standing) == (None, "current")
    assert schema_version(url, MIGRATIONS).standing == "unknown"


def test_what_is_no_database_raises(tmp_path: Path):
    (tmp_path / "some.db").write_text("not a database, though long enough to be looked at as one" * 20)
    with pytest.raises(SQLAlchemyError):
        schema_version(make_url(f"sqlite:///{tmp_path}/some.db"), MIGRATIONS)
