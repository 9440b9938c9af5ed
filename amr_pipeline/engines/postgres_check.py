"""Whether Dagster's PostgreSQL can be used: it answers, lets us in, and its password is no default.

Belongs here: one server and its login. Does not belong here: where a Dagster instance says that it is
(`assets.instance_check`).
"""

import importlib.util
import socket
from dataclasses import dataclass, field

from amr_pipeline.report.findings import Finding, broken, ok, warning

CHECK = "postgres"
CONNECT_SECONDS = 3

DEFAULT_PASSWORDS = frozenset(
    {
        *("", "postgres", "password", "passw0rd", "dagster", "mlflow", "amr", "admin", "root", "test", "example"),
        *("secret", "changeme", "change_me", "change-me", "letmein", "qwerty", "1234", "12345", "123456", "12345678"),
    }
)
SHORTEST_PASSWORD = 12

_SET = "set AMR_POSTGRES_PASSWORD (docker/.env, the secret on Kubernetes), then ALTER ROLE {user} PASSWORD '...'"


@dataclass(frozen=True, kw_only=True)
class Login:
    """Where a server is and who asks; the password shows in no repr."""

    host: str
    port: int
    user: str
    database: str
    password: str = field(repr=False)


def check_postgres(login: Login) -> list[Finding]:
    """Reach the server, log in, and look at the password."""
    return [_reached(login), *_password(login)]


def _password(login: Login) -> list[Finding]:
    name, fix = "postgres password", _SET.format(user=login.user)
    if login.password.lower() in DEFAULT_PASSWORDS | {login.user.lower()}:
        return [broken(name, "the password is a default that everybody tries first", wanted="one of your own", fix=fix)]
    if len(login.password) < SHORTEST_PASSWORD:
        wanted = f"at least {SHORTEST_PASSWORD} characters"
        return [warning(name, "the password is short", wanted=wanted, fix=fix)]
    return []


def _reached(login: Login) -> Finding:
    place = f"{login.host}:{login.port}"
    try:
        socket.create_connection((login.host, login.port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return broken(
            CHECK,
            f"nothing answers at {place} ({error})",
            wanted="the PostgreSQL server of the Dagster instance",
            fix="start it, or set AMR_POSTGRES_HOST to where it is",
        )
    if not all(importlib.util.find_spec(name) for name in ("psycopg2", "dagster_postgres")):
        return broken(
            CHECK,
            f"{place} answers, and dagster-postgres is not installed",
            wanted="the package that dagster.yaml needs for it",
            fix="install the extra: pip install 'amr-pipeline[postgres]'",
        )
    return _logged_in(login, place)


def _logged_in(login: Login, place: str) -> Finding:
    import psycopg2

    try:
        connection = psycopg2.connect(
            host=login.host,
            port=login.port,
            user=login.user,
            password=login.password,
            dbname=login.database,
            connect_timeout=CONNECT_SECONDS,
        )
    except psycopg2.Error as error:
        said = str(error).strip().splitlines()
        return broken(
            CHECK,
            f"{place} refuses {login.user!r}: {said[-1] if said else type(error).__name__}",
            wanted=f"user {login.user!r} with its password, and database {login.database!r}",
            fix="set AMR_POSTGRES_USER and AMR_POSTGRES_PASSWORD to what the server knows, or create the database",
        )
    connection.close()
    return ok(CHECK, f"{place}: {login.user!r} may use {login.database!r}")
