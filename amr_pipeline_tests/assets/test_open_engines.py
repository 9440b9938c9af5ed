"""Engines are opened once per deployment, and a question whether some are open opens none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from amr_pipeline.assets.open_engines import close_engines, engines_are_open, open_engines, open_http_engine


@pytest.fixture
def closing() -> Iterator[None]:
    close_engines()
    yield
    close_engines()


@pytest.mark.usefixtures("closing")
def test_pools_are_opened_once_per_home_and_closed_together(tmp_path: Path):
    def opened(name: str) -> object:
        return open_engines(
            ray_address=None,
            home=str(tmp_path / name),
            max_engines=1,
            engines_per_model=(1, 1),
            idle_seconds=900,
            gpu_kinds={},
        )

    assert not engines_are_open()
    first = opened("a")
    assert opened("a") is first
    assert opened("b") is not first
    assert engines_are_open()
    close_engines()
    assert not engines_are_open()
    assert opened("a") is not first


def test_a_server_has_one_pace_for_all_runs_of_a_process():
    first = open_http_engine("far", "http://127.0.0.1:9/v1", 4, 60, None)
    assert open_http_engine("far", "http://127.0.0.1:9/v1", 4, 60, None) is first
    assert open_http_engine("far", "http://127.0.0.1:9/v1", 4, 120, None) is not first
