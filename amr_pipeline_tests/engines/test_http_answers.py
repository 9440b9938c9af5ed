"""What answers mean, the hostile ones included: always one reading, never a crash, never the key."""

import json
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.engines.http_answers import (
    LONGEST_EXCERPT,
    MOST_TOKENS,
    Answered,
    Ended,
    Failed,
    HttpKey,
    Reading,
    Refused,
    cost_of,
    hidden,
    read_answer,
)
from amr_pipeline_tests.engines.faulty_server import Reply, chat, error

CANARY = "sk-canary-0123456789"


def read(reply: Reply) -> Reading:
    return read_answer(reply.status, reply.headers, reply.body, hidden(HttpKey(CANARY)))


@pytest.mark.parametrize(
    ("reply", "cost"),
    [
        (chat("4"), (3, 2)),
        (chat("half", finish_reason="content_filter"), (3, 2)),
        (chat("4", usage={"prompt_tokens": 3}), None),
        (error(400), (0, 0)),
        (error(401), (0, 0)),
        (error(429), (0, 0)),
        (error(503), (0, 0)),
        (chat("half", finish_reason="abort"), None),
        (Reply(body=b"<html>"), None),
    ],
)
def test_what_an_exchange_cost_is_counted_or_not_known(reply: Reply, cost: tuple[int, int] | None):
    assert cost_of(read(reply)) == cost


def answered(reply: Reply) -> Answered:
    found = read(reply)
    assert isinstance(found, Answered), found
    return found


def failed(reply: Reply) -> Failed:
    found = read(reply)
    assert isinstance(found, Failed), found
    return found


def test_a_well_formed_answer():
    found = answered(chat("4"))
    assert (found.text, found.finish_reason, found.model) == ("4", "stop", "served-model")
    assert (found.usage.prompt_tokens, found.usage.response_tokens, found.usage.both) == (3, 2, (3, 2))


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_that_the_server_took_apart_is_put_back(name: str):
    assert answered(chat("\n\n4", **{name: "2+2\n"})).text == "<think>2+2\n</think>\n\n4"
    cut = answered(chat(None, finish_reason="length", **{name: "2+"}))
    assert cut.text == "<think>2+", "what was cut off in its thinking must not get an answer"
    assert answered(chat("", **{name: ""})).text == ""


def test_both_names_of_thinking_are_one_thinking():
    assert answered(chat("4", reasoning="a", reasoning_content="a")).text == "<think>a</think>4"


def test_what_the_model_said_instead_of_an_answer_is_its_answer():
    assert answered(chat(None, refusal="I will not.")).text == "I will not."
    assert answered(chat(None)).text == ""


@pytest.mark.parametrize(("given", "ours"), [("stop", "stop"), ("length", "length"), ("repetition", "looping")])
def test_finish_reasons(given: str, ours: str):
    assert answered(chat("x", finish_reason=given)).finish_reason == ours


def test_a_budget_used_up_in_a_loop_is_looping():
    assert answered(chat("and then " * 200, finish_reason="length")).finish_reason == "looping"
    assert answered(chat(" ".join(map(str, range(400))), finish_reason="length")).finish_reason == "length"


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "what", 7, {"a": []}])
def test_other_finish_reasons_are_errors_that_say_so(reason: object):
    found = read(chat("half an answ", finish_reason=reason))
    assert isinstance(found, Refused)
    assert found.reason == f"finish reason {reason!s}, after: half an answ"
    assert found.usage is not None
    assert found.usage.both == (3, 2)


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_a_server_that_gave_up_is_asked_again(reason: object):
    found = failed(chat("half", finish_reason=reason))
    assert found.is_lost
    assert found.is_of_the_prompt


@pytest.mark.parametrize(
    "usage",
    [7, [], {}, {"prompt_tokens": "3", "completion_tokens": None}, {"prompt_tokens": -1, "completion_tokens": True},
     {"prompt_tokens": MOST_TOKENS + 1, "completion_tokens": 1.5}],
)  # fmt: skip
def test_counts_that_are_none_are_not_known(usage: object):
    found = answered(chat("4", usage=usage)).usage
    assert (found.prompt_tokens, found.response_tokens, found.both) == (None, None, None)


UNREADABLE = [
    b"", b"<html>", b"null", b"[]", b'"x"', b"{}", b'{"choices": null}', b'{"choices": []}', b'{"choices": [7]}',
    b'{"choices": [{"finish_reason": "stop"}]}', b'{"choices": [{"message": "4", "finish_reason": "stop"}]}',
    b'{"choices": [{"message": {"content": 4}, "finish_reason": "stop"}]}',
    b'{"choices": [{"message": {"content": [{"text": "4"}]}, "finish_reason": "stop"}]}',
    b'{"choices": [{"message": {"content": "4", "reasoning": {}}, "finish_reason": "stop"}]}',
    b"[" * 200_000, b'{"a":' * 200_000, b"9" * 10_000, b"\xff\xfe", b"\x1f\x8b\x08\x00",
]  # fmt: skip


@pytest.mark.parametrize("body", UNREADABLE, ids=lambda body: repr(body[:24]))
def test_what_cannot_be_read_is_a_failure_of_unknown_cost(body: bytes):
    found = failed(Reply(body=body))
    assert found.is_lost
    assert found.is_of_the_prompt


def test_lone_surrogates_are_replaced_so_that_tables_hold_the_text():
    body = b'{"model": "m\\ud800", "choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}'
    found = answered(Reply(body=body))
    assert found.text == "a?b"
    assert found.model.encode()


@pytest.mark.parametrize("status", [400, 406, 411, 413, 414, 415, 418, 422, 431, 451])
def test_other_errors_of_the_client_are_this_prompts_own(status: int):
    assert read(error(status, "too long")) == Refused(reason=f"HTTP {status}: too long")


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 407, 301, 302, 307, 308])
def test_what_no_other_request_would_escape_ends_the_run(status: int):
    found = read(error(status, "no", Location="http://elsewhere/"))
    assert isinstance(found, Ended)
    assert str(status) in found.reason


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 520, 599])
def test_passing_errors_are_failures(status: int):
    found = failed(error(status, "later", Retry_After="7"))
    assert not found.is_lost
    assert found.is_busy == (status in (429, 503))
    assert found.pause_seconds == (7.0 if status in (429, 503) else None)
    assert found.is_of_the_prompt == (status == 500)


def test_a_date_to_come_back_at():
    now = datetime.now(UTC).replace(microsecond=0)
    date = format_datetime(now, usegmt=True)
    assert failed(error(503, Retry_After=date, Date=date)).pause_seconds == 0


@pytest.mark.parametrize("status", [199, 201, 204, 206])
def test_success_of_another_kind_is_no_answer(status: int):
    assert failed(Reply(status=status)).is_lost


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "why"}}', "why"), (b'{"message": "why"}', "why"), (b'{"detail": "why"}', "why"),
        (b'{"error": "why"}', "why"), (b"<p>why</p>", "<p>why</p>"), (b"w\0h\ny\x1b[31m", "w h y [31m"), (b"", ""),
        (b'{"error": {"message": 7}}', '{"error": {"message": 7}}'), (b"\xff", "\ufffd"),
    ],
)  # fmt: skip
def test_the_servers_own_words_are_kept_on_one_line(body: bytes, words: str):
    found = read(Reply(status=400, body=body))
    assert isinstance(found, Refused)
    assert found.reason == (f"HTTP 400: {words}" if words else "HTTP 400")


def test_long_words_are_cut():
    found = read(Reply(status=400, body=b"x" * 10**6))
    assert isinstance(found, Refused)
    assert len(found.reason) < LONGEST_EXCERPT + 30


ECHOES = [
    chat(f"your key is {CANARY}"),
    chat("x", finish_reason=f"{'y' * (LONGEST_EXCERPT - 10)}{CANARY}"),
    chat(CANARY, finish_reason="content_filter"),
    chat("x", reasoning=CANARY),
    Reply(body=json.dumps({**json.loads(chat("x").body), "model": CANARY}).encode()),
    Reply(body=chat("x").body.replace(b'"x"', json.dumps("".join(f"\\u{ord(one):04x}" for one in CANARY)).replace("\\\\", "\\").encode())),
    *(error(status, f"{'x' * (LONGEST_EXCERPT - 24)} wrong key {CANARY}") for status in (400, 401, 404, 429, 500, 302)),
]  # fmt: skip


@pytest.mark.parametrize("reply", ECHOES, ids=str)
def test_a_key_that_the_server_echoes_is_in_no_reading(reply: Reply):
    found = repr(read(reply))
    assert CANARY not in found
    assert CANARY[:8] not in found, "nor its beginning"


def test_a_key_shows_in_no_repr_and_a_word_is_no_secret():
    assert CANARY not in repr(HttpKey(CANARY))
    assert hidden(HttpKey("EMPTY"))("the set is EMPTY") == "the set is EMPTY"
    assert hidden(None)("x") == "x"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["choices", "message", "content", "finish_reason", "usage", "error", "model", "completion_tokens", "reasoning"]
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.integers(100, 599), JSON, st.dictionaries(st.sampled_from(["Retry-After", "Date"]), st.text()))
def test_whatever_comes_is_one_reading(status: int, document: object, headers: dict[str, str]):
    body = json.dumps(document).encode()
    found = read_answer(status, headers, body, hidden(None))
    assert isinstance(found, Answered | Refused | Failed | Ended)
    text = found.text if isinstance(found, Answered) else found.reason
    assert text.encode()


@given(JSON)
def test_whatever_a_message_is_it_is_one_reading(message: object):
    choices = [{"message": message, "finish_reason": "stop"}]
    body = json.dumps({"choices": choices}).encode()
    assert isinstance(read_answer(200, {}, body, hidden(None)), Answered | Failed)


@given(st.binary(max_size=200), st.integers(100, 599))
def test_whatever_bytes_come_are_one_reading(body: bytes, status: int):
    assert isinstance(read_answer(status, {}, body, hidden(None)), Answered | Refused | Failed | Ended)
