"""A pool of engines that outlives the run that asked for it: one named Ray actor that owns the engines.

Runs of any process ask the keeper by the pool's name and share its engines, each with a fair part of their places. The
keeper drops whoever is not heard of any more, ends itself after some idle time, and takes its engines with it however
it ends, because they are its own actors. Callers that want other weights wait for those before them.

Belongs here: callers and their turns inside the actor. Does not belong here: the door for callers and the list of all
pools (`kept_pools`), the engines (`engine_replicas`).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

import ray

from amr_pipeline.engines.engine_replicas import Pool, PoolLoad, PoolSize
from amr_pipeline.engines.engine_stream import BATCHES_IN_FLIGHT, EngineKeepsDyingError, EngineStartError
from amr_pipeline.engines.engine_work import Done, EngineSettings, Work

log = logging.getLogger(__name__)

CALLER_SECONDS = 60.0
"""A caller that is not heard of for so long is gone, and what it asked is dropped."""

LOOK_SECONDS = 1.0


class NotACallerError(LookupError):
    """Somebody asks who did not join, or was not heard of for too long."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a keeper tells a caller.

    Attributes:
        done: what finished for it.
        is_open: whether engines with its weights were ready; before, it hands nothing over.
        room: pieces of work that it may hand over now.
        engine_name: engine and version; "" before the first is ready.
        load: how full the pool is.
        gpus: GPUs that are the caller's part of what the pool holds.
        error: name and message of what ended all work, or None.
    """

    done: list[Done]
    is_open: bool
    room: int
    engine_name: str
    load: PoolLoad
    gpus: float
    error: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class PoolStatus:
    """A pool as a list shows it.

    Attributes:
        callers: who uses it, as they call themselves.
        idle_seconds: since its last caller left; None while it is used.
        age_seconds: since it was made.
    """

    name: str
    settings: EngineSettings
    size: PoolSize
    load: PoolLoad
    gpus: float
    callers: tuple[str, ...]
    idle_seconds: float | None
    age_seconds: float


@dataclass(kw_only=True)
class _Caller:
    """Who asks: what it handed over and waits for, and what is ready for it.

    Attributes:
        waits: for engines to be ready with its weights; None before it first asked.
    """

    label: str
    weights: str | None
    heard: float
    waits: bool | None = None
    asked: deque[Work] = field(default_factory=deque)
    in_flight: set[str] = field(default_factory=set)
    done: list[Done] = field(default_factory=list)


class PoolKeeper:
    """The actor's body.

    Args:
        name: the pool's.
        settings, environment, engine, size: as for `Pool`.
        idle_seconds: how long the pool stays without a caller.
    """

    def __init__(
        self,
        name: str,
        settings: EngineSettings,
        environment: dict[str, str],
        engine: type,
        size: PoolSize,
        idle_seconds: float,
    ) -> None:
        self._name, self._idle_seconds = name, idle_seconds
        self._pool = Pool(settings, environment, engine, size=size)
        self._callers: dict[str, _Caller] = {}
        self._changed = threading.Condition()
        self._made = self._used = time.monotonic()
        self._weights: str | None = None
        self._is_open = False
        self._error: tuple[str, str] | None = None
        self._is_leaving = False
        self._me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._keep, name=f"keeper of {name}", daemon=True).start()

    # ------------------------------------------------------------------------------------------------ asked by callers

    def join(self, caller: str, label: str, weights: str | None) -> bool:
        """Take a caller in; False where the pool is about to end and another one must be made."""
        with self._changed:
            if self._is_leaving:
                return False
            self._callers[caller] = _Caller(label=label, weights=weights, heard=time.monotonic())
            self._changed.notify_all()
            return True

    def exchange(self, caller: str, new: list[Work], at_least: int, seconds: float) -> Answers:
        """Take new work, then wait until `at_least` pieces are done, or `seconds` are over and hand back what is.

        A caller's first exchange makes engines start, and ends when they are ready.

        Raises:
            NotACallerError: it must join (again) before it asks.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            if (one := self._callers.get(caller)) is None:
                raise NotACallerError(f"pool {self._name} does not know this caller, or has given it up")
            one.heard = time.monotonic()
            one.asked += [replace(item, work_id=f"{caller}/{item.work_id}") for item in new]
            was_waiting = one.waits = one.waits is not False and not (self._is_open and one.weights == self._weights)
            self._changed.notify_all()
            while len(one.done) < at_least and self._error is None and (left := deadline - time.monotonic()) > 0:
                if one.waits != was_waiting:
                    break
                self._changed.wait(min(left, LOOK_SECONDS))
                one.heard = time.monotonic()
            done, one.done = one.done, []
            return self._answers(one, done)

    def beat(self, caller: str) -> None:
        """A caller says that it is there, though it asks nothing."""
        with self._changed:
            if caller in self._callers:
                self._callers[caller].heard = time.monotonic()

    def leave(self, caller: str) -> None:
        """A caller has what it wanted, or wants no more."""
        with self._changed:
            self._drop(caller)

    def status(self) -> PoolStatus:
        """The pool as a list shows it."""
        with self._changed:
            now = time.monotonic()
            return PoolStatus(
                name=self._name,
                settings=self._pool.settings,
                size=self._pool.size,
                load=self._pool.load(),
                gpus=self._pool.gpus,
                callers=tuple(one.label for one in self._callers.values()),
                idle_seconds=None if self._callers else now - self._used,
                age_seconds=now - self._made,
            )

    def retire(self) -> bool:
        """Take no new caller, so that the pool can be ended; False where somebody uses it."""
        with self._changed:
            self._is_leaving = self._is_leaving or not self._callers
            return self._is_leaving

    # ----------------------------------------------------------------------------------------------------- its own loop

    def _keep(self) -> None:
        """Serve callers until there has been none for long, then end this actor; it ends too if this breaks."""
        try:
            while self._wait_for_work():
                self._serve()
        finally:
            self._pool.close()
            ray.kill(self._me)

    def _serve(self) -> None:
        """Do what callers with the chosen weights ask, until none of them asks anything."""
        try:
            self._pool.open()
            self._pool.use_weights(self._weights)
            self._say_ready()
            for done in self._pool.run(self._source()):
                self._hand_over(done)
        except (EngineStartError, EngineKeepsDyingError) as error:
            self._fail(error)
        except Exception as error:  # every caller raises it: here it would end a thread, and nobody would know
            log.exception("pool %s", self._name)
            self._fail(error)

    def _say_ready(self) -> None:
        with self._changed:
            self._is_open = True
            for one in self._callers.values():
                if one.weights == self._weights:
                    one.waits = False
            self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """Wait until somebody wants something, and choose whose weights are next; False: it is time to go."""
        with self._changed:
            while True:
                self._expire()
                if not self._callers:
                    self._error = None
                    if time.monotonic() - self._used > self._idle_seconds:
                        self._is_leaving = True
                    if self._is_leaving:
                        return False
                    self._pool.end_idle(time.monotonic())
                elif self._error is None and (first := next(self._with_work(), None)) is not None:
                    self._is_open = self._is_open and first.weights == self._weights
                    self._weights = first.weights
                    return True
                self._changed.wait(LOOK_SECONDS)

    def _with_work(self) -> Iterator[_Caller]:
        """Callers that wait for something to begin, in the order they came."""
        return (one for one in list(self._callers.values()) if one.asked or one.waits)

    def _source(self) -> Iterator[Work | None]:
        """Work of all callers of the present weights, in turns; None where none of them has any now.

        Once somebody waits for other weights, those who came later wait as well, so that nobody waits for ever.
        """
        turn = 0
        while True:
            with self._changed:
                self._expire()
                served = []
                for one in self._callers.values():
                    if one.weights == self._weights:
                        served.append(one)
                    elif one.asked or one.waits:
                        break
                item = None
                for one in islice(cycle(served), turn, turn + len(served)) if served else ():
                    turn += 1
                    if one.asked:
                        item = one.asked.popleft()
                        one.in_flight.add(item.work_id)
                        break
            yield item

    def _hand_over(self, done: Done) -> None:
        caller, _, identity = done.work_id.partition("/")
        with self._changed:
            if caller in self._callers:
                one = self._callers[caller]
                one.in_flight.discard(done.work_id)
                one.done.append(replace(done, work_id=identity))
                self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        """Tell every caller; the pool is tried again for those who come after they left."""
        log.warning("pool %s: %s", self._name, error)
        self._pool.close()
        with self._changed:
            self._is_open, self._error = False, (type(error).__name__, str(error))
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------------------------ bookkeeping

    def _answers(self, one: _Caller, done: list[Done]) -> Answers:
        load, sharing = self._pool.load(), max(1, len(self._callers))
        places = sum(
            replica.load.limit if replica.load else self._pool.settings.sequences for replica in self._pool.replicas
        )
        wanted = 2 * BATCHES_IN_FLIGHT * max(places, self._pool.settings.sequences) // sharing
        return Answers(
            done=done,
            is_open=one.waits is False,
            room=max(0, max(1, wanted) - len(one.asked) - len(one.in_flight)),
            engine_name=self._pool.engine_name,
            load=load,
            gpus=self._pool.gpus / sharing,
            error=self._error,
        )

    def _expire(self) -> None:
        now = time.monotonic()
        for caller, one in list(self._callers.items()):
            if now - one.heard > CALLER_SECONDS:
                log.warning("pool %s: %s is not heard of any more", self._name, one.label)
                self._drop(caller)

    def _drop(self, caller: str) -> None:
        if self._callers.pop(caller, None) is not None and not self._callers:
            self._used = time.monotonic()
        self._changed.notify_all()
