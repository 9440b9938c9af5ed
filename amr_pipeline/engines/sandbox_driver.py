"""What runs inside the box: takes tests one at a time on standard input, gives answers on its own descriptor.

Loaded inside boxes as text, so it imports the standard library and its own kind only. Hostile code runs in a forked
child per test that holds neither channel, so it can say what its answer is and nothing else. Whether an answer
is right is decided outside, where the expected values are.

Frames are a four-byte length and JSON. First frame: {"limits", "source"?, "artefact"?}. Then one frame per question,
with a ticket: {"call": [name, arguments]}, {"calls": [...]}, {"input": text}, {"build": command}, {"program": text,
"names": [...]} for a box that holds a test program, or {"session": true} for the box of its solution; each is answered
by one frame with the same ticket. The two boxes of a test program speak to each other on descriptors 4 and 5.
"""

import base64
import builtins
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from amr_pipeline.engines.sandbox_children import (
    ANSWER_FD,
    Allowance,
    AnswerTooLarge,
    Limits,
    end_child,
    end_groups,
    failure_of,
    in_child,
    prepare,
    start_child,
)
from amr_pipeline.engines.sandbox_frames import decode, encode, read_frame, write_frame

LONGEST_ANSWER = 64 * 1024
LONGEST_OUTPUT = 1024 * 1024
LONGEST_BUILD = 8 * 1024 * 1024
PEER_IN, PEER_OUT = 4, 5


class NoAnswer(Exception):
    """A candidate raised, ended, or said something that is no answer to the call."""


def loaded(source: str) -> dict[str, Any]:
    """The names a solution defines; runs it."""
    space: dict[str, Any] = {"__name__": "solution", "__builtins__": builtins}
    exec(compile(source, "solution.py", "exec"), space)
    return space


def answer_of(space: dict[str, Any], name: str, arguments: object) -> str:
    """The tagged answer of one call."""
    given: Any = decode(arguments)
    text = json.dumps(encode(space[name](*given)))
    if len(text) > LONGEST_ANSWER:
        raise AnswerTooLarge
    return text


def parsed(got: bytes) -> dict[str, Any]:
    """An answer as a frame's fields; a child that left early or wrote something of its own gave none."""
    try:
        return {"answer": json.loads(got)}
    except (ValueError, RecursionError):
        return {"failure": "exception"}


def call(source: str, name: str, arguments: object, limits: Limits) -> dict[str, Any]:
    """Answer of one function call, tagged."""

    def body(answers: int) -> None:
        text = answer_of(loaded(source), name, arguments).encode()
        while text:
            text = text[os.write(answers, text) :]

    got, failure = in_child(body, limits, LONGEST_ANSWER)
    return {"failure": failure} if failure else parsed(got)


def call_all(source: str, calls: list[list[Any]], limits: Limits) -> dict[str, Any]:
    """Answers of calls that follow each other in one process, a line each, up to the first that fails."""

    def body(answers: int) -> None:
        space = loaded(source)
        for name, arguments in calls:
            text = (answer_of(space, name, arguments) + "\n").encode()
            while text:
                text = text[os.write(answers, text) :]

    got, failure = in_child(body, limits, LONGEST_OUTPUT)
    replies = [parsed(line) for line in got.split(b"\n")[:-1]][: len(calls)]
    missing = {"failure": failure or "exception"}
    return {"replies": replies + [missing] * (len(calls) - len(replies))}


class Session:
    """One child that answers a test program's calls, which reach it from the other box on the peer descriptors."""

    def __init__(self, source: str, limits: Limits) -> None:
        def body(_answers: int) -> None:
            space = loaded(source)
            while (frame := read_frame(PEER_IN)) is not None:
                try:
                    reply = {"answer": json.loads(answer_of(space, *frame["call"]))}
                except AnswerTooLarge:
                    reply = {"failure": "output_limit"}
                except Exception:  # noqa: BLE001 (the boundary: what a call raises is its answer)
                    reply = {"failure": "exception"}
                write_frame(PEER_OUT, {"ticket": frame["ticket"], **reply})

        self._limits = limits
        self._child, from_child = start_child(body, limits)
        # Only the child holds them now: when it ends, the test program's next read does.
        for descriptor in (from_child, PEER_IN, PEER_OUT):
            os.close(descriptor)

    def result(self) -> dict[str, Any]:
        """Wait for word that the test program has ended; how the child ended before that, or null."""
        watched, allowance = os.pidfd_open(self._child), Allowance(self._child, self._limits)
        failure, ready = None, []
        while not ready and not failure:
            ready = allowance.wait([0, watched])
            failure = None if ready else allowance.exceeded()
        os.close(watched)
        status, seconds = end_child(self._child)
        how = failure_of(status, seconds, self._limits)
        if watched in ready:
            failure = how or "exception"
        elif not failure and how == "time_limit":
            # Its descriptors are closed before it counts as dead, so that the word of the test program may come first.
            failure = how
        return {"failure": failure}


def feed(command: list[str] | None, source: str, text: str, limits: Limits) -> dict[str, Any]:
    """Standard output of one run on `text`."""

    def body(answers: int) -> None:
        with open("input", "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.dup2(os.open("input", os.O_RDONLY), 0)
        os.dup2(answers, 1)
        if command:
            os.execv(command[0], command)
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)
        try:
            exec(compile(source, "solution.py", "exec"), {"__name__": "__main__", "__builtins__": builtins})
        except SystemExit as ended:
            if ended.code not in (None, 0):
                raise
        finally:
            sys.stdout.flush()

    got, failure = in_child(body, limits, LONGEST_OUTPUT)
    return {"failure": failure} if failure else {"answer": got.decode("utf-8", "replace")}


def build(source: str, command: list[str], limits: Limits) -> dict[str, Any]:
    """Compile a source in a child; the program, or how that failed."""

    def body(answers: int) -> None:
        with open("solution.cpp", "w", encoding="utf-8", errors="replace") as file:
            file.write(source)
        os.environ.update({"PATH": "/usr/bin:/bin", "TMPDIR": os.getcwd()})
        if os.spawnvp(os.P_WAIT, command[0], command):
            return
        with open("solution", "rb") as file:
            program = base64.b64encode(file.read())
        if len(program) > LONGEST_BUILD:
            raise AnswerTooLarge
        while program:
            program = program[os.write(answers, program[: 2**16]) :]

    got, failure = in_child(body, limits, LONGEST_BUILD)
    return {"failure": failure} if failure else {"built": got.decode("ascii", "replace") if got else None}


def unpack(artefact: str) -> list[str]:
    """Write a compiled program; its command."""
    with open("solution", "wb") as file:
        file.write(base64.b64decode(artefact))
    os.chmod("solution", 0o700)
    return ["./solution"]


def run_program(text: str, names: list[str], limits: Limits) -> dict[str, Any]:
    """Run a test program whose candidates are proxies; calls go to the solution's box on the peer descriptors."""

    def proxy(name: str) -> Callable[..., object]:
        def candidate(*arguments: object) -> object:
            ticket = os.urandom(8).hex()
            call = {"ticket": ticket, "call": [name, [encode(argument) for argument in arguments]]}
            try:
                write_frame(PEER_OUT, call)
                reply = read_frame(PEER_IN, longest=2 * LONGEST_ANSWER)
            except (OSError, ValueError, RecursionError):
                reply = None
            if type(reply) is not dict or reply.get("ticket") != ticket or "answer" not in reply:
                raise NoAnswer("the candidate gave no answer")
            return decode(reply["answer"])

        return candidate

    def body(said: int) -> None:
        try:
            exec(compile(text, "tests.py", "exec"), {"__name__": "tests", **{name: proxy(name) for name in names}})
            end = {"end": "passed"}
        except BaseException as error:  # noqa: BLE001 (the boundary: a failed assertion is the program's verdict)
            end = {"end": "failed", "error": type(error).__name__ + ": " + str(error)[:300]}
        os.write(said, json.dumps(end).encode())

    got, failure = in_child(body, limits, LONGEST_ANSWER)
    return {"end": "broken", "error": failure} if failure else json.loads(got or b'{"end": "broken"}')


def serve(confine: Callable[[], None], *, owns_every_process: bool) -> None:
    """Serve tests until the stream ends.

    Args:
        confine: what a hostile child does to itself before anything else.
        owns_every_process: this is the first process of a PID namespace.
    """
    prepare(confine, owns_every_process=owns_every_process)
    first = read_frame(0)
    if first is None:
        return
    source, limits = first.get("source", ""), first["limits"]
    command = unpack(first["artefact"]) if first.get("artefact") else None
    while (test := read_frame(0)) is not None:
        if "ticket" not in test:
            continue  # the end of a session that had ended by itself
        if "session" in test:
            reply = Session(source, limits).result()
        elif "calls" in test:
            reply = call_all(source, test["calls"], limits)
        elif "call" in test:
            reply = call(source, test["call"][0], test["call"][1], limits)
        elif "program" in test:
            reply = run_program(test["program"], test["names"], limits)
        elif "build" in test:
            reply = build(source, test["build"], limits)
        else:
            reply = feed(command, source, test["input"], limits)
        write_frame(ANSWER_FD, {"ticket": test["ticket"], **reply})
    end_groups(0, None)
