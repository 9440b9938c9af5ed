from pathlib import Path

import pytest

from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.pools import NO_CLUSTER, pools_rows, pools_text, stop_pools
from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines.engine_replicas import PoolLoad, PoolSize
from amr_pipeline.engines.engine_work import EngineSettings
from amr_pipeline.engines.pool_keeper import PoolStatus

USED = PoolStatus(
    name="r1-12345678",
    settings=EngineSettings(model="r1", revision=None, max_model_len=8192, dtype="auto"),
    size=PoolSize(fewest=1, most=4),
    load=PoolLoad(engines=2, starting=1, running=300, waiting=40, kv_use=0.876),
    gpus=3.0,
    callers=("r1 (node:17)",),
    idle_seconds=None,
    age_seconds=60.0,
)


def test_a_pool_is_a_row_of_what_it_holds_and_who_uses_it():
    header, (row,) = pools_rows([USED])
    assert dict(zip(header, row, strict=True)) == {
        "pool": "r1-12345678",
        "engines": "2 +1 starting",
        "of": "1 to 4",
        "GPUs": 3.0,
        "running": 300,
        "waiting": 40,
        "KV %": 88,
        "idle s": None,
        "used by": "r1 (node:17)",
        "model": "r1",
    }


def test_without_a_cluster_there_is_nothing_to_list_or_to_end(tmp_path: Path):
    platform = Platform.of(deployment_from_environment({"AMR_HOME": str(tmp_path)}))
    assert pools_text(platform) == NO_CLUSTER
    with pytest.raises(ValueError, match="AMR_RAY_ADDRESS"):
        stop_pools(platform, [], also_used=False)


def test_a_pool_that_is_used_is_left_and_the_line_says_by_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    platform = Platform.of(deployment_from_environment({"AMR_HOME": str(tmp_path), "AMR_RAY_ADDRESS": "ray:6379"}))
    monkeypatch.setattr(Platform, "listed_pools", lambda self: [USED])
    monkeypatch.setattr("amr_pipeline.engines.kept_pools.stop_pool", lambda name, also_used: also_used)
    assert stop_pools(platform, [], also_used=False) == [
        "left r1-12345678: used by r1 (node:17) (--also-used ends it all the same)"
    ]
    assert stop_pools(platform, ["r1-12345678"], also_used=True) == ["ended r1-12345678"]
    with pytest.raises(ValueError, match="there are: r1-12345678"):
        stop_pools(platform, ["r1"], also_used=False)
    assert "r1-12345678" in pools_text(platform)
