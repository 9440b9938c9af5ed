"""The proxy's own file, run by the program of its image before a server that says what it was sent."""

import http.client
import re
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from amr_pipeline_tests.composed import services
from amr_pipeline_tests.rendered import OVERLAYS, pods, program
from amr_pipeline_tests.servers import SECONDS_TO_START, accepts, free_ports

REPOSITORY = Path(__file__).parent.parent
CADDYFILE = REPOSITORY / "docker" / "Caddyfile"
UPSTREAMS = ("webserver:3000", "mlflow:5000")
LISTENING = ("8443", "8444", "8445")


@dataclass
class Upstream:
    """A server that keeps the head of each request; it answers 101 to an upgrade and then returns what it is sent."""

    heads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            received = b""
            while b"\r\n\r\n" not in received:
                if not (more := connection.recv(4096)):
                    return
                received += more
            head, _, rest = received.partition(b"\r\n\r\n")
            self.heads.append(head.decode())
            if b"\nupgrade: websocket" in head.lower():
                connection.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                )
                while rest := rest or connection.recv(4096):
                    connection.sendall(rest)
                    rest = b""
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Proxy:
    ports: Mapping[str, int]
    log: Path

    def connection(self, port: str = "8443") -> http.client.HTTPSConnection:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.ports[port], context=context, timeout=60)

    def status(self, headers: Mapping[str, str], port: str = "8443", method: str = "GET") -> int:
        connection = self.connection(port)
        try:
            connection.request(method, "/graphql", headers=dict(headers))
            return connection.getresponse().status
        finally:
            connection.close()

    def own_site(self, port: str = "8443") -> str:
        return f"https://127.0.0.1:{self.ports[port]}"


def with_password(password: str, name: str = "ann") -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'{name}:{password}'.encode()).decode()}"}


def secrets(folder: Path, users: str) -> None:
    made = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        *made,
    ]
    subprocess.run(request, check=True, capture_output=True)
    (folder / "proxy_users").write_text(users)


def here(folder: Path, ports: Mapping[str, int], upstreams: Mapping[str, int]) -> Path:
    """The file with this machine's ports and paths in place of those of a container; nothing else changes."""
    text = CADDYFILE.read_text()
    changes = {"/run/secrets/": f"{folder}/", "admin off": "admin off\n\tdefault_bind 127.0.0.1"}
    changes |= {f"://:{old}": f"://:{new}" for old, new in ports.items()}
    changes |= {name: f"127.0.0.1:{port}" for name, port in upstreams.items()}
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "Caddyfile"
    path.write_text(text)
    return path


def command(path: Path) -> list[str]:
    """The container's command, on another file."""
    given = services()["proxy"]["command"]
    return [program(given[0]), *(str(path) if word == "/etc/caddy/Caddyfile" else word for word in given[1:])]


@contextmanager
def running(folder: Path, users: str, upstreams: Mapping[str, int]) -> Iterator[Proxy]:
    secrets(folder, users)
    ports = dict(zip(LISTENING, free_ports(len(LISTENING)), strict=True))
    log = folder / "log"
    with log.open("w") as out:
        environment = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        process = subprocess.Popen(command(here(folder, ports, upstreams)), stdout=out, stderr=out, env=environment)
        try:
            deadline = time.monotonic() + SECONDS_TO_START
            while not all(accepts("127.0.0.1", port) for port in ports.values()):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield Proxy(ports, log)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def users() -> str:
    hashed = subprocess.run(
        [program("caddy"), "hash-password"], input="right\n", capture_output=True, text=True, check=True
    )
    return f"ann {hashed.stdout}"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture
def proxy(tmp_path: Path, users: str, upstream: Upstream) -> Iterator[Proxy]:
    with running(tmp_path, users, dict.fromkeys(UPSTREAMS, upstream.port)) as started:
        yield started


# ---------------------------------------------------------------------------------------------------------- password


@pytest.mark.parametrize("port", ["8443", "8444"])
def test_both_pages_ask_for_the_password_and_keep_it(proxy: Proxy, upstream: Upstream, port: str) -> None:
    assert proxy.status({}, port) == 401
    assert proxy.status(with_password("wrong"), port) == 401
    assert proxy.status(with_password("right", name="bob"), port) == 401
    assert upstream.heads == [], "nobody without the password reaches a server"
    assert proxy.status(with_password("right"), port) == 200
    (head,) = upstream.heads
    assert "authorization" not in head.lower()
    assert "right" not in proxy.log.read_text()
    assert b64encode(b"ann:right").decode() not in proxy.log.read_text()


def test_nobody_may_enter_while_no_user_is_written_down(tmp_path: Path, upstream: Upstream) -> None:
    with running(tmp_path, "", dict.fromkeys(UPSTREAMS, upstream.port)) as proxy:
        assert [proxy.status({}), proxy.status(with_password("")), proxy.status(with_password("x", name=""))] == [
            401
        ] * 3
    assert upstream.heads == []


@pytest.mark.parametrize("line", ["ann\n", "ann plain-text-password\n"])
def test_a_user_without_a_hash_keeps_the_proxy_from_starting(tmp_path: Path, line: str) -> None:
    secrets(tmp_path, line)
    ports = dict(zip(LISTENING, free_ports(len(LISTENING)), strict=True))
    path = here(tmp_path, ports, dict.fromkeys(UPSTREAMS, 9))
    done = subprocess.run(
        [program("caddy"), "validate", "--adapter", "caddyfile", "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(tmp_path)},
    )
    assert done.returncode != 0
    assert "plain-text-password" not in done.stderr


# -------------------------------------------------------------------------------------------------- sites and upgrades


def test_other_sites_cannot_use_a_stored_password(proxy: Proxy, upstream: Upstream) -> None:
    """A browser adds the password to a form that any page sends here."""
    for origin in ("https://elsewhere.example", "null", proxy.own_site("8444")):
        assert proxy.status({**with_password("right"), "Origin": origin}, method="POST") == 403, origin
    assert upstream.heads == []
    assert proxy.status({**with_password("right"), "Origin": proxy.own_site()}, method="POST") == 200
    assert "origin" not in upstream.heads[0].lower(), "MLflow would compare it with a name of its own"


def upgrade(proxy: Proxy, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Status of an upgrade, and what comes back of four bytes sent through it."""
    connection = proxy.connection()
    asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    asked |= {"Sec-WebSocket-Key": b64encode(b"0" * 16).decode(), "Sec-WebSocket-Protocol": "graphql-ws"}
    try:
        connection.request("GET", "/graphql", headers={**asked, **headers})
        assert connection.sock is not None
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.sock.recv(4096)
        status = int(received.split()[1])
        if status != 101:
            return status, b""
        connection.sock.sendall(b"ping")
        back = b""
        while len(back) < len(b"ping") and (more := connection.sock.recv(4)):
            back += more
        return status, back
    finally:
        connection.close()


def test_subscriptions_pass_with_the_password_only(proxy: Proxy, upstream: Upstream) -> None:
    assert upgrade(proxy, {"Origin": proxy.own_site()})[0] == 401
    assert upgrade(proxy, {**with_password("right"), "Origin": "https://elsewhere.example"})[0] == 403
    assert upstream.heads == []
    assert upgrade(proxy, {**with_password("right"), "Origin": proxy.own_site()}) == (101, b"ping")
    (head,) = upstream.heads
    assert "sec-websocket-protocol: graphql-ws" in head.lower()
    assert "authorization" not in head.lower()


def test_mlflow_sees_the_host_that_it_allows(proxy: Proxy, upstream: Upstream) -> None:
    assert proxy.status(with_password("right"), "8444") == 200
    assert f"\nHost: 127.0.0.1:{upstream.port}" in upstream.heads[0]
    allowed = services()["mlflow"]["command"]
    assert "mlflow:5000" in allowed[allowed.index("--allowed-hosts") + 1].split(",")


# -------------------------------------------------------------------------------------------------------- deployments


def test_the_file_is_as_its_program_formats_it() -> None:
    done = subprocess.run([program("caddy"), "fmt", str(CADDYFILE)], capture_output=True, text=True, check=False)
    assert done.stdout == CADDYFILE.read_text()


def test_both_deployments_run_this_file_in_this_version() -> None:
    version = subprocess.run([program("caddy"), "version"], capture_output=True, text=True, check=True).stdout
    (number,) = re.findall(r"^v?([\d.]+)", version)
    assert (REPOSITORY / "k8s" / "base" / "Caddyfile").read_text() == CADDYFILE.read_text()
    assert services()["proxy"]["image"] == f"caddy:{number}"
    for overlay in OVERLAYS:
        (container,) = pods(overlay)["proxy"].containers
        assert container["image"] == f"caddy:{number}"
        assert container["command"] == services()["proxy"]["command"]
