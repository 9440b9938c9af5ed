"""Engine time is shared out without loss, records accumulate, and servers bill what they wrote."""

import math
from collections.abc import Iterable, Iterator

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.responses.cost import (
    Cost,
    EngineTime,
    add_up,
    is_recorded,
    noted_cost,
    noted_costs,
    spending,
    spent_money,
    timed,
    with_cost,
    with_costs,
    with_run,
)
from amr_pipeline.responses.prices import Prices, TokenPrice


class Hand:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.floats(0, 9), st.booleans()), min_size=1)


@given(EVENTS)
def test_shares_add_up_to_the_time_that_was_shared_out(events: list[tuple[str, int, float, bool]]):
    clock = Hand()
    engines = EngineTime(lambda: 2.0, clock)
    engines.start()
    ticked = 0.0
    for partition, tokens, seconds, is_committed in events:
        clock.now += seconds
        ticked += engines.tick()
        engines.wrote(partition, tokens)
        if is_committed:
            engines.cost(partition)
    found = [engines.cost(name) for name in "abc"]
    assert math.isclose(sum(cost.engine_seconds for cost in found), clock.now - 100, abs_tol=1e-6)
    assert math.isclose(sum(cost.gpu_seconds for cost in found), ticked, abs_tol=1e-6)
    assert sum(cost.response_tokens for cost in found) == sum(tokens for _, tokens, _, _ in events)
    assert sum(cost.responses for cost in found) == len(events)


def test_time_goes_by_tokens_and_starts_with_the_first_request():
    clock = Hand()
    engines = EngineTime(lambda: 4.0, clock)
    clock.now += 1000  # loading
    engines.start()
    clock.now += 10
    engines.start()
    engines.wrote("a", 30)
    engines.wrote("b", 9)
    engines.wrote("b", 0)  # refused: counts as one token
    assert engines.cost("a") == Cost(runs=1, responses=1, response_tokens=30, engine_seconds=7.5, gpu_seconds=30.0)
    clock.now += 6
    engines.wrote("b", 5)
    assert engines.cost("b") == Cost(runs=1, responses=3, response_tokens=14, engine_seconds=8.5, gpu_seconds=34.0)
    assert engines.cost("a").engine_seconds == 7.5, "what came later is not its own"
    assert engines.cost("never") == Cost()


def test_a_stopped_clock_counts_nothing_and_loses_nothing():
    clock = Hand()
    engines = EngineTime(lambda: 2.0, clock)
    engines.start()
    clock.now += 10
    engines.stop()
    clock.now += 1000
    assert engines.tick() == 20.0
    engines.start()
    clock.now += 5
    engines.wrote("a", 1, lost=(3, 4))
    assert engines.cost("a") == Cost(
        runs=1, responses=1, response_tokens=1, engine_seconds=15.0, gpu_seconds=30.0,
        lost_prompt_tokens=3, lost_response_tokens=4,
    )  # fmt: skip
    assert engines.tick() == 10.0


def test_gpus_that_come_and_go_count_while_they_are_there():
    clock, held = Hand(), [0.0]
    engines = EngineTime(lambda: held[0], clock)
    engines.start()  # the pool says nothing yet
    clock.now += 100
    held[0] = 16.0
    assert engines.tick() == 0.0
    clock.now += 10
    held[0] = 8.0
    assert engines.tick() == 160.0
    clock.now += 10
    engines.wrote("a", 1)
    assert engines.cost("a").gpu_seconds == 240.0


def test_a_callable_is_timed_from_its_first_request_to_its_end():
    clock = Hand()
    engines = EngineTime(lambda: 1.0, clock)

    def ask(requests: Iterable[int]) -> Iterator[str]:
        clock.now += 1000  # loading
        for request in requests:
            clock.now += request
            yield str(request)
        clock.now += 1

    asked = timed(ask, engines, lambda answer: ("even" if int(answer) % 2 == 0 else "odd", 10))
    assert list(asked([4, 3])) == ["4", "3"]
    clock.now += 1000  # nothing to do
    assert list(asked([])) == []
    stream = asked(iter([2, 100]))
    assert next(stream) == "2"
    stream.close()
    assert {name: cost.engine_seconds for name, cost in engines.costs().items()} == {
        "even": pytest.approx(10 * 2 / 3),
        "odd": pytest.approx(10 / 3),
    }, "4 + 3 + 1 + 2 seconds, three equal answers"


def test_costs_of_several_are_noted_at_once_and_what_took_nothing_leaves_no_mark():
    one = Cost(runs=1, responses=2)
    notes = with_costs({"other": 1}, {"science": one, "math": Cost()})
    assert noted_costs(notes) == {"science": one}
    assert noted_costs(with_costs(notes, {"science": one}))["science"] == one + one
    assert noted_costs(with_costs({}, {})) == {}


def test_records_accumulate_by_fingerprint_and_keep_other_notes():
    first = Cost(runs=1, responses=2, response_tokens=20, engine_seconds=3.0, gpu_seconds=6.0)
    notes = with_cost({"other": 1}, "f", first)
    notes = with_cost(notes, "f", first)
    notes = with_cost(notes, "g", Cost(runs=1))
    assert noted_cost(notes, "f") == Cost(runs=2, responses=4, response_tokens=40, engine_seconds=6.0, gpu_seconds=12.0)
    assert noted_cost(notes, "g") == Cost(runs=1)
    assert noted_cost({}, "f") == Cost()
    assert notes["other"] == 1
    assert noted_cost(notes, "f").tokens_per_gpu_second == 40 / 12
    assert Cost(response_tokens=5, engine_seconds=1.0).tokens_per_gpu_second is None, "no GPU, no rate"


def test_a_run_that_is_noted_again_took_its_time_once():
    notes = with_run(with_cost({"other": 1}, "a", Cost(runs=1, engine_seconds=2.0)), "b", Cost(engine_seconds=5.0))
    again = with_run(notes, "b", Cost(engine_seconds=5.0))
    assert {name: cost.engine_seconds for name, cost in noted_costs(again).items()} == {"a": 2.0, "b": 5.0}
    assert again["other"] == 1


def rows(*told: tuple[str, str, str, bool, int]) -> pl.DataFrame:
    names = ("distiller_fingerprint", "category", "finish_reason", "is_expected", "response_tokens")
    frame = pl.DataFrame(told, schema=names, orient="row")
    return frame.with_columns(pl.lit("weak").alias("distiller"), pl.lit(2, dtype=pl.Int32).alias("prompt_tokens"))


PARTITION = rows(
    ("new", "math", "stop", True, 30),
    ("new", "math", "length", True, 60),
    ("new", "code", "error", True, 0),
    ("new", "code", "stop", True, 9),
    ("old", "math", "stop", False, 40),
)


def test_a_record_is_shared_out_over_the_rows_of_its_fingerprint():
    spent = spending(PARTITION, {"new": Cost(responses=4, response_tokens=99, engine_seconds=50.0, gpu_seconds=100.0)})
    by = {
        (row["category"], row["finish_reason"], row["is_expected"]): (row["response_tokens"], row["gpu_seconds"])
        for row in spent.iter_rows(named=True)
    }
    assert by == {
        ("math", "stop", True): (30, 30.0),
        ("math", "length", True): (60, 60.0),
        ("code", "error", True): (0, 1.0),
        ("code", "stop", True): (9, 9.0),
        ("math", "stop", False): (40, 0.0),
    }
    assert not is_recorded(spent), "the old row has no record"
    assert is_recorded(spent.filter(pl.col("is_expected")))
    assert spent.get_column("prompt_tokens").sum() == 10
    twice = add_up(pl.concat([spent, spent]))
    assert twice.height == spent.height
    assert twice.get_column("engine_seconds").sum() == 100.0


def test_what_servers_bill_is_their_tokens_and_the_rest_is_gpus():
    lost = Cost(responses=4, response_tokens=99, gpu_seconds=3600.0, lost_prompt_tokens=100, lost_response_tokens=50)
    here = spending(PARTITION.filter(pl.col("is_expected")), {"new": lost})
    far = here.with_columns(distiller=pl.lit("far"))
    both = pl.concat([here, far])
    price = TokenPrice(prompts=1e6, responses=2e6)
    prices = Prices(gpu_hours={"": 5.0}, tokens={"far": price}, servers=frozenset(["far"]))
    assert spent_money(far, prices) == pytest.approx(8 + 100 + 2 * (99 + 50))
    assert spent_money(both, prices) == pytest.approx(406 + 5.0)
    assert spent_money(both, Prices(gpu_hours={"": 5.0}, servers=frozenset(["far"]))) is None
    assert spent_money(both, Prices(gpu_hours={"": 5.0, "far": 7.0})) == pytest.approx(5.0 + 7.0), "each its own"
    assert spent_money(both, Prices(gpu_hours={"far": 7.0})) is None
    assert spent_money(far, Prices(tokens={"far": price}, servers=frozenset(["far"]))) is not None, "no GPU, no price"
    assert spent_money(both, Prices(tokens={"far": price}, servers=frozenset(["far"]))) is None
