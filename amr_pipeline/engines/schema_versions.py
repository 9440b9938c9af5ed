"""Which version of its schema a database has, beside the newest that the installed package knows.

Belongs here: reading the mark that alembic leaves in a database; nothing is created or moved. Does not belong here:
what follows from it for MLflow (`mlflow_check`) and for Dagster (`assets.schema_check`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL

PATIENCE_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class SchemaVersion:
    """A database's version and the newest known one.

    Attributes:
        found: what the database says; None: it has no schema yet.
        newest: where the installed migrations end.
        standing: `current` for an empty database too, `older`, or `unknown` to the installed package.
    """

    found: str | None
    newest: str
    standing: Literal["current", "older", "unknown"]


def schema_version(url: URL, migrations: Path) -> SchemaVersion:
    """Ask a database for its version.

    Args:
        url: of the database; an SQLite file has to exist.
        migrations: folder of the package's alembic scripts.

    Raises:
        SQLAlchemyError: it cannot be read.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    arguments = {"timeout": PATIENCE_SECONDS} if is_sqlite else {"connect_timeout": int(PATIENCE_SECONDS)}
    engine = sqlalchemy.create_engine(url, connect_args=arguments)
    try:
        with engine.connect() as connection:
            has_mark = sqlalchemy.inspect(connection).has_table("alembic_version")
            asked = sqlalchemy.text("SELECT version_num FROM alembic_version")
            found = connection.execute(asked).scalar() if has_mark else None
    finally:
        engine.dispose()
    scripts = ScriptDirectory(str(migrations))
    newest = scripts.get_current_head() or ""
    if found in (None, newest):
        return SchemaVersion(found=found, newest=newest, standing="current")
    is_known = found in {revision.revision for revision in scripts.walk_revisions()}
    return SchemaVersion(found=found, newest=newest, standing="older" if is_known else "unknown")
