"""One model's engines as Ray actors: started, kept full, replaced when they die.

`Pool.run` streams work through all replicas of a model. The next exchange with an engine is under way before its
last answers are handed on, so an engine never waits for its caller to commit them.

A dead engine is replaced, while the others go on, and only what it had not answered is asked again: apart from
everything else, in groups of eight, then alone. Where no place is left for another one (its node is gone), the others
finish the work. What is alone in flight at a death, after an earlier one, is set aside once the replacement has
answered a harmless question; if it has not, the machine is at fault, and nothing is recorded against the work.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from amr_pipeline.engines.engine_work import Done, EngineSettings, Work, refused

log = logging.getLogger(__name__)

EXCHANGE_SECONDS = 5.0
"""Longest an exchange lasts before finished work comes back."""

BATCHES_IN_FLIGHT = 3
"""Work given to an engine, as a multiple of what it steps together: enough behind it that it never waits."""

SUSPECTS_TOGETHER = 8
"""Work in flight again after its engine died; a group that kills another one is asked piece by piece."""

MOST_DEATHS = 5
"""Deaths in a row without one answer between them, after which the machine or the model is at fault."""

SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_WARNINGS = 5.0, 60.0

PROBE_SECONDS = 1_800.0
"""Longest wait for an engine that is to answer a harmless question: large models load for many minutes."""

PROBE = Work(work_id="probe", kind="write", messages=(("user", "Hello"),))


class EngineStartError(RuntimeError):
    """An engine could not be started; the message ends with the engine's own reason."""


class EngineKeepsDyingError(RuntimeError):
    """Engines die before they answer anything; the machine or the model is at fault, not a prompt."""


@dataclass(kw_only=True)
class Replica:
    """One engine and what it holds.

    Attributes:
        place: GPUs reserved for it on several nodes, or None.
        held: unanswered work by id.
        exchange: the exchange under way, or None.
        starting: the name that it will say when it is ready; None once it was said.
        apart: it holds suspects and is given nothing else until they are answered.
    """

    actor: Any = None
    place: Any = None
    held: dict[str, Work] = field(default_factory=dict)
    exchange: Any = None
    starting: Any = None
    apart: bool = False


class Pool:
    """One model's engines; one caller at a time."""

    def __init__(
        self, settings: EngineSettings, environment: dict[str, str], engine: type, *, num_replicas: int = 1
    ) -> None:
        self.settings = settings
        self.engine_name = ""
        self.replicas: list[Replica] = []
        self._environment, self._engine, self._num_replicas = environment, engine, num_replicas
        self._weights: str | None = None

    def open(self) -> None:
        """Start every replica and wait until all are ready; nothing happens when they are.

        Raises:
            EngineStartError: one cannot start; none is left behind.
        """
        if self.replicas:
            return
        self.replicas = [Replica() for _ in range(self._num_replicas)]
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
            if replica.starting is not None:
                continue  # it takes them when it is ready
            try:
                ray.get(replica.actor.reload.remote(folder or self.settings.model))
            except RayActorError:
                self.replace(replica)
            except RayTaskError as error:
                self.close()
                raise EngineStartError(
                    f"the engine of {self.settings.model} cannot take the weights in {folder}: {_last_line(error)}; "
                    "wanted safetensors of the same architecture"
                ) from error

    def run(self, work: Iterable[Work]) -> Iterator[Done]:
        """Answers as they finish, in any order, exactly one per piece of work.

        Raises:
            EngineStartError, EngineKeepsDyingError: what is not answered yet stays owed.
            ValueError: a piece of work is asked again before it is answered.
        """
        return _Run(self, work).answers()

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
        self._start(replica)

    def _start(self, replica: Replica) -> None:
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": self.settings.gpus}
        if self.settings.gpus > 0 and self.settings.num_workers > 1:
            # vLLM's own workers take one bundle each, on several nodes if need be; the actor itself needs no GPU.
            replica.place = placement_group([{"CPU": 1, "GPU": 1}] * self.settings.num_workers, strategy="PACK")
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
        self.arrive(replica)

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
            "engine of %s not ready after %.0f s: it loads, or waits for %g GPUs (the cluster has %g)",
            self.settings.model,
            seconds,
            self.settings.gpus,
            ray.cluster_resources().get("GPU", 0),
        )

    def arrive(self, replica: Replica) -> None:
        """Take in an engine that said its name, and give it the pool's weights.

        Raises:
            EngineStartError: it did not start, or cannot take them.
        """
        try:
            self.engine_name, replica.starting = str(ray.get(replica.starting)), None
            if self._weights is not None:
                ray.get(replica.actor.reload.remote(self._weights))
        except (RayActorError, RayTaskError) as error:
            raise EngineStartError(
                f"the engine of {self.settings.model} does not start: {_last_line(error)}"
            ) from error


def _end(replica: Replica) -> None:
    """End one replica's actor and give back what was reserved for it."""
    if replica.actor is not None:
        ray.kill(replica.actor, no_restart=True)
    if replica.place is not None:
        remove_placement_group(replica.place)
    replica.actor = replica.place = None


class _Run:
    """One caller's stream of work through a pool."""

    def __init__(self, pool: Pool, work: Iterable[Work]) -> None:
        self._pool, self._source = pool, iter(work)
        self._suspects: deque[list[Work]] = deque()
        self._deaths: Counter[str] = Counter()
        self._silent_deaths = 0
        self._is_drained = False

    def answers(self) -> Iterator[Done]:
        """Every answer, once."""
        waited = 0.0
        try:
            while busy := self._feed():
                events = {replica.starting or replica.exchange: replica for replica in busy}
                ready, _ = ray.wait(list(events), num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)
                if not ready:
                    waited += SECONDS_BETWEEN_LOOKS
                    if any(replica.starting for replica in busy):
                        self._pool.look_while_waiting(waited)
                    continue
                waited, replica = 0.0, events[ready[0]]
                if replica.starting is not None:
                    self._pool.arrive(replica)
                    continue
                finished = self._collect(replica)
                self._feed()
                yield from finished
        finally:
            self._leave()

    def _feed(self) -> list[Replica]:
        """Give every engine that waits what it has room for; the engines that something is expected of."""
        for replica in self._pool.replicas:
            if replica.exchange is not None or replica.starting is not None:
                continue
            new = self._next_for(replica)
            for item in new:
                if item.work_id in replica.held:
                    raise ValueError(f"request {item.work_id} is asked again before it is answered")
                replica.held[item.work_id] = item
            if replica.held:
                at_least = max(1, min(len(replica.held), self._pool.settings.sequences // 2))
                replica.exchange = replica.actor.exchange.remote(new, at_least, EXCHANGE_SECONDS)
        busy = [replica for replica in self._pool.replicas if replica.exchange is not None]
        is_more = bool(busy or self._suspects) or not self._is_drained
        return busy + [replica for replica in self._pool.replicas if replica.starting is not None] if is_more else []

    def _next_for(self, replica: Replica) -> list[Work]:
        if not replica.held:
            replica.apart = bool(self._suspects)
            if self._suspects:
                return self._suspects.popleft()
        if replica.apart:
            return []
        room = BATCHES_IN_FLIGHT * self._pool.settings.sequences - len(replica.held)
        new = list(islice(self._source, room))
        self._is_drained = len(new) < room
        return new

    def _collect(self, replica: Replica) -> list[Done]:
        exchange, replica.exchange = replica.exchange, None
        try:
            finished: list[Done] = ray.get(exchange)
        except (RayActorError, RayTaskError) as error:  # an engine that raises is in no known state either
            return self._bury(replica, error)
        for done in finished:
            del replica.held[done.work_id]
        if finished:
            self._silent_deaths = 0
        return finished

    def _bury(self, replica: Replica, error: Exception) -> list[Done]:
        """Replace a dead engine; what is set aside because of it, if anything."""
        victims = list(replica.held.values())
        replica.held.clear()
        log.warning(
            "engine of %s died with %d in flight; starting another: %s",
            self._pool.settings.model,
            len(victims),
            _last_line(error),
        )
        self._silent_deaths += 1
        if self._silent_deaths > MOST_DEATHS:
            raise EngineKeepsDyingError(
                f"the engine of {self._pool.settings.model} died {self._silent_deaths} times without an answer in "
                f"between: {_last_line(error)}"
            ) from error
        self._pool.restart(replica)
        self._deaths.update(item.work_id for item in victims)
        if len(victims) == 1 and self._deaths[victims[0].work_id] > 1 and self._is_sound(replica):
            return [refused(victims[0], f"{self._deaths[victims[0].work_id]} engines died of it, the last time alone")]
        size = SUSPECTS_TOGETHER if len(victims) > SUSPECTS_TOGETHER else 1
        groups = [victims[start : start + size] for start in range(0, len(victims), size)]
        self._suspects.extendleft(reversed(groups))
        return []

    def _is_sound(self, replica: Replica) -> bool:
        """Make sure that it was the work that killed engines, and not the machine; False where no engine came."""
        probe = replica.actor.exchange.remote([PROBE], 1, SECONDS_BETWEEN_WARNINGS)
        if not ray.wait([probe], timeout=PROBE_SECONDS)[0]:
            return False
        try:
            ray.get(probe)
        except (RayActorError, RayTaskError) as error:
            raise EngineKeepsDyingError(
                f"the engine of {self._pool.settings.model} dies of a harmless question too: {_last_line(error)}"
            ) from error
        self._silent_deaths = 0
        return True

    def _leave(self) -> None:
        """Let engines drop what an unfinished stream left in them; they do so before whatever comes next."""
        for replica in self._pool.replicas:
            if replica.held:
                replica.actor.forget.remote()
            replica.held.clear()
            replica.exchange, replica.apart = None, False


def _last_line(error: Exception) -> str:
    """What an actor's error comes down to: the last line of its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
