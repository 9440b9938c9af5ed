"""What training workers ask of a cluster: a GPU each or none, and room where idle pools of engines hold it.

Does not belong here: what workers run (`deepspeed_loop`), how a group of them is led (`deepspeed_training`).
"""

import ray

from amr_pipeline.engines.engine_replicas import PoolSize
from amr_pipeline.engines.engine_work import EngineSettings
from amr_pipeline.engines.kept_pools import make_room
from amr_pipeline.engines.ray_cluster import ensure_ray


def trains_on_gpu(gpus_per_worker: int, *, ray_address: str | None, gpus_here: float) -> bool:
    """Whether workers ask for GPUs: as their row says, unless a private cluster has none.

    A cluster elsewhere may have scaled its GPU nodes to none and brings them when they are asked for.
    """
    return gpus_per_worker > 0 and (ray_address is not None or gpus_here > 0)


def gpus_here() -> float:
    """GPUs of the nodes that the connected cluster has now, held ones included."""
    return ray.cluster_resources().get("GPU", 0.0)


def make_room_for_training(num_workers: int, *, gpus_per_worker: int, ray_address: str) -> None:
    """End idle pools of an existing cluster, the one idle longest first, until that many workers could start.

    What is still missing then is left to the cluster; a pool that somebody uses stays.
    """
    ensure_ray(ray_address)
    for gpus in {0, gpus_per_worker}:  # a worker with a GPU takes a core, too
        as_engines = EngineSettings(
            model="training", revision=None, max_model_len=0, dtype="auto", gpus=float(gpus), family="transformers"
        )
        make_room(as_engines, PoolSize(fewest=num_workers, most=num_workers))
