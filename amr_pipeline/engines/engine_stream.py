"""Work flowing through one model's engines: each kept full, a dead one replaced, what kills them found.

`Stream.answers` hands work to every engine of a pool. The next exchange with an engine is under way before its last
answers are handed on, so an engine never waits for its caller to commit them.

A dead engine is replaced, while the others go on, and only what it had not answered is asked again: apart from
everything else, in groups of eight, then alone. Where no place is left for another one (its node is gone), the others
finish the work. What is alone in flight at a death, after an earlier one, is set aside once the replacement has
answered a harmless question; if it has not, the machine is at fault, and nothing is recorded against the work.

When no new work is left, engines give back what they have not begun to those with room, and an engine with nothing to
do goes if the pool may do without it. What an engine has begun stays with it: elsewhere it would begin again.

Belongs here: who gets which work, and what a death means. Does not belong here: starting and ending engines
(`engine_replicas`).
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from amr_pipeline.engines.engine_work import Done, Exchanged, Load, Work, refused

if TYPE_CHECKING:
    from amr_pipeline.engines.engine_replicas import Pool

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

SECONDS_FULL = 30.0
"""How long all engines must have been full before one is added."""

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
        load: how full it said it was; None before its first exchange.
        idle_since: when it last had something to do, seconds of a monotonic clock.
    """

    actor: Any = None
    place: Any = None
    held: dict[str, Work] = field(default_factory=dict)
    exchange: Any = None
    starting: Any = None
    apart: bool = False
    load: Load | None = None
    idle_since: float = field(default_factory=time.monotonic)


class Stream:
    """One caller's work through a pool.

    Args:
        pool: whose engines.
        work: pieces to do; a None among them says that there is nothing now and may be later. With nothing in flight
            either, the stream ends, and whoever has more begins another.
    """

    def __init__(self, pool: "Pool", work: Iterable[Work | None]) -> None:
        self._pool, self._source = pool, iter(work)
        self._suspects: deque[list[Work]] = deque()
        self._returned: deque[Work] = deque()
        self._deaths: Counter[str] = Counter()
        self._silent_deaths = 0
        self._is_drained = self._is_dry = False
        self._full_since: float | None = None

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
        self._is_dry = False
        for replica in self._pool.replicas:
            if replica.exchange is None and replica.starting is None:
                self._give(replica)
        self._resize()
        busy = [replica for replica in self._pool.replicas if replica.exchange is not None]
        is_more = bool(busy or self._suspects or self._returned) or not (self._is_drained or self._is_dry)
        return busy + [replica for replica in self._pool.replicas if replica.starting is not None] if is_more else []

    def _give(self, replica: Replica) -> None:
        """Begin an exchange, if there is something to exchange."""
        new = self._next_for(replica)
        for item in new:
            if item.work_id in replica.held:
                raise ValueError(f"request {item.work_id} is asked again before it is answered")
            replica.held[item.work_id] = item
        if replica.held:
            limit = self._limit(replica)
            at_least = max(1, min(len(replica.held), limit // 2))
            replica.exchange = replica.actor.exchange.remote(new, at_least, EXCHANGE_SECONDS, self._too_many(replica))
            replica.idle_since = time.monotonic()

    def _next_for(self, replica: Replica) -> list[Work]:
        if not replica.held:
            replica.apart = bool(self._suspects)
            if self._suspects:
                return self._suspects.popleft()
        if replica.apart:
            return []
        batches = 1 if self._is_drained else BATCHES_IN_FLIGHT
        room = batches * self._limit(replica) - len(replica.held)
        new: list[Work] = []
        while len(new) < room and (item := self._next()) is not None:
            new.append(item)
        return new

    def _next(self) -> Work | None:
        """What was given back, or what is new; None for neither."""
        if self._returned:
            return self._returned.popleft()
        if self._is_drained or self._is_dry:
            return None
        try:
            item = next(self._source)
        except StopIteration:
            self._is_drained = True
            return None
        self._is_dry = item is None
        return item

    def _limit(self, replica: Replica) -> int:
        """Requests that an engine steps together, as far as anybody knows."""
        return replica.load.limit if replica.load else self._pool.settings.sequences

    def _too_many(self, replica: Replica) -> int:
        """How much an engine should give back for others to begin, once nothing new comes."""
        if not self._is_drained or self._returned or replica.apart or replica.load is None:
            return 0
        others = [one for one in self._pool.replicas if one is not replica and one.starting is None and not one.apart]
        room = sum(max(0, self._limit(one) - len(one.held)) for one in others)
        return min(replica.load.waiting, room)

    def _resize(self) -> None:
        """Add an engine where all have been full for a while; end one that has had nothing to do for a while."""
        pool, now = self._pool, time.monotonic()
        is_full = not (self._is_drained or self._is_dry) and all(
            one.starting is None and len(one.held) >= self._limit(one) for one in pool.replicas
        )
        if not is_full:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        elif now - self._full_since >= SECONDS_FULL and pool.add_engine():
            self._full_since = None
        pool.end_idle(now)

    def _collect(self, replica: Replica) -> list[Done]:
        exchange, replica.exchange = replica.exchange, None
        try:
            came: Exchanged = ray.get(exchange)
        except (RayActorError, RayTaskError) as error:  # an engine that raises is in no known state either
            return self._bury(replica, error)
        for done in came.done:
            del replica.held[done.work_id]
        self._returned += [replica.held.pop(identity) for identity in came.returned]
        replica.load, replica.idle_since = came.load, time.monotonic()
        if came.done:
            self._silent_deaths = 0
        return came.done

    def _bury(self, replica: Replica, error: Exception) -> list[Done]:
        """Replace a dead engine; what is set aside because of it, if anything."""
        victims = list(replica.held.values())
        replica.held.clear()
        log.warning(
            "engine of %s died with %d in flight; starting another: %s",
            self._pool.settings.model,
            len(victims),
            last_line(error),
        )
        self._silent_deaths += 1
        if self._silent_deaths > MOST_DEATHS:
            raise EngineKeepsDyingError(
                f"the engine of {self._pool.settings.model} died {self._silent_deaths} times without an answer in "
                f"between: {last_line(error)}"
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
        probe = replica.actor.exchange.remote([PROBE], 1, SECONDS_BETWEEN_WARNINGS, 0)
        if not ray.wait([probe], timeout=PROBE_SECONDS)[0]:
            return False
        try:
            ray.get(probe)
        except (RayActorError, RayTaskError) as error:
            raise EngineKeepsDyingError(
                f"the engine of {self._pool.settings.model} dies of a harmless question too: {last_line(error)}"
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


def last_line(error: Exception) -> str:
    """What an actor's error comes down to: the last line of its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
