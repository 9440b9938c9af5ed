"""Pools of engines on a cluster, for people: a table of them, and ending one.

Belongs here: what is said of pools. Does not belong here: what they do (`engines.kept_pools`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amr_pipeline.assets.resources import Platform
from amr_pipeline.report.summary import text_table

if TYPE_CHECKING:
    from amr_pipeline.engines.pool_keeper import PoolStatus

NO_CLUSTER = (
    "AMR_RAY_ADDRESS names no cluster: each run starts engines of its own and ends them, so there is nothing to list."
)


def pools_rows(pools: "Sequence[PoolStatus]") -> tuple[list[str], list[list[object]]]:
    """Header and rows: name, engines (now, fewest to most), GPUs, requests, KV cache, callers, how long idle."""
    header = ["pool", "engines", "of", "GPUs", "running", "waiting", "KV %", "idle s", "used by", "model"]
    rows: list[list[object]] = []
    for one in pools:
        starting = f" +{one.load.starting} starting" if one.load.starting else ""
        rows.append(
            [
                one.name,
                f"{one.load.engines}{starting}",
                f"{one.size.fewest} to {one.size.most}",
                one.gpus,
                one.load.running,
                one.load.waiting,
                None if one.load.kv_use is None else round(100 * one.load.kv_use),
                None if one.idle_seconds is None else round(one.idle_seconds),
                ", ".join(one.callers),
                one.settings.model,
            ]
        )
    return header, rows


def pools_text(platform: Platform) -> str:
    """The table of all pools, or why there is none."""
    if platform.ray_address is None:
        return NO_CLUSTER
    pools = platform.listed_pools()
    return text_table(*pools_rows(pools)) if pools else "No pool of engines is alive on the cluster."


def stop_pools(platform: Platform, names: Sequence[str], *, also_used: bool) -> list[str]:
    """End pools by name, or all that nobody uses where no name is given; what was done with each, as lines.

    Raises:
        ValueError: there is no cluster, or a name is none of a pool.
    """
    from amr_pipeline.engines.kept_pools import stop_pool

    if platform.ray_address is None:
        raise ValueError(NO_CLUSTER)
    known = {one.name: one for one in platform.listed_pools()}
    if strangers := sorted(set(names) - known.keys()):
        raise ValueError(f"no pool is called {', '.join(strangers)}; there are: {', '.join(sorted(known)) or 'none'}")
    lines: list[str] = []
    for name in names or known:
        if stop_pool(name, also_used=also_used):
            lines.append(f"ended {name}")
        else:
            lines.append(f"left {name}: used by {', '.join(known[name].callers)} (--also-used ends it all the same)")
    return lines or ["No pool of engines is alive on the cluster."]
