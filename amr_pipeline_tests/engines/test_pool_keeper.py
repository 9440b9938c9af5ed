"""Many callers at one pool: turns, weights, errors, callers that vanish, and a keeper that goes when it is idle."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import ray

from amr_pipeline.engines import kept_pools
from amr_pipeline.engines.engine_replicas import PoolSize
from amr_pipeline.engines.engine_stream import EngineStartError
from amr_pipeline.engines.engine_work import Done, EngineSettings, Exchanged, Load, Work
from amr_pipeline.engines.kept_pools import (
    KeptPool,
    PoolBrokenError,
    kept_pool,
    listed_pools,
    make_room,
    stop_idle_pools,
    stop_pool,
)
from amr_pipeline.engines.pool_keeper import NotACallerError

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]


class Named:
    """An engine that answers with its weights and its process; it takes its time when it is asked to."""

    def __init__(self, settings: EngineSettings) -> None:
        if settings.model.startswith("broken"):
            raise ValueError("no such architecture")
        if settings.model == "large":
            time.sleep(2)
        self._weights = self._own = settings.model
        self._held: list[Work] = []

    def name(self) -> str:
        return "named 1"

    def reload(self, folder: str) -> None:
        self._weights = folder

    def forget(self) -> None:
        self._held.clear()

    def exchange(self, new: list[Work], at_least: int, seconds: float, give_back: int) -> Exchanged:
        self._held += new
        if any(work.messages[0][1] == "slowly" for work in self._held):
            time.sleep(0.05)
        if any(work.messages[0][1] == "strangely" for work in self._held):
            strange = Done(work_id="nobody's", text="", finish_reason="stop", prompt_tokens=1, response_tokens=1)
            return Exchanged(done=[strange], load=Load(running=0, waiting=0, limit=8))
        ready, self._held = self._held[:at_least], self._held[at_least:]
        text = f"{self._weights} {os.getpid()}"
        return Exchanged(
            done=[
                Done(work_id=one.work_id, text=text, finish_reason="stop", prompt_tokens=1, response_tokens=1)
                for one in ready
            ],
            load=Load(running=len(self._held), waiting=0, limit=8, kv_use=0.25),
        )


def pool(model: str, idle_seconds: float = 600.0) -> KeptPool:
    settings = EngineSettings(model=model, revision=None, max_model_len=8192, dtype="auto")
    return KeptPool(settings, {}, Named, PoolSize(), idle_seconds)


def work(number: int, said: str = "?") -> list[Work]:
    return [Work(work_id=f"w{index}", kind="write", messages=(("user", said),)) for index in range(number)]


def until(reached: Callable[[], bool], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def answers(
    one: KeptPool, count: int, weights: str | None = None, said: str = "?", ready: Callable[[], object] = lambda: None
) -> set[str]:
    """What the engine said of itself to one caller, all of whose work is answered once; it asks when `ready` returns."""
    with kept_pool(one, "a run", weights) as joined:
        ready()
        done = list(joined.run(work(count, said)))
    assert sorted(item.work_id for item in done) == sorted(item.work_id for item in work(count))
    return {item.text for item in done}


def test_callers_share_engines_and_none_gets_the_answers_of_another(cluster: None):
    said: list[set[str]] = []
    joined = threading.Barrier(4, timeout=300)  # three callers and who looks at the list, before any has been answered

    def ask() -> None:
        said.append(answers(pool("own"), 200, said="slowly", ready=joined.wait))

    callers = [threading.Thread(target=ask) for _ in range(3)]
    for one in callers:
        one.start()
    until(lambda: any(len(listed.callers) == 3 for listed in listed_pools()))
    joined.wait()
    for one in callers:
        one.join()
    assert len(said) == 3
    assert len(set.union(*said)) == 1, "one engine answered all of them"
    assert answers(pool("own"), 3) == said[0], "and it is still there"
    until(lambda: [listed.callers for listed in listed_pools()] == [()])  # nobody waits for a caller's farewell
    (listed,) = listed_pools()
    assert listed.load.engines == 1
    assert listed.idle_seconds is not None


def test_who_comes_while_another_works_is_served_at_once(cluster: None):
    over, begun = threading.Event(), threading.Event()

    def endless() -> Iterator[Work]:
        deadline = time.monotonic() + 60
        for number in count():
            if over.is_set() or time.monotonic() > deadline:
                return
            yield Work(work_id=f"w{number}", kind="write", messages=(("user", "slowly"),))

    def ask() -> None:
        with kept_pool(pool("own"), "the first", None) as first:
            for _ in first.run(endless()):
                begun.set()

    caller = threading.Thread(target=ask)
    caller.start()
    assert begun.wait(180)
    assert len(answers(pool("own"), 20)) == 1
    assert caller.is_alive(), "the first has not ended"
    over.set()
    caller.join()


def test_callers_with_other_weights_wait_for_their_turn_and_none_for_ever(cluster: None):
    said: dict[str, set[str]] = {}

    def ask(weights: str | None) -> None:
        said[str(weights)] = answers(pool("own"), 100, weights, said="slowly")

    callers = [threading.Thread(target=ask, args=(weights,)) for weights in (None, "first", "second")]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert {key: {text.split()[0] for text in texts} for key, texts in said.items()} == {
        "None": {"own"},
        "first": {"first"},
        "second": {"second"},
    }


def test_every_caller_learns_why_no_engine_starts_and_the_next_one_tries_again(cluster: None):
    for _ in range(2):
        with kept_pool(pool("broken"), "a run", None) as joined, pytest.raises(EngineStartError, match="architecture"):
            list(joined.run(work(3)))


def test_a_defect_in_the_keeper_reaches_its_callers_and_the_pool_is_usable_again(cluster: None):
    with kept_pool(pool("own"), "a run", None) as joined, pytest.raises(PoolBrokenError, match=r"KeyError.*nobody's"):
        list(joined.run(work(3, "strangely")))
    until(lambda: not listed_pools()[0].callers)
    assert len(answers(pool("own"), 3)) == 1


def test_no_work_is_taken_before_engines_are_ready(cluster: None):
    """Else the clock of a run's engines would run while they load, and its number of GPUs be none."""
    one = pool("large")
    seen: list[tuple[str, int]] = []

    def asked() -> Iterator[Work]:
        for item in work(3):
            seen.append((one.engine_name, one.load.engines if one.load else 0))
            yield item

    with kept_pool(one, "a run", None) as joined:
        assert len(list(joined.run(asked()))) == 3
    assert seen == [("named 1", 1)] * 3


def test_a_caller_that_vanished_is_dropped_and_must_join_again(cluster: None):
    one = pool("own")
    one.join("a run", None)
    with pytest.raises(NotACallerError):
        ray.get(one._keeper.exchange.remote("somebody else", [], 0, 0.1))
    ray.get(one._keeper.leave.remote(one._caller))
    # It does not know that it was given up; the stream joins again and everything is answered.
    assert len(list(one.run(work(20)))) == 20


def test_a_keeper_that_dies_is_made_again_and_costs_no_answer(cluster: None):
    one = pool("own")
    with kept_pool(one, "a run", "checkpoint") as joined:
        stream = joined.run(work(200, "slowly"))
        first = [next(stream) for _ in range(20)]
        assert stop_pool(one.name, also_used=True)
        rest = list(stream)
    assert len({item.work_id for item in first + rest}) == len(first + rest) == 200
    assert {item.text.split()[0] for item in first + rest} == {"checkpoint"}
    assert {item.text for item in first}.isdisjoint({item.text for item in rest[-20:]}), "another engine"
    assert {item.attempts for item in first} == {1}
    assert {item.attempts for item in rest} == {1, 2}, "what was asked when the keeper died was asked twice"


def test_a_pool_ends_with_its_engines_when_nobody_used_it_for_long(cluster: None):
    (text,) = answers(pool("own", idle_seconds=0.5), 3)
    until(lambda: not listed_pools())
    pid = int(text.split()[1])
    until(lambda: not os.path.exists(f"/proc/{pid}"))


def test_a_pool_that_is_used_is_ended_only_on_purpose(cluster: None):
    one = pool("own")
    with kept_pool(one, "a run", None) as joined:
        assert len(list(joined.run(work(3)))) == 3
        assert not stop_pool(one.name)
        (listed,) = listed_pools()
        assert listed.callers[0].startswith("a run (")
        assert stop_idle_pools() == []
    until(lambda: not listed_pools()[0].callers)
    assert stop_idle_pools() == [one.name]
    with pytest.raises(LookupError, match="no pool"):
        stop_pool("strange")


def test_an_idle_pool_makes_room_for_another_model(cluster: None, monkeypatch: pytest.MonkeyPatch):
    answers(pool("first"), 3)
    monkeypatch.setattr(kept_pools.ray, "available_resources", lambda: {"CPU": 0.0 if listed_pools() else 4.0})
    until(lambda: not listed_pools()[0].callers)
    make_room(EngineSettings(model="second", revision=None, max_model_len=8192, dtype="auto"), PoolSize())
    assert listed_pools() == []


def test_one_caller_does_not_ask_the_same_twice_at_a_time(cluster: None):
    with kept_pool(pool("own"), "a run", None) as joined, pytest.raises(ValueError, match="again"):
        list(joined.run([*work(3), *work(1)]))
