"""The HTTP engine against a real server on loopback: what it asks, how fast, for how much."""

import gc
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from amr_pipeline.engines.http_answers import HttpKey
from amr_pipeline.engines.http_limits import Pace
from amr_pipeline.responses.budget import Budget
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.responses.prices import Prices, TokenPrice
from amr_pipeline_tests.engines.faulty_server import Asked, Reply, Script, Server, chat, echo, error, serving
from amr_pipeline_tests.engines.http_asking import (
    CANARY,
    ROW,
    ask,
    assert_each_once,
    engine,
    quick,
    requests,
    until_error,
)

pytestmark = pytest.mark.usefixtures(quick.__name__)

# ------------------------------------------------------------------------------------------------------------- asking


def test_what_is_asked_is_the_row_and_the_request():
    row = replace(ROW, sampling=replace(ROW.sampling, top_k=20))
    with serving() as server:
        (found,) = engine(server).responses(
            row, HttpKey(CANARY), [GenerationRequest(response_id="a", messages=(("system", "s"), ("user", "ü\ud800")), seed=7)]
        )  # fmt: skip
        plain = ask(server, 1)
    first, second = server.asked
    assert first.path == "/v1/chat/completions"
    assert first.headers["Authorization"] == f"Bearer {CANARY}"
    assert first.body == {
        "model": "org/model", "seed": 7, "temperature": 0.6, "top_p": 0.95, "max_tokens": 50, "top_k": 20,
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "ü?"}],
    }  # fmt: skip
    assert "top_k" not in second.body
    assert found == GeneratedResponse(
        response_id="a", text="Ü?", finish_reason="stop", prompt_tokens=3, response_tokens=2, engine="http served-model",
        attempts=1,
    )  # fmt: skip
    assert_each_once(plain, 1)


def test_without_a_key_none_is_sent():
    with serving() as server:
        assert_each_once(list(engine(server).responses(ROW, None, requests(3))), 3)
    assert not any("Authorization" in asked.headers for asked in server.asked)


def test_nothing_asked_is_nothing_done():
    with serving() as server:
        assert ask(server, 0) == []
    assert server.asked == []


def test_a_server_without_names_and_counts_is_known_by_its_host():
    def script(asked: Asked) -> Reply:
        return Reply(
            body=json.dumps({"choices": [{"message": {"content": "a b c"}, "finish_reason": "stop"}]}).encode()
        )

    with serving(script) as server:
        (found,) = ask(server, 1)
    assert found.engine == f"http {server.address.removeprefix('http://').removesuffix('/v1')}"
    assert (found.prompt_tokens, found.response_tokens) == (0, 3)


def test_so_many_are_in_flight_and_no_more_are_pulled():
    pulled, most, taken = 0, 0, 0

    def source() -> Iterator[GenerationRequest]:
        nonlocal pulled, most
        for request in requests(60):
            pulled += 1
            most = max(most, pulled - taken)
            yield request

    first = threading.Barrier(5, timeout=60)

    def script(asked: Asked) -> Reply:
        if asked.number < 5:
            first.wait()  # none is answered before all have come, however slow the machine is
        return replace(echo(asked), seconds=0.01)

    with serving(script) as server:
        for _ in engine(server, in_flight=5).responses(ROW, None, source()):
            taken += 1
    assert server.most_under_way == 5
    assert most <= 6, "five in flight and one that the caller holds"


def test_answers_come_as_they_finish():
    others, found = threading.Event(), list[str]()

    def script(asked: Asked) -> Reply:
        if asked.question == "question 0":
            others.wait(60)
        return echo(asked)

    with serving(script) as server:
        for one in engine(server).responses(ROW, None, requests(20)):
            found.append(one.response_id)
            if len(found) == 19:
                others.set()
    assert found[-1] == "id0"
    assert len(found) == 20


def test_an_exchange_goes_on_while_the_caller_is_busy():
    with serving() as server:
        stream = engine(server, in_flight=4).responses(ROW, None, requests(12))
        next(stream)
        deadline = time.monotonic() + 60
        while len(server.asked) < 5:
            assert time.monotonic() < deadline, "the next is asked before the first is handed on"
            time.sleep(0.01)
        assert len(list(stream)) == 11


def test_a_caller_that_leaves_ends_everything_it_started():
    before = threading.active_count()
    with serving(lambda asked: replace(echo(asked), seconds=0.0 if asked.number < 3 else 30.0)) as server:
        stream = engine(server).responses(ROW, None, requests(50))
        next(stream)
        begun = time.monotonic()
        stream.close()
        assert time.monotonic() - begun < 25, "it waits for no answer"
        assert [one for one in threading.enumerate() if one.name == "http far"] == []
    gc.collect()
    assert threading.active_count() <= before + 8  # the server's own, which sleep


def test_an_error_of_the_source_is_the_callers():
    def source() -> Iterator[GenerationRequest]:
        yield from requests(3)
        raise OSError("the table is gone")

    with serving() as server, pytest.raises(OSError, match="the table is gone"):
        list(engine(server).responses(ROW, None, source()))


def test_two_runs_at_once_share_an_engine():
    with serving() as server:
        shared, found = engine(server), dict[int, list[GeneratedResponse]]()

        def run(start: int) -> None:
            found[start] = list(shared.responses(ROW, None, requests(30, start)))

        threads = [threading.Thread(target=run, args=(start,)) for start in (0, 30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_each_once([*found[0], *found[30]], 60)


# ------------------------------------------------------------------------------------------------------------- pauses


def test_nobody_asks_before_the_server_wants_it():
    def script(asked: Asked) -> Reply:
        return error(429, Retry_After="1") if asked.number == 0 else replace(echo(asked), seconds=0.3)

    with serving(script) as server:
        found = ask(server, 12, in_flight=4)
    assert_each_once(found, 12)
    early = [at for at in server.at if at - server.at[0] < 0.9]
    assert len(early) <= 4, "what was in flight already, and nothing more"


def test_a_date_is_obeyed_too():
    def script(asked: Asked) -> Reply:
        dates = {"Date": "Thu, 01 Jan 2026 12:00:00 GMT", "Retry_After": "Thu, 01 Jan 2026 12:00:01 GMT"}
        return error(503, **dates) if asked.number == 0 else echo(asked)

    with serving(script) as server:
        assert_each_once(ask(server, 2, in_flight=1), 2)
    assert server.at[1] - server.at[0] >= 0.9


def test_a_server_that_lets_few_through_is_busy_and_not_broken():
    passed, lock = 0, threading.Lock()

    def script(asked: Asked) -> Reply:
        nonlocal passed
        with lock:
            if asked.number % 5:
                return error(429, Retry_After="0")
            passed += 1
            return echo(asked)

    with serving(script) as server:
        assert_each_once(ask(server, 40, in_flight=20), 40)
    assert len(server.asked) > 40 * 4


def test_a_pause_without_end_ends_the_run():
    with serving(lambda _: error(429, Retry_After="999999999")) as server:
        _, problem = until_error(server, 1)
    assert "asks to be left alone for 999,999,999 s" in str(problem)


def test_requests_per_minute_are_kept_over_runs():
    with serving() as server:
        shared = engine(server, pace=Pace(600, None))
        for start in (0, 4):
            assert len(list(shared.responses(ROW, None, requests(4, start)))) == 4
    assert server.at[-1] - server.at[0] > 0.65


def test_tokens_per_minute_hold_requests_back():
    usage = {"prompt_tokens": 50, "completion_tokens": 50}
    with serving(lambda asked: chat(asked.question.upper(), usage=usage)) as server:
        assert_each_once(ask(server, 6, pace=Pace(None, 60_000)), 6)
    assert server.at[-1] - server.at[0] > 0.4, "600 tokens at 1,000 a second, the last of them after the fact"


# ------------------------------------------------------------------------------------------------------------- budget


def spends(server_tokens: int, budget: Budget, **settings: object) -> tuple[list[GeneratedResponse], Server]:
    """What a budget gets of a hundred answers of so many tokens, ten of them the prompt's."""
    usage = {"prompt_tokens": 10, "completion_tokens": server_tokens - 10}
    script: Script = lambda asked: replace(chat(asked.question.upper(), usage=usage), seconds=0.01)  # noqa: E731
    with serving(script) as server:
        return ask(server, 100, budget=budget, **settings), server  # type: ignore[arg-type]


@pytest.mark.parametrize("in_flight", [1, 8, 50])
def test_a_budget_is_not_overspent_and_what_it_paid_for_is_handed_over(in_flight: int):
    budget = Budget(tokens=1_500)
    found, server = spends(60, budget, in_flight=in_flight)
    assert budget.spent.tokens == 60 * len(found) == 60 * len(server.asked) <= 1_500
    assert len(found) >= 18, "what an answer did not use is there for the next"
    assert budget.has_refused


@pytest.mark.parametrize("in_flight", [1, 50])
def test_money_is_kept_to_by_the_price_of_prompts_and_responses(in_flight: int):
    price = TokenPrice(prompts=1.0, responses=1_000.0)
    budget = Budget(money=1.0, prices=Prices(tokens={"far": price}))
    found, _ = spends(60, budget, in_flight=in_flight)
    assert budget.spent.money == pytest.approx(len(found) * price.of(10, 50))
    assert 18 <= len(found) <= 20, "at a twentieth each"
    other = Budget(money=1.0, prices=Prices(tokens={"near": price}))
    assert len(spends(60, other)[0]) == 100, "another server's price is none of this one's"


def test_a_budget_that_nothing_fits_asks_nothing():
    budget = Budget(tokens=10)
    found, server = spends(60, budget)
    assert (found, budget.spent.tokens, server.asked, budget.has_refused) == ([], 0, [], True)


def test_an_answer_that_was_lost_counts_as_if_it_cost_all_that_it_may():
    budget = Budget(tokens=10_000)
    with serving(lambda asked: Reply(hang_up=True) if asked.number == 0 else echo(asked)) as server:
        found = ask(server, 1, budget=budget)
        assert_each_once(found, 1)
        assert found[0].lost_response_tokens == ROW.sampling.max_tokens
        assert 0 < found[0].lost_prompt_tokens < 300
        lost = found[0].lost_prompt_tokens + found[0].lost_response_tokens
        assert budget.spent.tokens == 5 + lost
        script: Script = lambda asked: error(503) if asked.number < 4 else echo(asked)  # noqa: E731
        server.script = script
        found = ask(server, 1, budget=budget)
        assert_each_once(found, 1)
        assert (found[0].lost_prompt_tokens, found[0].lost_response_tokens) == (0, 0)
    assert budget.spent.tokens == 10 + lost, "an error costs nothing"


def test_what_a_servers_template_adds_is_reserved_once_it_shows():
    usage = {"prompt_tokens": 1_000, "completion_tokens": 5}
    budget = Budget(tokens=10_000)
    with serving(lambda asked: chat(asked.question.upper(), usage=usage)) as server:
        found = ask(server, 100, budget=budget, in_flight=1)
    assert len(found) == len(server.asked) == 9, "a tenth would end at 10,050"
    assert budget.spent.tokens == 9_045


def test_engines_of_one_run_share_a_budget():
    budget = Budget(tokens=2_000)
    with serving(lambda asked: replace(echo(asked), seconds=0.005)) as server:

        def run(start: int) -> None:
            list(engine(server).responses(ROW, None, requests(10_000, start), budget))

        threads = [threading.Thread(target=run, args=(start,)) for start in (0, 10_000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert budget.spent.tokens == 5 * len(server.asked)
    assert 1_700 < budget.spent.tokens <= 2_000
