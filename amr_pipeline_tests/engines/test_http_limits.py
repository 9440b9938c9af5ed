"""Pace, what requests draw from a budget, and pauses, on a clock of the test's own."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.engines.http_limits import Draw, Pace, seconds_asked_for
from amr_pipeline.responses.budget import Amount, Budget
from amr_pipeline.responses.prices import Prices, TokenPrice
from amr_pipeline_tests.engines.http_asking import ROW


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def starts(pace: Pace, clock: Clock, costs: list[float]) -> list[float]:
    """When requests of some cost go out, one behind the other."""
    found = []
    for cost in costs:
        clock.now += pace.seconds_to_wait()
        pace.take(cost)
        found.append(clock.now - 100.0)
    return found


def test_without_limits_nothing_waits():
    clock = Clock()
    assert starts(Pace(None, None, clock), clock, [1e9] * 5) == [0.0] * 5


def test_requests_are_spaced_and_tokens_too():
    clock = Clock()
    assert starts(Pace(60, None, clock), clock, [1.0] * 4) == [0.0, 1.0, 2.0, 3.0]
    clock = Clock()
    assert starts(Pace(None, 600, clock), clock, [100.0, 50.0, 1.0]) == [0.0, 10.0, 15.0]
    clock = Clock()
    assert starts(Pace(30, 600, clock), clock, [10.0, 100.0, 1.0]) == [0.0, 2.0, 12.0], "the tighter one counts"


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.integers(1, 40))
def test_no_minute_holds_more_requests_than_its_share(idle: list[float], per_minute: int):
    clock = Clock()
    pace, went = Pace(per_minute, None, clock), []
    for seconds in idle:
        clock.now += seconds + pace.seconds_to_wait()
        pace.take(1)
        went.append(clock.now)
    for begun in went:
        assert sum(begun <= at < begun + 59.999 for at in went) <= per_minute


def test_an_answer_corrects_what_its_request_was_taken_for():
    clock = Clock()
    pace = Pace(None, 600, clock)
    pace.take(1_000)
    assert pace.seconds_to_wait() == 100
    pace.correct(-900)
    assert pace.seconds_to_wait() == 10
    pace.correct(50)
    assert pace.seconds_to_wait() == 15


def test_a_pause_holds_everything_and_a_shorter_one_does_not_end_it():
    clock = Clock()
    pace = Pace(None, None, clock)
    pace.pause(30)
    pace.pause(5)
    assert pace.seconds_to_wait() == 30


def test_a_request_reserves_its_bytes_and_its_longest_answer():
    budget = Budget(tokens=1_000, prices=Prices(tokens={"far": TokenPrice(prompts=1e6, responses=2e6)}))
    draw, payload = Draw(budget, ROW), b"x" * 40
    most = draw.most(payload)
    assert most == (40, ROW.sampling.max_tokens) == (40, 50)
    assert draw.reserve(most)
    draw.settle(payload, most, (8, 3))
    assert budget.spent == Amount(tokens=11, money=14.0)
    assert draw.reserve(most)
    draw.settle(payload, most, None)
    assert budget.spent == Amount(tokens=101, money=154.0), "nobody knows what it cost"


def test_what_comes_on_top_of_the_bytes_is_remembered_and_not_summed_up():
    draw = Draw(Budget(), ROW)
    for used in ((70, 1), (60, 1), (70, 1)):
        most = draw.most(b"x" * 40)
        assert draw.reserve(most)
        draw.settle(b"x" * 40, most, used)
    assert draw.most(b"x" * 10) == (10 + 30, 50)


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        (" 1.5 ", 1.5),
        ("0", 0.0),
        (http_date(NOW + timedelta(seconds=90)), 90.0),
        (http_date(NOW - timedelta(days=1)), 0.0),
        *((bad, None) for bad in (None, "", "soon", "-1", "nan", "inf", "1e9", "9" * 400, "٣", "Thu, 99 Foo 2026 25:00:00 GMT")),
    ],
)  # fmt: skip
def test_retry_after_in_seconds_or_as_a_date(header: str | None, seconds: float | None):
    assert seconds_asked_for(header, http_date(NOW)) == seconds


def test_a_date_counts_from_here_where_the_server_tells_no_time():
    soon = datetime.now(UTC) + timedelta(seconds=100)
    found = seconds_asked_for(http_date(soon), None)
    assert found is not None
    assert 90 < found <= 100
