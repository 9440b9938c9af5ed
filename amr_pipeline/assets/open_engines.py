"""Engines that this process has open, one of each kind per deployment, and their end.

Belongs here: opening once and closing. Does not belong here: what is asked of them (`resources`).
"""

import atexit
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amr_pipeline.engines.engine_pools import EnginePools
    from amr_pipeline.engines.http_engine import HttpEngine

_engines: dict[str, "EnginePools"] = {}
_opening = threading.Lock()


def open_engines(
    *,
    ray_address: str | None,
    home: str,
    max_engines: int,
    engines_per_model: tuple[int, int],
    idle_seconds: int,
    gpu_kinds: Mapping[str, tuple[str, ...]],
) -> "EnginePools":
    """The process's pools for one cluster and home, opened once; later calls get them as they are."""
    key = f"{ray_address}|{home}"
    with _opening:
        if key not in _engines:
            from amr_pipeline.engines.engine_pools import PoolSize, open_pools

            fewest, most = engines_per_model
            cache_folder = Path(home) / "engine_cache"
            cache_folder.mkdir(parents=True, exist_ok=True)
            _engines[key] = open_pools(
                ray_address=ray_address,
                cache=cache_folder,
                max_engines=max_engines,
                size=PoolSize(fewest=fewest, most=most),
                idle_seconds=idle_seconds,
                gpu_kinds=gpu_kinds,
            )
        return _engines[key]


def engines_are_open() -> bool:
    """Whether any pools are open here, without opening some."""
    return bool(_engines)


def open_http_engine(name: str, address: str, in_flight: int, requests: int | None, tokens: int | None) -> "HttpEngine":
    """The server of a distiller, with one pace for all runs of this process."""
    with _opening:
        return _http_engine(name, address, in_flight, requests, tokens)


@cache
def _http_engine(name: str, address: str, in_flight: int, requests: int | None, tokens: int | None) -> "HttpEngine":
    from amr_pipeline.engines.http_engine import HttpEngine
    from amr_pipeline.engines.http_limits import Pace

    return HttpEngine(name=name, address=address, in_flight=in_flight, pace=Pace(requests, tokens))


def close_engines() -> None:
    """Stop every engine this process opened; called at exit, and by tests."""
    while _engines:
        _engines.popitem()[1].close()


atexit.register(close_engines)
