"""Whether the tracking store can be used: reachable, and of the schema that this MLflow knows.

Nothing is created or migrated: MLflow makes an embedded store when it is first used.

Belongs here: asking a tracking store. Does not belong here: runs and metrics (`mlflow_runs`).
"""

import http.client
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from amr_pipeline.engines.schema_versions import SchemaVersion, schema_version
from amr_pipeline.report.findings import Finding, broken, ok, warning

CHECK = "mlflow"
PATIENCE_SECONDS = 4.0

_FIX_ADDRESS = "start it, or set MLFLOW_TRACKING_URI to where it is"


def check_mlflow(uri: str) -> list[Finding]:
    """Look at a tracking store: a server, a database, or a folder."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        return [_server(uri)]
    if scheme == "file" or "://" not in uri:
        return [_folder(Path(uri.removeprefix("file://")))]
    try:
        url = make_url(uri)
        return [_database(url)]
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        return [
            broken(
                CHECK,
                f"MLFLOW_TRACKING_URI names no store that can be opened: {type(error).__name__}",
                wanted="sqlite:///FILE, postgresql+psycopg2://..., or http://HOST:PORT",
                fix="set MLFLOW_TRACKING_URI, or unset it for SQLite under AMR_HOME",
            )
        ]


def _database(url: URL) -> Finding:
    shown = url.render_as_string(hide_password=True)
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite and url.database and not Path(url.database).exists():
        return ok(CHECK, f"{shown} is made when it is first used")
    try:
        version = schema_version(url, Path(mlflow.__file__).parent / "store" / "db_migrations")
    except SQLAlchemyError as error:
        said = str(error.__cause__ or error).strip().splitlines()
        return broken(
            CHECK,
            f"{shown} cannot be read: {said[0] if said else type(error).__name__}",
            wanted="a database that MLflow can open",
            fix=_FIX_ADDRESS if not is_sqlite else "move the file away, or restore it from a backup",
        )
    return _schema(shown, version)


def _schema(shown: str, version: SchemaVersion) -> Finding:
    found, newest = version.found, version.newest
    if version.standing == "current":
        return ok(CHECK, f"{shown}: {'empty' if found is None else f'schema {found}'}")
    if version.standing == "older":
        return broken(
            CHECK,
            f"{shown} has the older schema {found}",
            wanted=f"schema {newest} of MLflow {mlflow.__version__}",
            fix=f"take a backup, then: mlflow db upgrade {shown}",
        )
    return broken(
        CHECK,
        f"{shown} has schema {found}, which MLflow {mlflow.__version__} does not know",
        wanted=f"schema {newest}",
        fix="install the MLflow that made it (a newer one), or restore the backup from before its upgrade",
    )


def _folder(path: Path) -> Finding:
    if path.exists() and not path.is_dir():
        return broken(
            CHECK,
            f"{path} is a file",
            wanted="a folder or sqlite:///FILE",
            fix="set MLFLOW_TRACKING_URI=sqlite:///FILE",
        )
    return ok(CHECK, f"folder {path}")


def _server(uri: str) -> Finding:
    host = urlsplit(uri).netloc.rsplit("@", 1)[-1]
    try:
        status, body = _get(uri, "/health")
        version = _get(uri, "/version")[1]
    except (OSError, http.client.HTTPException) as error:
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return broken(CHECK, f"nothing answers at {host} ({why})", wanted="an MLflow server", fix=_FIX_ADDRESS)
    if status in (401, 403):
        return broken(
            CHECK,
            f"{host} answers {status}",
            wanted="an MLflow server that lets us in; it also refuses host names that it was not told of",
            fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or start it with --allowed-hosts HOST:PORT",
        )
    if status != 200 or body.strip() != "OK":
        return broken(CHECK, f"{host} answers {status} and not as MLflow does", wanted="/health: OK", fix=_FIX_ADDRESS)
    if version.split(".")[:1] != mlflow.__version__.split(".")[:1]:
        return warning(
            CHECK,
            f"{host} is MLflow {version[:20]}",
            wanted=f"MLflow {mlflow.__version__.split('.')[0]}, as here ({mlflow.__version__})",
            fix="install one version on both sides",
        )
    return ok(CHECK, f"{host}: MLflow {version[:20]}")


def _get(uri: str, path: str) -> tuple[int, str]:
    """Status and the beginning of the body; redirects are not followed."""
    url = urlsplit(uri)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", f"{url.path.rstrip('/')}{path}")
        answer = connection.getresponse()
        return answer.status, answer.read(4096).decode("utf-8", "replace")
    finally:
        connection.close()
