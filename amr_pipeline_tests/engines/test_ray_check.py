"""A cluster that cannot be joined is found before an engine is waited for."""

import platform
import socket

import pytest

from amr_pipeline.engines import ray_check
from amr_pipeline.engines.ray_check import check_ray
from amr_pipeline.report.findings import Finding


def looked(address: str | None) -> Finding:
    (found,) = check_ray(address)
    return found


def test_no_address_is_well():
    assert looked(None).level == "ok"


@pytest.mark.parametrize("address", ["ray.example", "ray://ray.example", "host:port", ":6379"])
def test_what_is_no_address_is_broken(address: str):
    assert (looked(address).level, "HOST:6379" in looked(address).wanted) == ("broken", True)


@pytest.mark.parametrize("kind", ["{}", "ray://{}"])
def test_a_port_where_nothing_answers_is_broken(free_port: int, kind: str):
    found = looked(kind.format(f"127.0.0.1:{free_port}"))
    assert (found.level, "nothing answers" in found.found) == ("broken", True)
    assert "AMR_RAY_ADDRESS" in found.fix


def test_a_port_that_is_not_rays_ends_with_the_patience_and_not_with_the_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_check, "ANSWER_SECONDS", 2.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        found = looked(f"127.0.0.1:{listener.getsockname()[1]}")
    assert (found.level, "does not answer as Ray does" in found.found) == ("broken", True)


@pytest.mark.engines
def test_a_cluster_is_well_when_its_versions_are_ours(ray_cluster: None, monkeypatch: pytest.MonkeyPatch):
    import ray

    # A process that imports Ray answers, which takes minutes where others keep the machine busy.
    monkeypatch.setattr(ray_check, "ANSWER_SECONDS", 300.0)
    address = ray.get_runtime_context().gcs_address
    assert (looked(address).level, f"Ray {ray.__version__}" in looked(address).found) == ("ok", True)
    python = platform.python_version()
    for ours, level in (
        (("2.0.0", python), "broken"),
        ((ray.__version__, "3.8.1"), "broken"),
        ((ray.__version__, f"{python.rpartition('.')[0]}.99"), "warning"),
    ):
        with monkeypatch.context() as other:
            other.setattr(ray_check, "version", lambda name, ours=ours: ours[0])
            other.setattr(platform, "python_version", lambda ours=ours: ours[1])
            found = looked(address)
        assert found.level == level
        assert ours[0] in found.wanted or ours[1] in found.wanted
