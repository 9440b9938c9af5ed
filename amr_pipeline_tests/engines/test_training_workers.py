"""Whether training asks for GPUs, and what makes room for it on a cluster that others use, too."""

import pytest
import ray

from amr_pipeline.engines.kept_pools import kept_pool, listed_pools
from amr_pipeline.engines.training_workers import make_room_for_training, trains_on_gpu
from amr_pipeline_tests.engines.test_pool_keeper import pool, until, work

SHARED = "127.0.0.1:6379"


@pytest.mark.parametrize(
    ("gpus_per_worker", "ray_address", "gpus_here", "on_gpu"),
    [
        (1, SHARED, 0.0, True),  # its nodes are scaled down, and come when they are asked for
        (1, SHARED, 8.0, True),
        (0, SHARED, 8.0, False),
        (0, SHARED, 0.0, False),
        (1, None, 0.0, False),  # nothing can bring a private cluster a GPU
        (1, None, 1.0, True),
        (0, None, 1.0, False),
    ],
)
def test_workers_ask_for_gpus_as_their_row_says_unless_a_private_cluster_has_none(
    gpus_per_worker: int, ray_address: str | None, gpus_here: float, on_gpu: bool
):
    assert trains_on_gpu(gpus_per_worker, ray_address=ray_address, gpus_here=gpus_here) is on_gpu


@pytest.mark.engines
@pytest.mark.timeout(600)
def test_idle_pools_of_others_go_before_training_starts_if_their_place_is_needed(cluster: None):
    question = work(1)
    with kept_pool(pool("used"), "a run", None) as used:
        assert list(used.run(question))
        with kept_pool(pool("idle"), "another run", None) as left:
            assert list(left.run(question))
        until(lambda: sum(not one.callers for one in listed_pools()) == 1)

        make_room_for_training(1, gpus_per_worker=0, ray_address=SHARED)
        assert len(listed_pools()) == 2, "there is room beside both"

        cores = int(ray.cluster_resources()["CPU"])
        make_room_for_training(cores, gpus_per_worker=0, ray_address=SHARED)
        (stays,) = listed_pools()
        assert stays.settings.model == "used"
        assert list(used.run(question)), "and goes on"
        until(lambda: ray.available_resources().get("CPU", 0.0) == cores - 1)


@pytest.mark.engines
@pytest.mark.timeout(600)
def test_a_missing_gpu_ends_every_idle_pool_and_is_left_to_the_cluster(cluster: None):
    with kept_pool(pool("idle"), "a run", None) as left:
        assert list(left.run(work(1)))
    until(lambda: all(not one.callers for one in listed_pools()))
    make_room_for_training(1, gpus_per_worker=1, ray_address=SHARED)
    assert listed_pools() == []
