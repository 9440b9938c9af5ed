"""Pools on an existing cluster, from a caller's side: found or made by name, used, listed, ended.

A caller streams work through a `PoolKeeper` as through a pool of its own. Should the keeper or its node die, another
one is made and only what was not answered is asked again.

Belongs here: names, and one caller's conversation with a keeper. Does not belong here: what a keeper does with many
callers (`pool_keeper`), which pool a row needs (`engine_pools`).
"""

import hashlib
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from amr_pipeline.engines.engine_replicas import GPU_KIND, PoolLoad, PoolSize
from amr_pipeline.engines.engine_stream import (
    MOST_DEATHS,
    SECONDS_BETWEEN_LOOKS,
    EngineKeepsDyingError,
    EngineStartError,
    last_line,
)
from amr_pipeline.engines.engine_work import Done, EngineSettings, Work, after_failures
from amr_pipeline.engines.pool_keeper import Answers, NotACallerError, PoolKeeper, PoolStatus

log = logging.getLogger(__name__)

NAMESPACE, PREFIX = "amr_pipeline", "pool:"

BEAT_SECONDS = 10.0
"""A caller that commits for long says meanwhile that it is there."""

MOST_CALLS = 256
"""Callers that one keeper can talk to at a time; each has one call under way and a beat now and then."""

STATUS_SECONDS = 10.0


class PoolBrokenError(RuntimeError):
    """Something ended a pool's work that nobody foresaw; the message says what, the keeper's log where."""


_ERRORS: dict[str, type[RuntimeError]] = {
    "EngineStartError": EngineStartError,
    "EngineKeepsDyingError": EngineKeepsDyingError,
}


def pool_name(settings: EngineSettings) -> str:
    """`r1-distill-qwen-7b-1a2b3c4d`: the model for a person, a digest of all settings and of this version for the rest.

    Two distillers that differ in prompt or sampling only have one pool.
    """
    last = re.sub(r"[^a-z0-9.]+", "-", settings.model.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-") or "model"
    said = repr((sorted(asdict(settings).items(), key=str), version("amr_pipeline")))
    return f"{last}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


class KeptPool:
    """One caller's place at a pool that others may use as well (`kept_pool`)."""

    def __init__(
        self, settings: EngineSettings, environment: dict[str, str], engine: type, size: PoolSize, idle_seconds: float
    ) -> None:
        self.name = pool_name(settings)
        self.engine_name = ""
        self.load: PoolLoad | None = None
        self.gpus = 0.0
        self._make = (settings, environment, engine, size, idle_seconds)
        self._label = ""
        self._weights: str | None = None
        self._caller = ""
        self._keeper: Any = None

    def join(self, label: str, weights: str | None) -> None:
        """Find or make the pool and take a place at it.

        Raises:
            EngineStartError: its keeper cannot be started.
        """
        self._label, self._weights = label, weights
        caller = f"{label} ({socket.gethostname()}:{os.getpid()})"
        for _ in range(MOST_DEATHS):
            self._caller, self._keeper = uuid.uuid4().hex, self._found_or_made()
            try:
                if ray.get(self._keeper.join.remote(self._caller, caller, weights)):
                    return
            except RayActorError:
                continue  # it ended between being found and being asked
        raise EngineStartError(f"the keeper of pool {self.name} ends as soon as it is started")

    def leave(self) -> None:
        """Give the place up; a keeper that died meanwhile has forgotten it anyway."""
        self._keeper.leave.remote(self._caller)

    def run(self, work: Iterable[Work]) -> Iterator[Done]:
        """Answers as they finish, in any order, exactly one per piece of work; none is taken before engines are ready.

        Raises:
            EngineStartError, EngineKeepsDyingError, PoolBrokenError: what is not answered yet stays owed.
            ValueError: a piece of work is asked again before it is answered.
        """
        return _Asking(self, work).answers()

    def exchange(self, new: list[Work], at_least: int) -> Any:
        """Begin an exchange with the keeper."""
        return self._keeper.exchange.remote(self._caller, new, at_least, SECONDS_BETWEEN_LOOKS)

    def note(self, answers: Answers) -> None:
        """Take in what the keeper says of the pool.

        Raises:
            EngineStartError, EngineKeepsDyingError, PoolBrokenError: what ended all work.
        """
        self.engine_name, self.load, self.gpus = answers.engine_name or self.engine_name, answers.load, answers.gpus
        if answers.error is not None:
            kind, message = answers.error
            raise _ERRORS.get(kind, PoolBrokenError)(message if kind in _ERRORS else f"{kind}: {message}")

    def rejoin(self) -> None:
        """Take a place again after the keeper died, or forgot this caller."""
        self.join(self._label, self._weights)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Say now and then that this caller is there, from a thread of its own."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_SECONDS):
                self._keeper.beat.remote(self._caller)

        thread = threading.Thread(target=beat, name=f"beat {self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _found_or_made(self) -> Any:
        settings, environment, engine, size, idle_seconds = self._make
        keeper: Any = ray.remote(PoolKeeper)
        return keeper.options(
            name=PREFIX + self.name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=0,
            max_concurrency=MOST_CALLS,
        ).remote(self.name, settings, environment, engine, size, idle_seconds)


@contextmanager
def kept_pool(pool: KeptPool, label: str, weights: str | None) -> Iterator[KeptPool]:
    """A place at a pool for as long as it is wanted.

    Args:
        pool: not joined yet.
        label: what a list of pools calls this caller.
        weights: a checkpoint's folder that every node can read, or None for the model's own.
    """
    pool.join(label, weights)
    try:
        with pool.beating():
            yield pool
    finally:
        pool.leave()


class _Asking:
    """One stream of work through a kept pool; the next exchange is under way while answers are committed."""

    def __init__(self, pool: KeptPool, work: Iterable[Work]) -> None:
        self._pool, self._source = pool, iter(work)
        self._held: dict[str, Work] = {}
        self._again: deque[Work] = deque()
        self._is_drained = False
        self._deaths = 0
        self._in_vain: Counter[str] = Counter()
        self._cause: str | None = None

    def answers(self) -> Iterator[Done]:
        """Every answer, once; the first exchanges only wait for engines, and ask how much there is room for."""
        exchange = self._pool.exchange([], 1)
        while exchange is not None:
            try:
                came: Answers = ray.get(exchange)
            except (RayActorError, NotACallerError, ObjectLostError) as error:
                self._bury(error)
                exchange = self._pool.exchange([], 1)
                continue
            self._pool.note(came)
            for done in came.done:
                del self._held[done.work_id]
            self._deaths = 0 if came.done else self._deaths
            exchange = self._begin(came.room) if came.is_open else self._pool.exchange([], 1)
            yield from (after_failures(done, self._in_vain[done.work_id], self._cause) for done in came.done)

    def _begin(self, room: int) -> Any:
        """The next exchange; None where nothing is left to ask or to wait for."""
        new: list[Work] = []
        while len(new) < room and (item := self._next()) is not None:
            if item.work_id in self._held:
                raise ValueError(f"request {item.work_id} is asked again before it is answered")
            self._held[item.work_id] = item
            new.append(item)
        if not self._held:
            return None
        return self._pool.exchange(new, max(1, len(self._held) // 8))

    def _next(self) -> Work | None:
        if self._again:
            return self._again.popleft()
        if self._is_drained:
            return None
        item = next(self._source, None)
        self._is_drained = item is None
        return item

    def _bury(self, error: Exception) -> None:
        """Find or make the pool again and ask what was not answered.

        Raises:
            EngineKeepsDyingError: that happened too often without an answer in between.
        """
        self._deaths += 1
        if self._deaths > MOST_DEATHS:
            raise EngineKeepsDyingError(f"pool {self._pool.name} was lost {self._deaths} times: {last_line(error)}")
        self._in_vain.update(list(self._held))
        self._cause = last_line(error)
        self._again = deque(self._held.values())
        self._held.clear()
        self._pool.leave()  # where it is only the answer that is lost, the keeper drops what was asked
        self._pool.rejoin()


# ----------------------------------------------------------------------------------------------------------- all pools


def listed_pools() -> list[PoolStatus]:
    """Every pool of the cluster that this process is connected to, the one idle longest first."""
    found: list[PoolStatus] = []
    for keeper in _keepers().values():
        try:
            found.append(ray.get(keeper.status.remote(), timeout=STATUS_SECONDS))
        except (RayActorError, RayTaskError, GetTimeoutError):
            continue  # it ended meanwhile, or its node is lost, or it cannot say
    return sorted(found, key=lambda one: -(one.idle_seconds or -1.0))


def stop_pool(name: str, *, also_used: bool = False) -> bool:
    """End a pool with its engines; False where somebody uses it and `also_used` is not set.

    Its callers, where it has any, make it again and lose what was in flight.

    Raises:
        LookupError: there is none of this name.
    """
    keeper = _keepers().get(name)
    if keeper is None:
        raise LookupError(f"no pool {name!r}; there are {sorted(_keepers()) or 'none'}")
    try:
        may_go = ray.get(keeper.retire.remote(), timeout=STATUS_SECONDS)
    except (GetTimeoutError, RayTaskError):
        may_go = False
    except RayActorError:
        return True
    if may_go or also_used:
        ray.kill(keeper)
        return True
    return False


def stop_idle_pools() -> list[str]:
    """End every pool that nobody uses; their names."""
    return [one.name for one in listed_pools() if not one.callers and stop_pool(one.name)]


def make_room(settings: EngineSettings, size: PoolSize) -> None:
    """End idle pools, the one idle longest first, until a pool that does not exist yet could start.

    What is still missing then is left to the cluster, which may bring nodes when they are asked for.
    """
    if pool_name(settings) in _keepers():
        return
    of_one = settings.num_workers if settings.spans_workers else settings.gpus
    name, wanted = ("GPU", of_one * size.fewest) if settings.gpus else ("CPU", float(size.fewest))
    for one in listed_pools():
        if _free(name, settings.gpu_kinds) >= wanted:
            return
        if not one.callers and stop_pool(one.name):
            log.info("pool %s ends: it is idle, and %s needs %g %s", one.name, settings.model, wanted, name)
            deadline = time.monotonic() + SECONDS_BETWEEN_LOOKS
            while _free(name, settings.gpu_kinds) < wanted and time.monotonic() < deadline:
                time.sleep(0.2)


def _free(name: str, kinds: tuple[str, ...]) -> float:
    """How much of a resource nobody holds, on nodes with these kinds of GPU or, for none, on all."""
    if not kinds:
        return ray.available_resources().get(name, 0.0)
    labelled = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Labels"].get(GPU_KIND) in kinds]
    # A client of a cluster cannot ask this itself, so a process of the cluster does.
    asked: Any = ray.remote(num_cpus=0)(available_resources_per_node)
    free: dict[str, dict[str, float]] = ray.get(asked.remote())
    return sum(free.get(node, {}).get(name, 0.0) for node in labelled)


def _keepers() -> dict[str, Any]:
    listed: Any = ray.util.list_named_actors(all_namespaces=True)
    names = [one["name"] for one in listed if one["namespace"] == NAMESPACE]
    found: dict[str, Any] = {}
    for name in names:
        if name.startswith(PREFIX):
            try:
                found[name.removeprefix(PREFIX)] = ray.get_actor(name, namespace=NAMESPACE)
            except ValueError:
                continue  # it ended meanwhile
    return found
