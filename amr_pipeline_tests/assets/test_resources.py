import time
from pathlib import Path

import pytest

from amr_pipeline.assets import resources
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines import training_workers
from amr_pipeline.responses.prices import Prices, TokenPrice


def test_prices_rates_and_budgets_are_read_and_reach_the_platform():
    assert deployment_from_environment({}).prices_per_gpu_hour == {}
    assert Platform.of(deployment_from_environment({})).budget().tokens is None
    found = Platform.of(
        deployment_from_environment(
            {
                "AMR_PRICE_PER_GPU_HOUR": "2.5,r1=4.5",
                "AMR_TOKENS_PER_GPU_SECOND": "2500,r1=180.5",
                "AMR_BUDGET_TOKENS": "1000000",
                "AMR_BUDGET_MONEY": "40",
            }
        )
    )
    assert found.tokens_per_gpu_second == {"": 2500.0, "r1": 180.5}
    budget = found.budget()
    assert (budget.tokens, budget.money) == (1_000_000, 40.0)
    assert [budget.prices.of_gpus(3600, name) for name in ("", "r1", "weak")] == [2.5, 4.5, 2.5]
    assert found.budget() is not budget, "each run has its own"
    tokens = {"AMR_BUDGET_MONEY": "40", "AMR_PRICE_PER_MILLION_TOKENS": "own=0.5/2"} | FAR
    assert Platform.of(deployment_from_environment(tokens)).budget().prices == Prices(
        tokens={"own": TokenPrice(prompts=0.5, responses=2.0)}
    )


def test_kinds_of_gpu_reach_the_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[dict[str, object]] = []
    monkeypatch.setattr(resources, "open_engines", lambda **named: opened.append(named))
    Platform.of(deployment_from_environment({"AMR_HOME": str(tmp_path), "AMR_GPU_KINDS": "L4,r1=H100/H200"})).pools()
    assert opened[0]["gpu_kinds"] == {"": ("L4",), "r1": ("H100", "H200")}


def test_training_on_an_existing_cluster_gets_room_from_pools_that_this_process_did_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        training_workers, "make_room_for_training", lambda *sizes, **named: asked.append((*sizes, named))
    )
    shared = {"AMR_HOME": str(tmp_path), "AMR_RAY_ADDRESS": "ray-head:6379"}
    Platform.of(deployment_from_environment(shared)).make_room_for_training(64, 1)
    assert asked == [(64, {"gpus_per_worker": 1, "ray_address": "ray-head:6379"})]
    Platform.of(deployment_from_environment({"AMR_HOME": str(tmp_path)})).make_room_for_training(64, 1)
    assert len(asked) == 1, "nobody else has pools on a private cluster"


FAR = {"AMR_HTTP_ENGINES": "r1-7b=https://api.example/v1, own=http://10.0.0.7:8000/v1"}


def test_servers_of_distillers_are_named_with_their_limits(monkeypatch: pytest.MonkeyPatch):
    found = deployment_from_environment(
        {
            **FAR,
            "AMR_HTTP_REQUESTS_PER_MINUTE": "r1-7b=60",
            "AMR_HTTP_TOKENS_PER_MINUTE": "r1-7b=90000,own=7",
            "AMR_HTTP_IN_FLIGHT": "9",
        }
    )
    assert found.http_addresses == {"r1-7b": "https://api.example/v1", "own": "http://10.0.0.7:8000/v1"}
    engine = Platform.of(found).http_engine("r1-7b")
    assert (engine.url, engine.host, engine.in_flight) == (
        "https://api.example/v1/chat/completions",
        "api.example",
        9,
    )
    assert Platform.of(found).http_engine("r1-7b") is engine, "its pace outlasts a run"
    now = time.monotonic()
    monkeypatch.setattr(engine.pace, "_clock", lambda: now)
    engine.pace.take(1)
    assert engine.pace.seconds_to_wait() == pytest.approx(1.0)


def test_a_server_that_nothing_names_is_refused_before_anything_is_asked():
    with pytest.raises(ValueError, match=r"set AMR_HTTP_ENGINES=far-1=ADDRESS .* AMR_HTTP_KEY_FAR_1 where"):
        Platform.of(deployment_from_environment(FAR)).http_engine("far-1")
