"""Work flowing through one model's engines: each kept full, a dead one replaced, what kills them found.

`Stream.answers` hands work to every engine of a pool. The next exchange with an engine is under way before its last
answers are handed on, so that an engine works on while its caller commits them, as long as an exchange lasts.

A dead engine is replaced, while the others go on, and only what it had not answered is asked again. Most engines die of
their machine, so what was in flight once goes first in line and no more. What was in flight at two deaths is suspect:
it is asked again eight pieces at a time, among other work, and after a third death alone. What is alone in flight at a
death, after an earlier one, is set aside once the replacement has answered a harmless question; if it dies of that too,
the machine is at fault, and nothing is recorded against the work. Few pieces are asked alone at once.

Where no place is left for another engine (its node is gone), the others finish the work. When no new work is left,
engines give back what they have not begun to those with room, and an engine with nothing to do goes if the pool may do
without it. What an engine has begun stays with it: elsewhere it would begin again.

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
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from amr_pipeline.engines.engine_work import Done, Exchanged, Load, Work, after_failures, refused

if TYPE_CHECKING:
    from amr_pipeline.engines.engine_replicas import Pool

log = logging.getLogger(__name__)

EXCHANGE_SECONDS = 5.0
"""Longest an exchange lasts before finished work comes back."""

BATCHES_IN_FLIGHT = 3
"""Work given to an engine, as a multiple of what it steps together: enough behind it that it never waits."""

DEATHS = (RayActorError, RayTaskError, ObjectLostError)
"""An engine that raises is in no known state either, and an answer is lost with the node that it lay on."""

SUSPECTS_TOGETHER = 8
"""Suspects that one engine holds at a time, and so few pieces in flight that each is asked alone after one death."""

MOST_DEATHS = 5
"""Deaths in a row without one answer between them, after which the machine or the model is at fault."""

SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_WARNINGS, SECONDS_BETWEEN_STEPS = 5.0, 60.0, 0.5

SECONDS_FULL = 30.0
"""How long all engines must have been full before one is added."""

PROBE_SECONDS = 1_800.0
"""Longest wait for an engine that is to answer a harmless question while another one has nothing to do: large models
load for many minutes."""

PROBE = Work(work_id="probe", kind="write", messages=(("user", "Hello"),))


class EngineStartError(RuntimeError):
    """An engine could not be started; the message ends with the engine's own reason."""


class EngineKeepsDyingError(RuntimeError):
    """Engines die before they answer anything; the machine or the model is at fault, not a prompt."""


@dataclass(kw_only=True, eq=False)
class Replica:
    """One engine and what it holds.

    Attributes:
        place: GPUs reserved for it on several nodes, or None.
        held: unanswered work by id.
        exchange: the exchange under way, or None.
        starting: the name that it will say when it is ready; None once it was said.
        starts_at: when it is to be started again after it did not start, seconds of a monotonic clock; None: it was.
        failed_starts: how often in a row it did not start.
        apart: it holds one piece of work that nothing is asked beside.
        group: ids of the suspects that it holds among other work, and held.
        accused: what its predecessor died of, unless this one dies of a harmless question too.
        load: how full it said it was; None before its first exchange.
        idle_since: when it last had something to do, seconds of a monotonic clock.
    """

    actor: Any = None
    place: Any = None
    held: dict[str, Work] = field(default_factory=dict)
    exchange: Any = None
    starting: Any = None
    starts_at: float | None = None
    failed_starts: int = 0
    apart: bool = False
    group: frozenset[str] = frozenset()
    accused: Work | None = None
    load: Load | None = None
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def is_ready(self) -> bool:
        """Whether it has started."""
        return self.starting is None and self.starts_at is None


class Stream:
    """One caller's work through a pool.

    Args:
        pool: whose engines.
        work: pieces to do; a None among them says that there is nothing now and may be later. With nothing in flight
            either, the stream ends, and whoever has more begins another.
    """

    def __init__(self, pool: "Pool", work: Iterable[Work | None]) -> None:
        self._pool, self._source = pool, iter(work)
        self._groups: deque[list[Work]] = deque()
        self._alone: deque[Work] = deque()
        self._returned: deque[Work] = deque()
        self._deaths: Counter[str] = Counter()
        self._causes: dict[str, str] = {}
        self._silent_deaths = 0
        self._is_drained = self._is_dry = False
        self._full_since: float | None = None

    def answers(self) -> Iterator[Done]:
        """Every answer, once."""
        waited = 0.0
        try:
            while (busy := self._feed()) is not None:
                if not busy:
                    time.sleep(SECONDS_BETWEEN_STEPS)  # until an engine may be started again
                    continue
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
                    if replica not in self._pool.replicas:
                        self._acquit(replica)
                    continue
                finished = self._collect(replica)
                self._feed()
                yield from finished
        finally:
            self._leave()

    def _feed(self) -> list[Replica] | None:
        """Give every engine that waits what it has room for; the engines that something is expected of.

        None where nothing is left to do, or nothing for now.
        """
        self._is_dry = False
        self._pool.restart_due(time.monotonic())
        for replica in self._pool.replicas:
            if replica.exchange is None and replica.is_ready:
                self._give(replica)
        self._resize()
        self._look_at_the_accused()
        replicas = self._pool.replicas
        busy = [replica for replica in replicas if replica.exchange is not None]
        is_asked_again = bool(self._groups or self._alone or self._returned) or any(one.accused for one in replicas)
        if not (busy or is_asked_again) and (self._is_drained or self._is_dry):
            return None
        busy += [replica for replica in replicas if replica.starting is not None]
        return busy if busy or any(replica.starts_at is not None for replica in replicas) else None

    def _look_at_the_accused(self) -> None:
        """Where an engine that is to clear up a death does not come, another one is asked the same alone."""
        now, others = time.monotonic(), any(one.is_ready and not one.held for one in self._pool.replicas)
        for replica in self._pool.replicas:
            if others and not replica.is_ready and now - replica.idle_since > PROBE_SECONDS:
                self._acquit(replica)

    def _acquit(self, replica: Replica) -> None:
        """Nobody can say whether it was the work or the machine."""
        if replica.accused is not None:
            self._alone.append(replica.accused)
            replica.accused = None

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
            replica.apart = replica.accused is not None or bool(self._alone)
            if replica.apart:
                return [PROBE if replica.accused is not None else self._alone.popleft()]
        if replica.apart:
            return []
        batches = 1 if self._is_drained else BATCHES_IN_FLIGHT
        room = batches * self._limit(replica) - len(replica.held)
        new: list[Work] = []
        if self._groups and replica.group.isdisjoint(replica.held):
            new += self._groups.popleft()
            replica.group = frozenset(item.work_id for item in new)
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
        others = [one for one in self._pool.replicas if one is not replica and one.is_ready and not one.apart]
        room = sum(max(0, self._limit(one) - len(one.held)) for one in others)
        return min(replica.load.waiting, room)

    def _resize(self) -> None:
        """Add an engine where all have been full for a while; end one that has had nothing to do for a while."""
        pool, now = self._pool, time.monotonic()
        is_full = not (self._is_drained or self._is_dry) and all(
            one.is_ready and len(one.held) >= self._limit(one) for one in pool.replicas
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
        except DEATHS as error:
            self._bury(replica, error)
            return []
        for done in came.done:
            del replica.held[done.work_id]
        self._returned += [replica.held.pop(identity) for identity in came.returned]
        replica.load, replica.idle_since = came.load, time.monotonic()
        if came.done:
            self._silent_deaths = 0
        if came.done and (accused := replica.accused) is not None:
            replica.accused = None
            number = self._deaths[accused.work_id]
            aside = refused(accused, f"{number} engines died of it, the last time alone")
            return [after_failures(aside, number - 1, self._causes.pop(accused.work_id))]
        return [
            after_failures(done, self._deaths[done.work_id], self._causes.pop(done.work_id, None)) for done in came.done
        ]

    def _bury(self, replica: Replica, error: Exception) -> None:
        """Replace a dead engine, and see to what it held."""
        victims = list(replica.held.values())
        replica.held.clear()
        model = self._pool.settings.model
        log.warning("engine of %s died with %d in flight; starting another: %s", model, len(victims), last_line(error))
        if replica.accused is not None:
            raise EngineKeepsDyingError(
                f"the engine of {model} dies of a harmless question too: {last_line(error)}"
            ) from error
        self._silent_deaths += 1
        if self._silent_deaths > MOST_DEATHS:
            raise EngineKeepsDyingError(
                f"the engine of {model} died {self._silent_deaths} times without an answer in between: "
                f"{last_line(error)}"
            ) from error
        self._pool.restart(replica)
        self._deaths.update(item.work_id for item in victims)
        self._causes |= {item.work_id: last_line(error) for item in victims}
        if len(victims) == 1 and self._deaths[victims[0].work_id] > 1:
            replica.accused = victims[0]
        elif len(victims) <= SUSPECTS_TOGETHER:
            self._alone.extendleft(reversed(victims))
        else:
            self._ask_again(victims)

    def _ask_again(self, victims: list[Work]) -> None:
        """Work of an engine that held much when it died: by the deaths that it has seen."""
        by_deaths: dict[int, list[Work]] = {1: [], 2: [], 3: []}
        for item in victims:
            by_deaths[min(3, self._deaths[item.work_id])].append(item)
        self._returned.extendleft(reversed(by_deaths[1]))
        twice = by_deaths[2]
        groups = [twice[start : start + SUSPECTS_TOGETHER] for start in range(0, len(twice), SUSPECTS_TOGETHER)]
        self._groups.extendleft(reversed(groups))
        self._alone.extendleft(reversed(by_deaths[3]))

    def _leave(self) -> None:
        """Let engines drop what an unfinished stream left in them; they do so before whatever comes next."""
        for replica in self._pool.replicas:
            if replica.held:
                replica.actor.forget.remote()
            replica.held.clear()
            replica.exchange, replica.apart, replica.accused, replica.group = None, False, None, frozenset()


def last_line(error: Exception) -> str:
    """What an actor's error comes down to: the last line of its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
