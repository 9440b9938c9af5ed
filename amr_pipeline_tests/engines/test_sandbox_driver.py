import os

import pytest

from amr_pipeline.engines import sandbox_children
from amr_pipeline.engines.sandbox_driver import call, call_all, feed, parsed

LIMITS = {"cpu_seconds": 1.0, "wall_seconds": 10.0, "memory_bytes": 0.0, "processes": 0.0}


@pytest.fixture(autouse=True)
def unconfined(monkeypatch: pytest.MonkeyPatch):
    """The driver's own logic, on harmless programs; confinement is `test_code_sandbox_attacks`."""
    nothing = os.open("/dev/null", os.O_RDWR)
    monkeypatch.setattr(sandbox_children, "ANSWER_FD", nothing)
    monkeypatch.setattr(sandbox_children, "_confine", [lambda: None])
    yield
    os.close(nothing)


def test_one_call_and_many():
    source = "seen = []\ndef f(x):\n seen.append(x)\n return (x, len(seen))"
    assert call(source, "f", [1], LIMITS) == {"answer": {"t": "tuple", "v": [1, 1]}}
    made = call_all(source, [["f", [1]], ["f", [2]], ["g", []], ["f", [3]]], LIMITS)
    assert [reply.get("answer", reply.get("failure")) for reply in made["replies"]] == [
        {"t": "tuple", "v": [1, 1]}, {"t": "tuple", "v": [2, 2]}, "exception", "exception",
    ]  # fmt: skip


def test_programs_are_fed_and_heard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert feed(None, "print(input()[::-1])", "abc\n", LIMITS) == {"answer": "cba\n"}
    assert feed(None, "raise SystemExit(3)", "", LIMITS) == {"failure": "exception"}
    assert feed(None, "print(1)\nraise SystemExit(0)", "", LIMITS) == {"answer": "1\n"}


def test_an_answer_that_is_none_is_a_failure():
    assert parsed(b"") == {"failure": "exception"}
    assert parsed(b"1 2") == {"failure": "exception"}
    assert parsed(b"[" * 100_000) == {"failure": "exception"}
