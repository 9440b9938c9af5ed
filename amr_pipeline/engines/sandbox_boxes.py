"""One box for one program, from this side: frames in, frames out, a deadline on each, and nothing left behind.

The box can say what an answer is, never whether it is right. What it says is bounded in size, must carry the ticket of
the question, and may not be followed by more; a box that says anything else is lying, and lies are failed tests.
"""

import json
import os
import secrets
import select
import shutil
import signal
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from amr_pipeline.engines import cgroups, sandbox_driver, sandbox_frames
from amr_pipeline.engines.compiled_programs import COMMAND, Build, BuildCache, compiler_version
from amr_pipeline.engines.isolation import START_SECONDS, BoxFailureError, Means, Nursery
from amr_pipeline.engines.machine_load import crowd
from amr_pipeline.verdicts.verifier import Cause, ProgramResult, ProgramRun

LONGEST_FRAME = max(6 * sandbox_driver.LONGEST_OUTPUT, sandbox_driver.LONGEST_BUILD) + 65_536
"""Bytes of a frame; JSON may write a character as six."""

ROOM_BESIDE_A_PROGRAM = 64 * 2**20
"""Bytes a box may take beyond its program's limit: its first process and its files."""

COMPILER_SECONDS, COMPILER_MEBIBYTES = 30.0, 1024

_builds = BuildCache()


class ForgedAnswerError(RuntimeError):
    """A box said what no driver says: its program does more than answer."""


class MemoryExhaustedError(RuntimeError):
    """The program took all memory of its box, the first process included."""


class OverdueError(RuntimeError):
    """A wall deadline passed with little CPU used, which says nothing about the program."""


class Box:
    """One running box."""

    def __init__(
        self,
        nursery: Nursery,
        limits: Mapping[str, float],
        first: Mapping[str, object],
        peer: Sequence[int] = (),
    ) -> None:
        self._means: Means = nursery.means
        self._memory = int(limits["memory_bytes"])
        own_limits = {"memory_bytes": 0 if self._means.groups else self._memory}
        own_limits["processes"] = 0 if self._means.groups else cgroups.PROCESSES
        self._group, self._kills = None, 0
        self._folder = nursery.scratch_folder()
        requests_end, self._requests = os.pipe()
        self._answers, answers_end = os.pipe()
        self._process: int | None = None
        try:
            if self._means.groups is not None:
                self._group = self._means.groups.group(self._memory + ROOM_BESIDE_A_PROGRAM)
            self._process = nursery.make_box((requests_end, answers_end, *peer), self._group, self._folder)
            os.close(requests_end)
            os.close(answers_end)
            requests_end = answers_end = -1
            self._send({**first, "limits": {**limits, **own_limits}})
        except Exception as error:  # half a box must not stay, whatever stopped it; raised again below
            for end in (requests_end, answers_end):
                if end >= 0:
                    os.close(end)
            self.close()
            if isinstance(error, OSError):
                raise BoxFailureError(str(error)) from error
            raise

    def ask(self, question: Mapping[str, object], seconds: float) -> dict[str, Any]:
        """The answer to one question.

        Raises:
            BoxFailureError: the box ended, or said nothing in time.
            ForgedAnswerError: it said something that is no answer to this.
            MemoryExhaustedError: it ended for want of memory.
        """
        ticket = self.put(question)
        return self.hear(ticket, seconds)

    def put(self, question: Mapping[str, object]) -> str:
        """Ask without waiting; the ticket that the answer must carry.

        Raises:
            ForgedAnswerError: the box said something unasked.
        """
        self.expect_silence()
        ticket = secrets.token_hex(8)
        self._send({**question, "ticket": ticket})
        return ticket

    def finish(self) -> None:
        """Tell a session that its test program has ended."""
        self._send({})

    def hear(self, ticket: str, seconds: float) -> dict[str, Any]:
        """The next frame with this ticket; raises as `ask`."""
        deadline = time.monotonic() + seconds
        size = struct.unpack("<I", self._read(4, deadline))[0]
        if size > LONGEST_FRAME:
            raise ForgedAnswerError("over its cap")
        try:
            frame = json.loads(self._read(size, deadline), parse_constant=sandbox_frames.refuse)
        except (ValueError, RecursionError) as error:
            raise ForgedAnswerError("no JSON") from error
        if not isinstance(frame, dict) or frame.pop("ticket", None) != ticket:
            raise ForgedAnswerError("another question's")
        return self.checked(frame)

    def checked(self, frame: object) -> dict[str, Any]:
        """A reply that says what replies say; a killed process becomes the reason for its death."""
        if not isinstance(frame, dict):
            raise ForgedAnswerError("no record")
        failure = frame.get("failure")
        if failure is not None and not (isinstance(failure, str) and len(failure) <= 100):
            raise ForgedAnswerError("a failure that is no word")
        if failure == "killed":
            return {**frame, "failure": "memory_limit" if self._killed_for_memory() else "crashed"}
        return frame

    def expect_silence(self) -> None:
        """Before a question and after the last answer: no more was said.

        Raises:
            ForgedAnswerError: it was.
        """
        if select.select([self._answers], [], [], 0)[0] and os.read(self._answers, 1):
            raise ForgedAnswerError("more answers than questions")

    def _send(self, frame: Mapping[str, object]) -> None:
        body = json.dumps(frame).encode()
        body = struct.pack("<I", len(body)) + body
        try:
            while body:
                body = body[os.write(self._requests, body) :]
        except BrokenPipeError as error:
            raise self._ended() from error

    def _read(self, size: int, deadline: float) -> bytes:
        got = bytearray()
        while len(got) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise BoxFailureError("no answer in time")
            part = os.read(self._answers, size - len(got))
            if not part:
                raise self._ended()
            got += part
        return bytes(got)

    def _ended(self) -> Exception:
        return MemoryExhaustedError() if self._killed_for_memory() else BoxFailureError("the box ended")

    def _killed_for_memory(self) -> bool:
        """Whether the group killed something since this was last asked."""
        before, self._kills = self._kills, self._group.memory_kills() if self._group is not None else 0
        return self._kills > before

    def close(self) -> None:
        """End the box and everything in it, and remove what it was made of.

        Raises:
            OSError: a process in it could not be killed.
        """
        os.close(self._requests)
        os.close(self._answers)
        if self._process is not None:
            # Without a PID namespace the first process has to end the others, so it is asked first.
            for number in (signal.SIGKILL,) if self._means.has_namespaces else (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._process, number)
                if select.select([self._process], [], [], 5.0)[0]:
                    break
            os.close(self._process)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._group is not None:
            self._group.remove()


def limits_of(run: ProgramRun) -> dict[str, float]:
    """Limits of a program; its wall deadline grows with the machine's load, since only CPU time is its own doing."""
    return {
        "cpu_seconds": run.cpu_seconds,
        "wall_seconds": max(10.0, 4 * run.cpu_seconds) * crowd(),
        "memory_bytes": run.memory_mebibytes * 2**20,
    }


def run_in_box(run: ProgramRun, nursery: Nursery) -> ProgramResult:
    """All tests of one program in one box (and its test program, if any, in a second).

    Raises:
        BoxFailureError: a box failed, which says nothing about the program.
    """
    try:
        if run.language == "cpp":
            built = _builds.build(run.source, lambda: _compile(run.source, nursery))
            if built.artefact is None:
                return _all_failed(run, nursery, "compile_error")
            return _judge(run, nursery, {"artefact": built.artefact})
        return _judge(run, nursery, {"source": run.source})
    except ForgedAnswerError:
        return _all_failed(run, nursery, "forged_answer")
    except MemoryExhaustedError:
        return _all_failed(run, nursery, "memory_limit")
    except OverdueError:
        return nothing_known(run, Cause.TIMEOUT, str(nursery.means))


def _judge(run: ProgramRun, nursery: Nursery, first: dict[str, object]) -> ProgramResult:
    limits = limits_of(run)
    if run.test_program is not None:
        return _judge_by_program(run, nursery, limits, first)
    wait = START_SECONDS + limits["wall_seconds"]
    tests: list[dict[str, object]] = [{"call": [run.entry_point, json.loads(call)]} for call in run.calls]
    tests.extend({"input": text} for text in run.inputs)
    box = Box(nursery, limits, first)
    try:
        if run.in_one_process:
            calls = [test["call"] for test in tests]
            replies = _replies_of(box.ask({"calls": calls}, wait), len(calls), box)
        else:
            replies = [_in_time(box.ask(test, wait)) for test in tests]
        box.expect_silence()
    finally:
        box.close()
    return _result(run, nursery, replies)


def _replies_of(frame: dict[str, Any], count: int, box: Box) -> list[dict[str, Any]]:
    """The replies to several calls in one frame, each checked as if it had come alone."""
    replies = frame.get("replies")
    if not isinstance(replies, list) or len(replies) != count:
        raise ForgedAnswerError("not one reply per call")
    return [_in_time(box.checked(reply)) for reply in replies]


def _in_time(reply: dict[str, Any]) -> dict[str, Any]:
    if reply.get("failure") == "wall_limit":
        raise OverdueError
    return reply


def _judge_by_program(
    run: ProgramRun, nursery: Nursery, limits: Mapping[str, float], first: dict[str, object]
) -> ProgramResult:
    """Run the test program in a box of its own; its calls go to the solution's box and come back answered."""
    patient = {**limits, "wall_seconds": 2 * limits["wall_seconds"]}
    with ExitStack() as boxes:
        calls_out, calls_in, answers_out, answers_in = ends = [*os.pipe(), *os.pipe()]
        boxes.callback(_close_all, ends)
        solution = Box(nursery, limits, first, peer=(calls_out, answers_in))
        boxes.callback(solution.close)
        ended = solution.put({"session": True})
        tests = Box(nursery, patient, {}, peer=(answers_out, calls_in))
        boxes.callback(tests.close)
        begun = tests.put({"program": run.test_program, "names": list(run.proxied_names)})
        _close_all(ends)
        frame = _of_tests(tests, begun, START_SECONDS + patient["wall_seconds"])
        solution.finish()
        reply = _in_time(solution.hear(ended, START_SECONDS))
        solution.expect_silence()
    if frame["end"] == "broken":
        # The test program itself ran into a limit: that is no fault of the solution, whatever it answered.
        cause = Cause.TIMEOUT if frame.get("error") == "wall_limit" else Cause.TOO_COMPLEX
        return nothing_known(run, cause, str(nursery.means))
    passed = frame["end"] == "passed"
    reason = str(reply.get("failure") or frame.get("error", "failed"))[:200]
    return ProgramResult(
        run_id=run.run_id,
        answers=("passed",) if passed else (None,),
        failures=(None,) if passed else (reason,),
        strength=str(nursery.means),
    )


def _close_all(descriptors: list[int]) -> None:
    """Close and forget."""
    while descriptors:
        os.close(descriptors.pop())


def _of_tests(tests: Box, ticket: str, seconds: float) -> dict[str, Any]:
    """The end of a test program, where nothing can be a solution's lie or its use of memory."""
    try:
        frame = tests.hear(ticket, seconds)
    except (ForgedAnswerError, MemoryExhaustedError) as error:
        raise BoxFailureError("the test program's box ended") from error
    if "end" not in frame:
        raise BoxFailureError("a test program without an end")
    return frame


def _compile(source: str, nursery: Nursery) -> Build:
    """Compile C++ in a box of its own.

    Raises:
        BoxFailureError: there is no compiler, or the box failed.
        OverdueError: the machine was too busy.
    """
    if compiler_version() is None:
        raise BoxFailureError("no g++")
    run = ProgramRun(
        run_id="build", source=source, language="cpp", cpu_seconds=COMPILER_SECONDS, memory_mebibytes=COMPILER_MEBIBYTES
    )
    limits = limits_of(run)
    box = Box(nursery, limits, {"source": source})
    try:
        reply = _in_time(box.ask({"build": list(COMMAND)}, START_SECONDS + limits["wall_seconds"]))
        box.expect_silence()
    finally:
        box.close()
    built = reply.get("built")
    return Build(built if isinstance(built, str) and not reply.get("failure") else None)


def _result(run: ProgramRun, nursery: Nursery, replies: list[dict[str, Any]]) -> ProgramResult:
    answers: list[str | None] = []
    for reply in replies:
        answer = reply.get("answer")
        if reply.get("failure"):
            answers.append(None)
        elif run.inputs:
            if not isinstance(answer, str):
                raise ForgedAnswerError("output that is no text")
            answers.append(answer)
        else:
            answers.append(json.dumps(answer))
    return ProgramResult(
        run_id=run.run_id,
        answers=tuple(answers),
        failures=tuple(reply.get("failure") for reply in replies),
        strength=str(nursery.means),
    )


def _all_failed(run: ProgramRun, nursery: Nursery, failure: str) -> ProgramResult:
    count = 1 if run.test_program is not None else len(run.calls) + len(run.inputs)
    return ProgramResult(
        run_id=run.run_id, answers=(None,) * count, failures=(failure,) * count, strength=str(nursery.means)
    )


def nothing_known(run: ProgramRun, cause: Cause, strength: str = "") -> ProgramResult:
    """A result that says nothing about the program."""
    return ProgramResult(run_id=run.run_id, answers=(), failures=(), cause=cause, strength=strength)
