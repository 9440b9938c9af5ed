"""A PostgreSQL that cannot be used is found and named; no finding holds the password."""

import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from amr_pipeline.engines import postgres_check
from amr_pipeline.engines.postgres_check import Login, check_postgres
from amr_pipeline.report.findings import Finding

LOGIN = Login(host="127.0.0.1", port=1, user="amr", database="dagster", password="canary-0123456789")


def by_check(login: Login) -> dict[str, Finding]:
    return {one.check: one for one in check_postgres(login)}


def _error(message: str) -> bytes:
    fields = f"SFATAL\0C28P01\0M{message}\0\0".encode()
    return b"E" + struct.pack("!i", len(fields) + 4) + fields


def _setting(name: str, value: str) -> bytes:
    told = f"{name}\0{value}\0".encode()
    return b"S" + struct.pack("!i", len(told) + 4) + told


SETTINGS = {"server_version": "16.0", "client_encoding": "UTF8", "DateStyle": "ISO", "integer_datetimes": "on"}
WELCOME = b"".join(
    [
        b"R" + struct.pack("!ii", 8, 0),
        *(_setting(name, value) for name, value in SETTINGS.items()),
        b"Z" + struct.pack("!i", 5) + b"I",
    ]
)
"""Let in without being asked for anything, and ready."""


@pytest.fixture
def server() -> Iterator[tuple[int, list[bytes]]]:
    """A port that speaks just enough of the protocol, and what it says to whoever wants in."""
    says = [WELCOME]

    def answer(client: socket.socket) -> None:
        with client:
            while len(request := client.recv(4096)) >= 8:
                if struct.unpack("!i", request[4:8])[0] == 80877103:  # asks for TLS
                    client.sendall(b"N")
                else:
                    client.sendall(says[0])

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            if stopping.is_set():
                client.close()
                return
            answer(client)

    stopping = threading.Event()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        yield port, says
        stopping.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()


def test_a_port_where_nothing_answers_is_broken(free_port: int):
    found = by_check(replace(LOGIN, port=free_port))["postgres"]
    assert (found.level, f"nothing answers at 127.0.0.1:{free_port}" in found.found) == ("broken", True)
    assert "AMR_POSTGRES_HOST" in found.fix
    assert "canary" not in str(found)


def test_a_server_that_refuses_is_broken_until_it_lets_us_in(server: tuple[int, list[bytes]]):
    port, says = server
    login = replace(LOGIN, port=port)
    says[0] = _error('password authentication failed for user "amr"')
    found = by_check(login)["postgres"]
    assert (found.level, "password authentication failed" in found.found) == ("broken", True)
    assert "AMR_POSTGRES_PASSWORD" in found.fix
    assert "canary" not in str(found) + repr(login)
    says[0] = WELCOME
    assert {name: one.level for name, one in by_check(login).items()} == {"postgres": "ok"}


def test_the_package_that_dagster_needs_is_named_where_it_is_missing(
    server: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(postgres_check.importlib.util, "find_spec", lambda name: None)
    found = by_check(replace(LOGIN, port=server[0]))["postgres"]
    assert (found.level, "amr-pipeline[postgres]" in found.fix) == ("broken", True)


@pytest.mark.parametrize(
    ("password", "level"),
    [("postgres", "broken"), ("Password", "broken"), ("", "broken"), ("amr", "broken"), ("j8#kQ1z", "warning")],
)
def test_default_and_short_passwords_are_found_and_another_one_is_the_fix(free_port: int, password: str, level: str):
    login = replace(LOGIN, port=free_port, password=password)
    found = by_check(login)["postgres password"]
    assert found.level == level
    assert "ALTER ROLE amr PASSWORD" in found.fix
    assert not password or password.lower() in ("amr", "postgres", "password") or password not in str(found)
    assert "postgres password" not in by_check(replace(login, password="a long one of my own"))
