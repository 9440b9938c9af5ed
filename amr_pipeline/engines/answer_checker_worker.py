"""The process that compares answers with Math-Verify; started by `answer_checkers`, one per slot.

It imports the library once, then forks a child that does the comparing. A comparison that hangs or crashes costs
that child and nothing else: forking another takes milliseconds. Parsed objects never leave the child and are never
printed, because turning one into text can run for ever.

Frames on standard input and output: a four-byte length and JSON. Ends when standard input does.
"""

import ctypes
import gc
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from typing import Any

ADDRESS_SPACE_BYTES = 2 * 2**30

PATIENCE = 6
"""Longest a comparison lasts by the clock, in deadlines: they count CPU time, which a busy machine gives slowly."""

PR_SET_PDEATHSIG = 1
CPU_CLOCK = 2
"""Of the clocks of a process by its number (clock_getcpuclockid(3)), the one of its CPU time."""


def read_frame(descriptor: int) -> dict[str, object] | None:
    """One frame, or None at the end of the stream."""
    head = _read_exactly(descriptor, 4)
    body = _read_exactly(descriptor, struct.unpack("<I", head)[0]) if head else None
    return json.loads(body) if body else None


def write_frame(descriptor: int, value: dict[str, object]) -> None:
    """One frame."""
    body = json.dumps(value).encode()
    body = struct.pack("<I", len(body)) + body
    while body:
        body = body[os.write(descriptor, body) :]


def _read_exactly(descriptor: int, size: int) -> bytes | None:
    got = b""
    while len(got) < size:
        part = os.read(descriptor, size - len(got))
        if not part:
            return None
        got += part
    return got


def compare(reference: str, answer: str) -> bool:
    """Whether Math-Verify finds two answers equal; one that does not parse is equal to nothing."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = (LatexExtractionConfig(), ExprExtractionConfig())
    # No timeouts of its own: they are signals, and the caller holds the deadline.
    without: Any = {"parsing_timeout": None}
    gold = parse(f"\\boxed{{{reference}}}", extraction_config=targets, **without)
    found = parse(f"\\boxed{{{answer}}}", extraction_config=targets, **without)
    return bool(gold) and bool(found) and bool(verify(gold, found, timeout_seconds=None))


class Child:
    """The forked process that compares, one job at a time."""

    def __init__(self) -> None:
        jobs_read, self.jobs = os.pipe()
        self.results, results_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.close(0)
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
            _serve(jobs_read, results_write)
            os._exit(0)
        os.close(jobs_read)
        os.close(results_write)

    def answered(self, seconds: float, caller: int) -> list[int]:
        """Which of the results and the caller's descriptor can be read; none when the deadline passed.

        CPU seconds count, so that what else a machine does makes no verdict undecided.
        """
        clock = (~self.pid << 3) | CPU_CLOCK
        enough, latest = time.clock_gettime(clock) + seconds, time.monotonic() + PATIENCE * seconds
        while True:
            left = min(enough - time.clock_gettime(clock), latest - time.monotonic())
            ready = select.select([self.results, caller], [], [], max(0.0, left))[0]
            if ready or left <= 0:
                return ready

    def end(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.jobs)
        os.close(self.results)


def _serve(jobs: int, results: int) -> None:
    while (job := read_frame(jobs)) is not None:
        try:
            outcome: dict[str, object] = {"equal": compare(str(job["reference"]), str(job["answer"]))}
        except Exception:  # noqa: BLE001 (the boundary of one verdict: whatever the library raises, the pair is unknown)
            outcome = {"equal": None, "cause": "crashed"}
        write_frame(results, outcome)


def main() -> None:
    """Answer jobs until standard input ends: {reference, answer, seconds} to {equal} or {equal: null, cause}."""
    import math_verify  # noqa: F401 (the import is what forked children share)

    channel = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not speak on the channel
    gc.freeze()
    child = Child()
    while (job := read_frame(0)) is not None:
        write_frame(child.jobs, job)
        ready = child.answered(float(str(job["seconds"])), 0)
        if 0 in ready and child.results not in ready and os.read(0, 1) == b"":
            break
        outcome = read_frame(child.results) if child.results in ready else {"equal": None, "cause": "timeout"}
        if outcome is None or outcome.get("cause") == "timeout":
            child.end()
            child = Child()
        write_frame(channel, outcome or {"equal": None, "cause": "crashed"})
    child.end()


if __name__ == "__main__":
    sys.setrecursionlimit(5000)
    main()
