"""One model's engines as Ray actors: started, counted, given weights, ended.

Belongs here: how many engines there are and where they run. Does not belong here: what they are given and what
their deaths mean (`engine_stream`), who may use them (`engine_pools`).
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from amr_pipeline.engines.engine_stream import (
    DEATHS,
    SECONDS_BETWEEN_LOOKS,
    SECONDS_BETWEEN_WARNINGS,
    EngineStartError,
    Replica,
    Stream,
    last_line,
)
from amr_pipeline.engines.engine_work import Done, EngineSettings, Work

log = logging.getLogger(__name__)

GPU_KIND = "ray.io/accelerator-type"
"""The label with which Ray says what kind of GPU a node has."""

SECONDS_IDLE = 60.0
"""How long an engine above the fewest may have nothing to do."""

MOST_STARTS, SECONDS_BETWEEN_STARTS = 4, 20.0
"""Tries to start an engine in the place of a dead one, and the first pause between two, which grows by itself: what the
dead one held of a GPU may be given back later than its place."""


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """How many engines a pool may have.

    Attributes:
        fewest: engines that it starts with and keeps while it is open.
        most: engines that it may grow to.
    """

    fewest: int = 1
    most: int = 1


@dataclass(frozen=True, kw_only=True)
class PoolLoad:
    """How full a pool is: its engines, those still starting, and the requests they hold.

    Attributes:
        kv_use: mean share of the KV caches in use; None where no engine said.
    """

    engines: int
    starting: int
    running: int
    waiting: int
    kv_use: float | None

    def text(self) -> str:
        """`2 engines, 120 running, 64 waiting, KV 43 %`."""
        said = [f"{self.engines} engine{'s' if self.engines != 1 else ''}"]
        said += [f"{self.starting} starting"] if self.starting else []
        said += [f"{self.running:,} running, {self.waiting:,} waiting"]
        said += [f"KV {100 * self.kv_use:.0f} %"] if self.kv_use is not None else []
        return ", ".join(said)


class Pool:
    """One model's engines; one caller at a time."""

    def __init__(
        self, settings: EngineSettings, environment: dict[str, str], engine: type, *, size: PoolSize | None = None
    ) -> None:
        self.settings, self.size = settings, size or PoolSize()
        self.engine_name = ""
        self.replicas: list[Replica] = []
        self._environment, self._engine = environment, engine
        self._weights: str | None = None

    @property
    def gpus(self) -> float:
        """GPUs that its engines hold, those that start included."""
        of_one = self.settings.num_workers if self.settings.spans_workers else self.settings.gpus
        return float(of_one * sum(replica.starts_at is None for replica in self.replicas))

    def load(self) -> PoolLoad:
        """How full it was when its engines last said so."""
        said = [replica.load for replica in self.replicas if replica.load is not None]
        uses = [one.kv_use for one in said if one.kv_use is not None]
        running = sum(one.running for one in said)
        return PoolLoad(
            engines=sum(replica.is_ready for replica in self.replicas),
            starting=sum(not replica.is_ready for replica in self.replicas),
            running=running,
            waiting=max(0, sum(len(replica.held) for replica in self.replicas) - running),
            kv_use=sum(uses) / len(uses) if uses else None,
        )

    def open(self) -> None:
        """Start the fewest engines and wait until all are ready.

        Where some are there, those that are missing are started and not waited for.

        Raises:
            EngineStartError: one cannot start; none is left behind.
        """
        if self.replicas:
            while len(self.replicas) < self.size.fewest:
                self._add()
            return
        self.replicas = [Replica() for _ in range(self.size.fewest)]
        try:
            for replica in self.replicas:
                self._start(replica)
            for replica in self.replicas:
                self._wait_for(replica)
        except EngineStartError:
            self.close()
            raise

    def close(self) -> None:
        """End exactly this pool's actors."""
        for replica in self.replicas:
            _end(replica)
        self.replicas, self._weights = [], None

    def use_weights(self, folder: str | None) -> None:
        """Make every engine hold a checkpoint's weights, or its own again for None.

        A folder is read each time: what trains may have written other weights into it since.

        Raises:
            EngineStartError: an engine cannot take them. The pool is closed, since its weights may be half replaced.
        """
        if folder is None and self._weights is None:
            return
        self._weights = folder
        for replica in self.replicas:
            if not replica.is_ready:
                continue  # it takes them when it is
            try:
                ray.get(replica.actor.reload.remote(folder or self.settings.model))
            except RayActorError:
                self.replace(replica)
            except RayTaskError as error:
                self.close()
                raise EngineStartError(
                    f"the engine of {self.settings.model} cannot take the weights in {folder}: {last_line(error)}; "
                    "wanted safetensors of the same architecture"
                ) from error

    def add_engine(self) -> bool:
        """Start one more, without waiting for it; False where there are as many as there may be."""
        if len(self.replicas) >= self.size.most or not all(one.is_ready for one in self.replicas):
            return False
        self._add()
        log.info("engines of %s: %d, all were full", self.settings.model, len(self.replicas))
        return True

    def end_idle(self, now: float) -> None:
        """End what has had nothing to do for long, down to the fewest; `now` in seconds of a monotonic clock."""
        for replica in reversed(list(self.replicas)):
            is_busy = replica.held or replica.exchange is not None
            if len(self.replicas) <= self.size.fewest:
                return
            if not is_busy and replica.is_ready and now - replica.idle_since > SECONDS_IDLE:
                self.replicas.remove(replica)
                _end(replica)
                log.info("engines of %s: %d, one was idle", self.settings.model, len(self.replicas))

    def run(self, work: Iterable[Work | None]) -> Iterator[Done]:
        """Answers as they finish, in any order, exactly one per piece of work.

        Raises:
            EngineStartError, EngineKeepsDyingError: what is not answered yet stays owed.
            ValueError: a piece of work is asked again before it is answered.
        """
        return Stream(self, work).answers()

    def replace(self, replica: Replica) -> None:
        """Another engine, with the same weights, in the place of a dead one.

        Raises:
            EngineStartError: it cannot start.
        """
        self.restart(replica)
        self._wait_for(replica)

    def restart(self, replica: Replica) -> None:
        """Start another engine in the place of a dead one, without waiting for it (`Replica.starting`)."""
        _end(replica)
        replica.idle_since = time.monotonic()
        self._start(replica)

    def restart_due(self, now: float) -> None:
        """Try again to start what did not start a while ago; `now` in seconds of a monotonic clock."""
        for replica in self.replicas:
            if replica.starts_at is not None and replica.starts_at <= now:
                replica.starts_at = None
                self._start(replica)

    def _add(self) -> None:
        replica = Replica()
        self._start(replica)
        self.replicas.append(replica)

    def _start(self, replica: Replica) -> None:
        kinds, workers = self.settings.gpu_kinds, self.settings.num_workers
        label = {GPU_KIND: f"in({','.join(kinds)})"} if kinds else {}
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": self.settings.gpus, "label_selector": label}
        if self.settings.spans_workers:
            # vLLM's own workers take one bundle each, on several nodes if need be; the actor itself needs no GPU.
            replica.place = placement_group(
                [{"CPU": 1, "GPU": 1}] * workers, strategy="PACK", bundle_label_selector=[label] * workers
            )
            options = {
                "num_cpus": 0,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(
                    placement_group=replica.place,
                    placement_group_bundle_index=0,
                    placement_group_capture_child_tasks=True,
                ),
            }
        actor: Any = ray.remote(self._engine)
        replica.actor = actor.options(
            **options, max_restarts=0, max_task_retries=0, runtime_env={"env_vars": self._environment}
        ).remote(self.settings)
        replica.starting = replica.actor.name.remote()

    def _wait_for(self, replica: Replica) -> None:
        """Wait until an engine is ready, which it shows by saying its name, and holds the pool's weights."""
        seconds = 0.0
        while not ray.wait([replica.starting], timeout=SECONDS_BETWEEN_LOOKS)[0]:
            seconds += SECONDS_BETWEEN_LOOKS
            self.look_while_waiting(seconds)
        self._take_in(replica)

    def look_while_waiting(self, seconds: float) -> None:
        """Say now and then that an engine is not ready yet.

        Raises:
            EngineStartError: there is no node left that it could start on.
        """
        if not any(node["Alive"] for node in ray.nodes()):
            raise EngineStartError(f"no node of the Ray cluster is alive to start the engine of {self.settings.model}")
        if seconds % SECONDS_BETWEEN_WARNINGS >= SECONDS_BETWEEN_LOOKS:
            return
        log.warning(
            "engine of %s not ready after %.0f s: it loads, or waits for %g GPUs%s (the cluster has %s)",
            self.settings.model,
            seconds,
            self.settings.gpus,
            " of kind " + " or ".join(self.settings.gpu_kinds) if self.settings.gpu_kinds else "",
            _gpus_by_kind(),
        )

    def arrive(self, replica: Replica) -> None:
        """Take in an engine that said its name, or failed to.

        One above the fewest that does not start is let go. Another one is tried again a few times, and let go if the
        pool has an engine that works.

        Raises:
            EngineStartError: there is none, it did not start or cannot take the pool's weights; the pool is closed.
        """
        try:
            self._take_in(replica)
        except EngineStartError as error:
            _end(replica)
            replica.failed_starts += 1
            is_one_more = len(self.replicas) > self.size.fewest
            if not is_one_more and replica.failed_starts < MOST_STARTS:
                pause = SECONDS_BETWEEN_STARTS * replica.failed_starts
                replica.starting, replica.starts_at = None, time.monotonic() + pause
                log.warning("%s; tried again in %.0f s", error, pause)
                return
            if len(self.replicas) == 1:
                self.close()
                raise
            log.warning("%s; the others go on", error)
            self.replicas.remove(replica)

    def _take_in(self, replica: Replica) -> None:
        """Take in an engine that said its name, and give it the pool's weights.

        Raises:
            EngineStartError: it did not start, or cannot take them.
        """
        try:
            self.engine_name, replica.starting = str(ray.get(replica.starting)), None
            replica.load, replica.idle_since, replica.failed_starts = None, time.monotonic(), 0
            if self._weights is not None:
                ray.get(replica.actor.reload.remote(self._weights))
        except DEATHS as error:
            raise EngineStartError(f"the engine of {self.settings.model} does not start: {last_line(error)}") from error


def _gpus_by_kind() -> str:
    """`8 H100, 4 L4` of the nodes that are alive, or `no GPU`."""
    found = Counter[str]()
    for node in ray.nodes():
        if node["Alive"]:
            found[node.get("Labels", {}).get(GPU_KIND, "of unknown kind")] += int(node["Resources"].get("GPU", 0))
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()) if count) or "no GPU"


def _end(replica: Replica) -> None:
    """End one replica's actor and give back what was reserved for it.

    Where this process has left its cluster, which ends both, nothing is asked: Ray would start another one to ask.
    """
    if ray.is_initialized():
        if replica.actor is not None:
            ray.kill(replica.actor, no_restart=True)
        if replica.place is not None:
            remove_placement_group(replica.place)
    replica.actor = replica.place = None
