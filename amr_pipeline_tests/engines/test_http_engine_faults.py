"""The HTTP engine against a server that does to it whatever servers do."""

import asyncio
import logging
import random
import threading
import traceback
from collections import Counter
from dataclasses import replace

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amr_pipeline.engines import http_engine, http_exchange
from amr_pipeline.engines.http_answers import HttpKey
from amr_pipeline.engines.http_limits import Draw, HttpEngineError
from amr_pipeline.responses.budget import Budget
from amr_pipeline_tests.engines.faulty_server import Asked, Reply, chat, echo, error, serving
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

# ----------------------------------------------------------------------------------------------------- passing faults

PASSING = {
    **{str(status): error(status) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)},
    "hang up": Reply(hang_up=True),
    "cut off": replace(chat("QUESTION"), cut_off=True),
    "no JSON": Reply(body=b"<html>maintenance</html>"),
    "no choices": Reply(body=b"{}"),
    "abort": chat("half", finish_reason="abort"),
    "empty": Reply(),
    "busy for a moment": error(503, Retry_After="0.01"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_passing_fault_costs_another_attempt_and_nothing_else(fault: Reply):
    with serving(lambda asked: fault if asked.number % 3 == 0 else echo(asked)) as server:
        found = ask(server)
    assert_each_once(found)
    assert {one.finish_reason for one in found} == {"stop"}
    assert len(server.asked) > 20


FAULTS = st.lists(st.sampled_from([None, None, *PASSING.values()]), min_size=1, max_size=12)


@settings(max_examples=15)
@given(faults=FAULTS, number=st.integers(0, 25), in_flight=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_whatever_passing_faults_come_every_request_is_answered_exactly_once(
    faults: list[Reply | None], number: int, in_flight: int, seed: int
):
    left, lock, draw = Counter[str](), threading.Lock(), random.Random(seed)

    def script(asked: Asked) -> Reply:
        with lock:
            left[asked.question] += 1
            fault = draw.choice(faults) if left[asked.question] < http_engine.MOST_ATTEMPTS else None
        return fault or echo(asked)

    with serving(script) as server:
        found = ask(server, number, in_flight=in_flight)
    assert_each_once(found, number)
    assert {one.finish_reason for one in found} <= {"stop"}


def test_how_often_it_was_asked_and_why_in_vain_is_said():
    with serving(lambda asked: error(502, f"number {asked.number}") if asked.number < 3 else echo(asked)) as server:
        (found,) = ask(server, 1)
    assert (found.attempts, found.last_failure) == (4, "HTTP 502: number 2")


def test_waits_double_up_to_a_bound_and_are_drawn_below_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_engine, "FIRST_WAIT_SECONDS", 1.0)
    monkeypatch.setattr(http_engine, "LONGEST_WAIT_SECONDS", 10.0)
    bounds: list[tuple[float, float]] = []
    with serving(lambda _: error(502)) as server:
        run = http_engine._Run(engine(server), ROW, None, Draw(Budget(), ROW))
        run._draw = lambda low, high: bounds.append((low, high)) or 0.0
        with pytest.raises(HttpEngineError, match="8 attempts in a row failed, the last one with: HTTP 502: no"):
            list(run.answers(requests(1)))
    assert bounds == 2 * [(0, 1), (0, 2), (0, 4), (0, 8), (0, 10), (0, 10), (0, 10)], "the harmless question waits too"


def test_a_server_that_is_late_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_exchange, "ANSWER_SECONDS", 2.0)
    with serving(lambda asked: replace(echo(asked), seconds=5.0 if asked.number == 0 else 0.0)) as server:
        assert_each_once(ask(server, 3), 3)
    assert len(server.asked) > 3


def test_a_server_that_is_not_there_yet_is_waited_for(free_port: int):
    address = f"http://127.0.0.1:{free_port}/v1"
    with pytest.raises(HttpEngineError, match=r"'far' at 127.0.0.1:\d+: .*8 attempts .* no connection"):
        list(engine(address).responses(ROW, None, requests(5)))


# ------------------------------------------------------------------------------------------------ what is not retried


def test_a_prompt_that_is_refused_is_its_own_error_and_not_asked_again():
    def script(asked: Asked) -> Reply:
        return error(400, "too long") if asked.question == "question 3" else echo(asked)

    with serving(script) as server:
        found = ask(server)
    assert_each_once(found)
    (refused,) = (one for one in found if one.finish_reason == "error")
    assert (refused.response_id, refused.text, refused.response_tokens) == ("id3", "HTTP 400: too long", 0)
    assert Counter(asked.question for asked in server.asked)["question 3"] == 1


def test_an_unknown_finish_reason_is_an_error_with_its_tokens():
    def script(asked: Asked) -> Reply:
        return chat("half", finish_reason="content_filter") if asked.question == "question 3" else echo(asked)

    with serving(script) as server:
        found = {one.response_id: one for one in ask(server)}
    assert found["id3"].text == "finish reason content_filter, after: half"
    assert (found["id3"].finish_reason, found["id3"].prompt_tokens, found["id3"].response_tokens) == ("error", 3, 2)


def test_a_server_that_refuses_everything_makes_no_prompt_an_error():
    with serving(lambda _: error(400, "unknown argument top_k")) as server:
        found, problem = until_error(server)
    assert found == []
    assert "a harmless question ends as badly (HTTP 400: unknown argument top_k)" in str(problem)


def test_a_first_prompt_that_is_refused_is_an_error_once_a_harmless_question_was_answered():
    with serving(lambda asked: echo(asked) if asked.question == "Hello" else error(422)) as server:
        found = ask(server, 5, in_flight=2)
    assert [one.finish_reason for one in found] == ["error"] * 5
    assert Counter(asked.question == "Hello" for asked in server.asked) == {False: 5, True: 1}


def test_a_server_that_begins_to_refuse_everything_is_found_out():
    with serving(lambda asked: echo(asked) if asked.number < 10 else error(400)) as server:
        found, _ = until_error(server, 100, in_flight=2)
    reasons = Counter(one.finish_reason for one in found)
    assert reasons["stop"] == 10
    assert reasons["error"] == http_engine.TRUSTED_ERRORS


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_wrong_key_or_address_ends_the_run_at_once(status: int):
    def script(asked: Asked) -> Reply:
        return error(status, "no", Location=f"{server.address}/chat/elsewhere") if asked.number >= 5 else echo(asked)

    with serving(script) as server:
        found, problem = until_error(server, 1_000, in_flight=4)
    assert str(status) in str(problem)
    assert "AMR_HTTP_ENGINES" in str(problem)
    assert len(found) == 5
    assert len(server.asked) <= 5 + 4, "nothing was asked again, and nothing new"
    assert {asked.path for asked in server.asked} == {"/v1/chat/completions"}, "no redirect was followed"


def test_what_is_on_its_way_when_a_run_ends_is_taken_in(caplog: pytest.LogCaptureFixture):
    def script(asked: Asked) -> Reply:
        return replace(error(401), seconds=0.2) if asked.number == 0 else replace(echo(asked), seconds=0.6)

    with serving(script) as server:
        found, _ = until_error(server, 100, in_flight=5)
    assert len(found) == 4, "what was paid for is not thrown away"
    assert "taking in what 4 requests get" in caplog.text


@pytest.mark.parametrize(
    "fault", [error(500), Reply(body=b"{}"), chat("x", finish_reason="error"), chat("x" * 2_000_000)]
)
def test_a_prompt_that_a_server_fails_at_each_time_is_set_aside(fault: Reply):
    with serving(lambda asked: fault if asked.question == "question 3" else echo(asked)) as server:
        found = ask(server)
    assert_each_once(found)
    (failed,) = (one for one in found if one.finish_reason == "error")
    assert failed.response_id == "id3"
    assert failed.text.startswith("8 attempts failed, while others are answered: ")
    asked = Counter(asked.question for asked in server.asked)
    assert (asked["question 3"], asked["Hello"]) == (8, 1)


OF_THE_WAY = {**{str(status): error(status) for status in (502, 503, 504, 429)}, "hang up": Reply(hang_up=True)}
"""Faults that are the server's as a rule, and of a prompt only where it meets them alone."""


@pytest.mark.parametrize("in_flight", [1, 8])
@pytest.mark.parametrize("fault", OF_THE_WAY.values(), ids=OF_THE_WAY)
def test_a_prompt_that_alone_meets_what_servers_do_is_set_aside_and_the_run_goes_on(fault: Reply, in_flight: int):
    with serving(lambda asked: fault if asked.question == "question 3" else echo(asked)) as server:
        found = ask(server, in_flight=in_flight)
    assert_each_once(found)
    (failed,) = (one for one in found if one.finish_reason == "error")
    assert failed.response_id == "id3"
    assert failed.text.startswith("8 attempts failed, while others are answered: ")
    assert failed.attempts == Counter(asked.question for asked in server.asked)["question 3"] >= 8
    assert failed.last_failure == failed.text.split(": ", 1)[1]


def test_prompts_that_alone_time_out_are_set_aside(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_exchange, "ANSWER_SECONDS", 0.3)
    late = ("question 3", "question 19")
    with serving(lambda asked: replace(echo(asked), seconds=0.6 if asked.question in late else 0.0)) as server:
        found = ask(server)
    assert_each_once(found)
    failed = [one for one in found if one.finish_reason == "error"]
    assert {one.response_id for one in failed} == {"id3", "id19"}
    assert all("the connection ended without an answer" in one.text for one in failed)


@pytest.mark.parametrize("fault", [error(502), error(503), Reply(hang_up=True)], ids=str)
def test_an_outage_that_ends_is_no_prompts_fault(fault: Reply):
    """It lasts longer than eight attempts, and shorter than those of the harmless question behind them."""
    asked_harmless = Counter[str]()

    def script(asked: Asked) -> Reply:
        asked_harmless[asked.question] += 1
        return fault if asked.number >= 6 and asked_harmless["Hello"] < 4 else echo(asked)

    with serving(script) as server:
        found = ask(server, in_flight=4)
    assert_each_once(found)
    assert {one.finish_reason for one in found} == {"stop"}
    assert max(asked_harmless.values()) > http_engine.MOST_ATTEMPTS, "it was one"


@pytest.mark.parametrize("is_gateway", [True, False], ids=["502 while it is down", "hangs up while it is down"])
def test_a_prompt_that_breaks_the_server_for_all_is_the_only_one_set_aside(is_gateway: bool):
    down, lock = [0], threading.Lock()

    def script(asked: Asked) -> Reply:
        with lock:
            if down[0]:
                down[0] -= 1
                return error(502) if is_gateway else Reply(hang_up=True)
            if asked.question == "question 3":
                down[0] = 7
                return Reply(hang_up=True)
        return replace(echo(asked), seconds=0.005)

    with serving(script) as server:
        found = ask(server, 12, in_flight=4)
    assert_each_once(found, 12)
    assert [one.response_id for one in found if one.finish_reason == "error"] == ["id3"]


def test_a_server_that_fails_at_random_is_asked_on_and_no_prompt_is_blamed():
    draw, lock = random.Random(3), threading.Lock()

    def script(asked: Asked) -> Reply:
        with lock:
            return error(502) if draw.random() < 0.4 else echo(asked)

    with serving(script) as server:
        found = ask(server, 100)
    assert_each_once(found, 100)
    assert {one.finish_reason for one in found} == {"stop"}


@pytest.mark.parametrize("fault", [error(502), error(503), error(429), Reply(hang_up=True)], ids=str)
def test_a_server_that_is_gone_makes_no_prompt_an_error(fault: Reply):
    with serving(lambda asked: echo(asked) if asked.number < 6 else fault) as server:
        found, problem = until_error(server, in_flight=2)
    assert len(found) == 6
    assert {one.finish_reason for one in found} == {"stop"}
    assert "8 attempts in a row failed" in str(problem)


def test_a_server_that_answers_nothing_readable_makes_no_prompt_an_error():
    with serving(lambda _: error(500)) as server:
        found, problem = until_error(server)
    assert found == []
    assert "'far' at 127.0.0.1" in str(problem)
    assert "a harmless question ends as badly" in str(problem)


def test_a_bug_of_the_engine_reaches_the_caller(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_exchange, "read_answer", lambda *_: 1 / 0)
    with serving() as server, pytest.raises(ZeroDivisionError):
        ask(server)


def test_a_loop_that_cannot_start_reaches_the_caller(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(aiohttp, "DummyCookieJar", lambda: 1 / 0)
    with serving() as server, pytest.raises(ZeroDivisionError):
        ask(server)


# ------------------------------------------------------------------------------------------------------------ secrets


def everything_of(problem: BaseException | None) -> str:
    """Message, repr, notes and traceback of an error and of all that led to it, with the locals of the package's frames."""
    told: list[str] = []
    while problem is not None:
        told += [repr(problem), str(problem), *getattr(problem, "__notes__", ())]
        frames = problem.__traceback__
        frames = frames.tb_next if frames and frames.tb_frame.f_code.co_filename == __file__ else frames
        told += traceback.TracebackException(type(problem), problem, frames, capture_locals=True).format()
        problem = problem.__cause__ or problem.__context__
    return "\n".join(told)


ECHOED = {
    "refused": error(400, f"bad key {CANARY}", X_Echo=CANARY),
    "wrong key": error(401, f"bad key {CANARY}", WWW_Authenticate=CANARY),
    "failing": error(500, CANARY),
    "redirect": Reply(status=302, headers={"Location": f"http://{CANARY}/"}),
    "no JSON": Reply(body=CANARY.encode()),
    "bad header": Reply(headers={"Transfer-Encoding": CANARY}),
    "cookie": Reply(headers={"Set-Cookie": f"a b={CANARY}; bad"}, body=chat("x").body),
    "hang up": Reply(hang_up=True),
}


@pytest.mark.parametrize("fault", ECHOED.values(), ids=ECHOED)
def test_the_key_is_in_no_log_error_repr_or_response(
    fault: Reply, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    with serving(lambda asked: echo(asked) if asked.number < 3 else fault) as server:
        mine = engine(server)
        stream = mine.responses(ROW, HttpKey(CANARY), requests(30))
        try:
            told += [repr(one) for one in stream]
        except HttpEngineError as problem:
            told.append(everything_of(problem))
    assert any(asked.headers["Authorization"].endswith(CANARY) for asked in server.asked), "it was sent"
    told += [repr(mine), repr(vars(mine)), repr(stream), caplog.text, *capfd.readouterr()]
    told += [repr(record.__dict__) for record in caplog.records]
    assert [text for text in told if CANARY[:12] in text] == []


def test_the_key_is_in_no_error_of_the_engine_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_exchange, "read_answer", lambda *_: 1 / 0)
    with serving() as server, pytest.raises(ZeroDivisionError) as caught:
        ask(server, 3)
    frames = "".join(traceback.format_exception(caught.value))
    assert "read_answer" in frames
    assert CANARY not in frames


def test_no_event_loop_is_left_behind():
    with serving() as server:
        ask(server, 2)
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
