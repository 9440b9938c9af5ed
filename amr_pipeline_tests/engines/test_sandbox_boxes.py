"""Boxes whose first process lies, is silent or ends: what this side makes of it."""

import json
import os
from pathlib import Path

import pytest

from amr_pipeline.engines import isolation, sandbox_boxes, sandbox_children, sandbox_driver, sandbox_frames
from amr_pipeline.engines.isolation import BoxFailureError, Nursery
from amr_pipeline.engines.sandbox_boxes import Box, limits_of, run_in_box
from amr_pipeline.verdicts.verifier import ProgramRun
from amr_pipeline_tests.engines.boxes import groups_left, ways

pytestmark = pytest.mark.skipif(not ways(), reason="no way to make boxes works on this machine")
RUN = ProgramRun(run_id="r", source="def f(x): return x", language="python", entry_point="f", calls=("[1]", "[2]"))


def lying_driver(answer: str) -> str:
    """A driver that answers every question by the bytes expression `answer`; `t` is the question's ticket."""
    return f"""
import json, os, struct
def frame(value, size=None):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<I", len(body) if size is None else size) + body
def read(n):
    got = b""
    while len(got) < n:
        part = os.read(0, n - len(got))
        if not part: os._exit(0)
        got += part
    return got
def serve(confine, *, owns_every_process):
    read(struct.unpack("<I", read(4))[0])
    while True:
        t = json.loads(read(struct.unpack("<I", read(4))[0]))["ticket"]
        said = {answer}
        while said: said = said[os.write(3, said):]
"""


@pytest.fixture
def nursery_with(monkeypatch: pytest.MonkeyPatch):
    """Starts nurseries whose boxes run another driver."""
    opened: list[Nursery] = []

    def start(driver: str) -> Nursery:
        monkeypatch.setattr(isolation, "_texts", lambda: json.dumps({"lying": driver}))
        opened.append(Nursery(next(iter(ways().values()))))
        return opened[-1]

    yield start
    for nursery in opened:
        nursery.close()


@pytest.mark.parametrize(
    "answer",
    [
        'frame({"ticket": "another", "answer": 1})',
        'frame({"answer": 1})',
        'frame({"ticket": t, "answer": 1}) * 2',
        'frame({"ticket": t, "answer": 1}) + b"x"',
        "frame([t, 1])",
        'frame(b"{")',
        'frame(b"")',
        'frame(b"[" * 60000)',
        'frame(b\'{"ticket": "\' + t.encode() + b\'", "answer": NaN}\')',
        'frame(b\'{"ticket": "\' + t.encode() + b\'", "answer": \' + b"9" * 50000 + b"}")',
        'frame(b"", size=2**31)',
        'frame({"ticket": t, "failure": "x" * 10000})',
        'frame({"ticket": t, "failure": ["time_limit"]})',
        'frame(b"\\xff\\xfe")',
    ],
)
def test_lies_are_failed_tests(nursery_with, answer: str):
    result = run_in_box(RUN, nursery_with(lying_driver(answer)))
    assert result.failures == ("forged_answer", "forged_answer")
    assert result.answers == (None, None)
    assert groups_left() == []


def test_lies_about_several_calls_are_failed_tests(nursery_with):
    several = ProgramRun(**{**{name: getattr(RUN, name) for name in RUN.__slots__}, "in_one_process": True})
    for replies in ("[]", '[{"answer": 1}] * 3', "[1, 2]", "None"):
        nursery = nursery_with(lying_driver(f'frame({{"ticket": t, "replies": {replies}}})'))
        assert run_in_box(several, nursery).failures == ("forged_answer", "forged_answer")


@pytest.mark.parametrize("answer", ["os._exit(0)", 'frame({"ticket": t})[:3] + (os._exit(0) or b"")'])
def test_a_box_that_ends_says_nothing_about_the_program(nursery_with, answer: str):
    with pytest.raises(BoxFailureError):
        run_in_box(RUN, nursery_with(lying_driver(answer)))


def test_a_silent_box_says_nothing_about_the_program(nursery_with, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox_boxes, "START_SECONDS", 0.5)
    monkeypatch.setattr(sandbox_boxes, "limits_of", lambda run: {**limits_of(run), "wall_seconds": 0.5})
    with pytest.raises(BoxFailureError, match="no answer in time"):
        run_in_box(RUN, nursery_with(lying_driver('b""')))


def test_a_missed_wall_deadline_is_undecided(monkeypatch: pytest.MonkeyPatch):
    nursery = Nursery(next(iter(ways().values())))
    monkeypatch.setattr(sandbox_boxes, "limits_of", lambda run: {**limits_of(run), "wall_seconds": 0.7})
    sleeps = ProgramRun(
        run_id="r", source="import time\ndef f(x): time.sleep(60)", language="python", entry_point="f", calls=("[1]",)
    )
    assert run_in_box(sleeps, nursery).cause == "timeout"
    nursery.close()


def test_wall_deadlines_grow_with_the_load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    idle = limits_of(RUN)
    monkeypatch.setattr(os, "getloadavg", lambda: (8.0, 0.0, 0.0))
    busy = limits_of(RUN)
    assert busy["wall_seconds"] == pytest.approx(5 * idle["wall_seconds"])
    assert busy["cpu_seconds"] == idle["cpu_seconds"] == RUN.cpu_seconds


def test_a_box_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    nursery = Nursery(next(iter(ways().values())))
    before = len(os.listdir("/proc/self/fd"))

    def refuse(*_arguments: object) -> int:
        raise BoxFailureError("no box")

    monkeypatch.setattr(nursery, "make_box", refuse)
    with pytest.raises(BoxFailureError, match="no box"):
        Box(nursery, limits_of(RUN), {})
    assert len(os.listdir("/proc/self/fd")) == before
    assert groups_left() == []
    nursery.close()


def test_what_serves_in_a_box_needs_the_standard_library_only():
    for module in (sandbox_frames, sandbox_children, sandbox_driver):
        lines = Path(str(module.__file__)).read_text().splitlines()
        ours = [line for line in lines if line.startswith(("from amr", "import amr"))]
        assert all("engines.sandbox_" in line for line in ours)
