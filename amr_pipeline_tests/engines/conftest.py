"""A real S3 server for the tests of storage and tables, and a cluster that is left without pools.

Does not belong here: starting Ray, which the conftest above does.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from amr_pipeline_tests.servers import object_store


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, object]]]:
    """A bucket of a real S3 server on loopback, and the options that reach it; only this server's process is ended."""
    with object_store(tmp_path_factory.mktemp("s3"), bucket="amr-test") as store:
        yield "s3://amr-test", store.options


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.engines)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, object]]:
    """A root that nobody else uses, on a folder and on S3, with its storage options."""
    if request.param == "local":
        return str(tmp_path / "root"), {}
    bucket, options = request.getfixturevalue("s3")
    return f"{bucket}/{tmp_path.name}", options


@pytest.fixture
def cluster(ray_cluster: None) -> Iterator[None]:
    """The tests' cluster, on which no pool is left afterwards."""
    from amr_pipeline.engines.kept_pools import listed_pools, stop_pool

    yield
    for one in listed_pools():
        stop_pool(one.name, also_used=True)
