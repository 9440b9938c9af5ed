"""Which engine gets what: room, what is given back, engines added and let go, and streams that pause."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from ray.exceptions import ObjectLostError

from amr_pipeline.engines import engine_stream, engine_work
from amr_pipeline.engines.engine_replicas import Pool, PoolSize
from amr_pipeline.engines.engine_stream import BATCHES_IN_FLIGHT, Replica
from amr_pipeline.engines.engine_work import Done, EngineSettings, Exchanged, Load, Work

LOST_NODE = ObjectLostError("ab" * 28, None, "")


@dataclass
class Call:
    """An actor's method that answers at once."""

    answer: Any

    def remote(self, *arguments: Any) -> Any:
        return self.answer(*arguments)


@dataclass
class Stub:
    """An engine without a process: it finishes `speed` pieces per exchange and says it steps `limit` together."""

    limit: int = 4
    speed: int = 2
    dies_of: str | None = None
    held: list[Work] = field(default_factory=list)
    most_held: int = 0
    finished: int = 0

    @property
    def exchange(self) -> Call:
        return Call(self._exchange)

    @property
    def forget(self) -> Call:
        return Call(self.held.clear)

    def _exchange(
        self, new: list[Work], at_least: int, seconds: float, give_back: int
    ) -> "Exchanged | ObjectLostError":
        self.held += new
        if any(one.work_id == self.dies_of for one in self.held):
            return LOST_NODE
        self.most_held = max(self.most_held, len(self.held))
        ready, self.held = self.held[: self.speed], self.held[self.speed :]
        self.finished += len(ready)
        begun = max(self.limit - self.speed, 0)
        back = [self.held.pop().work_id for _ in range(min(give_back, max(0, len(self.held) - begun)))]
        done = [
            Done(work_id=one.work_id, text="", finish_reason="stop", prompt_tokens=1, response_tokens=1)
            for one in ready
        ]
        running = min(self.limit, len(self.held))
        load = Load(running=running, waiting=len(self.held) - running, limit=self.limit, kv_use=0.5)
        return Exchanged(done=done, load=load, returned=tuple(back))


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> list[Stub]:
    """Engines that pools start from now on; an exchange is its own answer, and every answer is ready."""
    made: list[Stub] = []
    turns = count()

    class Ray:
        @staticmethod
        def wait(events: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
            turn = next(turns) % len(events)  # every exchange takes as long as every other
            return [events[turn]], events[:turn] + events[turn + 1 :]

        @staticmethod
        def get(answer: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

    def start(pool: Pool, replica: Replica) -> None:
        replica.actor = Stub()
        made.append(replica.actor)

    monkeypatch.setattr(engine_stream, "ray", Ray)
    monkeypatch.setattr(engine_work, "CPU_SEQUENCES", 4)
    monkeypatch.setattr(Pool, "_start", start)
    monkeypatch.setattr(Pool, "_wait_for", lambda pool, replica: None)
    monkeypatch.setattr("amr_pipeline.engines.engine_replicas._end", lambda replica: made.remove(replica.actor))
    # Answers are told apart by identity, as object references are.
    monkeypatch.setattr(Exchanged, "__hash__", object.__hash__)
    return made


def opened(**size: Any) -> Pool:
    settings = EngineSettings(model="own", revision=None, max_model_len=256, dtype="auto")
    pool = Pool(settings, {}, Stub, size=PoolSize(**size))
    pool.open()
    return pool


def work(count: int, first: int = 0) -> list[Work]:
    return [Work(work_id=f"w{index}", kind="write", messages=(("user", "?"),)) for index in range(first, first + count)]


def test_an_engine_holds_a_few_batches_of_what_it_says_it_steps(stubs: list[Stub]):
    pool = opened()
    stubs[0].limit = 10
    assert len(list(pool.run(work(200)))) == 200
    assert 20 < stubs[0].most_held <= BATCHES_IN_FLIGHT * 10


def test_what_a_slow_engine_has_not_begun_goes_to_one_with_room(stubs: list[Stub]):
    pool = opened(fewest=2, most=2)
    slow, fast = stubs
    slow.speed, fast.speed = 1, 4
    slow_alone = 12
    answers = list(pool.run(work(2 * slow_alone)))
    assert sorted(done.work_id for done in answers) == sorted(one.work_id for one in work(2 * slow_alone))
    assert slow.finished < slow_alone, "it was given half, and kept what it had begun"
    assert fast.finished > slow_alone


def test_while_another_engine_loads_to_clear_up_a_death_the_others_work_on(
    stubs: list[Stub], monkeypatch: pytest.MonkeyPatch
):
    deaths = count(1)

    def restart(pool: Pool, replica: Replica) -> None:
        replica.actor = Stub(limit=2, dies_of="w0")
        replica.starting = None if next(deaths) == 1 else Loading(pool)

    def arrive(pool: Pool, replica: Replica) -> None:
        replica.starting = None

    class Loading:
        """It is ready when nobody else has anything to do."""

        def __init__(self, pool: Pool) -> None:
            self.pool = pool

        @property
        def is_ready(self) -> bool:
            return not any(one.exchange is not None for one in self.pool.replicas)

    def wait(events: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        ready = [event for event in events if not isinstance(event, Loading) or event.is_ready]
        return ready[:1], [event for event in events if event is not ready[0]]

    monkeypatch.setattr(Pool, "restart", restart)
    monkeypatch.setattr(Pool, "arrive", arrive)
    monkeypatch.setattr(engine_stream.ray, "wait", wait)
    pool = opened(fewest=2, most=2)
    for one in stubs:
        one.limit, one.dies_of = 2, "w0"
    monkeypatch.setattr(engine_work, "CPU_SEQUENCES", 2)
    answers = list(pool.run(work(200)))
    assert sorted(done.work_id for done in answers) == sorted(one.work_id for one in work(200))
    assert [done.work_id for done in answers if done.finish_reason == "error"] == ["w0"]
    assert answers[-1].work_id == "w0", "whether it was the machine is clear last, and nobody waited for that"


def test_work_that_pauses_is_waited_for_while_anything_is_in_flight(stubs: list[Stub]):
    def pausing() -> Iterator[Work | None]:
        yield from work(3)
        yield None
        yield from work(3, first=3)
        yield from [None] * 50
        yield from work(3, first=6)  # nothing is in flight any more when this would come

    pool = opened()
    source = pausing()
    assert len(list(pool.run(source))) == 6
    rest = [one for _ in range(50) for one in pool.run(source)]
    assert len(rest) == 3


def test_an_engine_is_added_while_all_are_full_and_goes_when_it_is_idle(
    stubs: list[Stub], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine_stream, "SECONDS_FULL", 0.0)
    pool = opened(fewest=1, most=3)
    assert len(list(pool.run(work(400)))) == 400
    assert len(stubs) == 3
    pool.end_idle(time.monotonic() + 30)
    assert len(stubs) == 3
    pool.end_idle(time.monotonic() + 61)
    assert len(stubs) == len(pool.replicas) == 1


def test_no_engine_is_added_for_little_work(stubs: list[Stub]):
    pool = opened(fewest=1, most=3)
    assert len(list(pool.run(work(40)))) == 40
    assert len(stubs) == 1


def test_a_pool_says_how_full_it_is(stubs: list[Stub]):
    pool = opened(fewest=2, most=2)
    list(pool.run(work(40)))
    assert pool.load().text() == "2 engines, 0 running, 0 waiting, KV 50 %"
    assert pool.gpus == 0.0
