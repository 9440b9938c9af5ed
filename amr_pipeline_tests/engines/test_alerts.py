"""An alert reaches whoever listens, is tried again where that may help, and never tells the address."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from amr_pipeline.engines import alerts
from amr_pipeline.engines.alerts import ATTEMPTS, LONGEST_TEXT, AlertNotSentError, send_alert
from amr_pipeline_tests.alert_listener import listener
from amr_pipeline_tests.servers import free_ports

SECRET = "T0/canary-of-a-hook"


def test_a_text_arrives_whole_and_a_long_one_cut():
    with listener(SECRET, 200) as (address, taken):
        send_alert(address, "verdicts weak|03 — failed")
        send_alert(address, "x" * 10_000)
    assert [path for path, _ in taken] == [f"/{SECRET}?thread=1"] * 2
    assert json.loads(taken[0][1]) == {"text": "verdicts weak|03 — failed"}
    assert len(json.loads(taken[1][1])["text"]) == LONGEST_TEXT


@pytest.mark.parametrize("first", [500, 503, 429, 408])
def test_a_transient_refusal_is_tried_again(first: int):
    waited: list[float] = []
    with listener(SECRET, first, 200) as (address, taken):
        send_alert(address, "x", waited.append)
    assert len(taken) == 2
    assert len(waited) == 1
    assert 0 <= waited[0] <= 2


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (302, 1), (500, ATTEMPTS)])
def test_a_refusal_is_an_error_without_the_address(status: int, attempts: int):
    with listener(SECRET, status) as (address, taken), pytest.raises(AlertNotSentError) as refused:
        send_alert(address, "x", lambda _: None)
    assert len(taken) == attempts, "a redirect is not followed"
    assert str(status) in str(refused.value)
    assert SECRET not in f"{refused.value!r} {refused.value.__cause__!r} {refused.value.__context__!r}"


def test_nobody_there_is_an_error_without_the_address():
    (port,) = free_ports(1)
    with pytest.raises(AlertNotSentError, match="ConnectionRefusedError") as refused:
        send_alert(f"http://127.0.0.1:{port}/{SECRET}", "x", lambda _: None)
    assert SECRET not in str(refused.value)


def test_a_name_that_is_none_is_an_error_without_the_address():
    with pytest.raises(AlertNotSentError, match="UnicodeError") as refused:
        send_alert(f"https://a..b/{SECRET}", "x", lambda _: None)
    assert SECRET not in str(refused.value)


def test_an_address_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(alerts, "DEADLINE_SECONDS", 0.2)
    with listening_silently() as port, pytest.raises(AlertNotSentError, match=r"no answer within 0\.2 s"):
        send_alert(f"http://127.0.0.1:{port}/{SECRET}", "x")


@contextmanager
def listening_silently() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
