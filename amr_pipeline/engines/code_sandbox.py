"""The code sandbox: hostile programs side by side, one box each, as strongly isolated as this machine allows.

What the machine allows is found out by trying: for each way to make boxes, strongest first, a program that does what
hostile programs do runs in one, and the first way that withstands it is used and named on every result. A study that
asks for more is refused before anything runs.

Source: reliability measurements A5 (reward hacking stops when comparison and expected values stay outside) and A7.
"""

import json
import os
import queue
import socket
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

from amr_pipeline.engines.isolation import BoxFailureError, Means, Nursery, candidates, missing_program
from amr_pipeline.engines.sandbox_boxes import nothing_known, run_in_box
from amr_pipeline.verdicts.verifier import Cause, ProgramResult, ProgramRun, RunPrograms

ATTEMPTS = 3
"""Boxes tried for one program before its verdict is undecided; a launcher's failure says nothing about a program."""

BOXES_PER_NURSERY = 2_000
"""Boxes after which a nursery is replaced, so that nothing can build up in one."""

_PROBE = """
import ctypes, glob, os, platform, socket, signal, struct
kernel = ctypes.CDLL(None).syscall
def forks(number, *arguments):
    child = kernel(ctypes.c_long(number), *arguments)
    if child == 0: os._exit(0)
    return child > 0 and os.waitpid(child, 0)[0] == child
def f(port, marker, owner):
    done = []
    def attempt(name, act):
        try:
            if act(): done.append(name)
        except Exception: pass  # refused, in whatever way: that is what a box is for
    attempt("network", lambda: socket.create_connection(("127.0.0.1", port), 2))
    attempt("reads a file of the machine", lambda: open(marker).read())
    attempt("reads /etc/shadow", lambda: open("/etc/shadow").read())
    attempt("writes to the system", lambda: open("/usr/amr", "w"))
    environments = lambda: (open(path).read() for path in glob.glob("/proc/*/environ"))
    attempt("sees the environment", lambda: any("PATH" in one for one in environments()))
    attempt("signals the judge", lambda: os.kill(owner, 0) is None and os.getpid() < 1000)
    clone, user, nothing = {"aarch64": 220}.get(platform.machine(), 56), 0x10000000, ctypes.c_long(0)
    whole = struct.pack("8Q", user, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    attempt("forks into namespaces", lambda: forks(clone, ctypes.c_long(user | signal.SIGCHLD), *[nothing] * 4))
    attempt("forks into namespaces", lambda: forks(435, whole, ctypes.c_size_t(len(whole))))
    attempt("makes namespaces", lambda: ctypes.CDLL(None).unshare(user) == 0)
    attempt("traces its parent", lambda: ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0)
    attempt("writes its parent's memory", lambda: open("/proc/%d/mem" % os.getppid(), "r+b"))
    return done
def g(size):
    waits, releases = os.pipe()
    children, heard = [], []
    for _ in range(2):
        hears, tells = os.pipe()
        children.append(os.fork())
        if not children[-1]:
            os.close(releases)
            held = bytearray(size)
            os.write(tells, b"k")
            os.read(waits, 1)  # both hold theirs at once
            os._exit(0)
        os.close(tells)
        heard.append(hears)
    for hears in heard:
        os.read(hears, 1)
    os.close(releases)
    return [os.waitpid(child, 0)[1] for child in children]
"""


class IsolationTooWeakError(RuntimeError):
    """This machine isolates less than the study accepts."""


@cache
def established() -> tuple[Means | None, str]:
    """The strongest way to make boxes that withstands the self-test here, or None; and why stronger ones were not."""
    missing = missing_program()
    if missing is not None:
        return None, missing
    refused = []
    for means in candidates():
        breach = breach_of(means)
        if breach is None:
            return means, "; ".join(refused)
        refused.append(f"{means}: {breach}")
    return None, "; ".join(refused) or "neither bubblewrap (Debian: apt-get install bubblewrap) nor seccomp is here"


def breach_of(means: Means) -> str | None:
    """What a hostile program can do in boxes made this way, or why there are none; None when it can do nothing.

    A probe that did not run says nothing about the boxes: a busy machine gets another attempt, a breach does not.
    """
    why = ""
    for _ in range(ATTEMPTS):
        try:
            return _breach(means)
        except (BoxFailureError, OSError) as error:
            why = str(error) or type(error).__name__
    return why


def _breach(means: Means) -> str | None:
    nursery = Nursery(means)
    try:
        with socket.socket() as listener, tempfile.NamedTemporaryFile(mode="w", prefix="amr-probe-") as marker:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            marker.write("AMR_PROBE")
            marker.flush()
            Path(marker.name).chmod(0o644)
            attempts = json.dumps([listener.getsockname()[1], marker.name, os.getpid()])
            found = _probe(nursery, "f", attempts, memory_mebibytes=256)
            if not found.startswith("["):
                raise BoxFailureError(f"the self-test did not run: {found}")
            if found != "[]":
                return f"a program {found}"
        if means.groups is not None:
            found = _probe(nursery, "g", json.dumps([100 * 2**20]), memory_mebibytes=64)
            if found == "[0, 0]":
                return "two processes together take more memory than the group allows"
        return None
    finally:
        nursery.close()


def _probe(nursery: Nursery, name: str, arguments: str, memory_mebibytes: int) -> str:
    run = ProgramRun(
        run_id="self-test", source=_PROBE, language="python", entry_point=name, calls=(arguments,),
        memory_mebibytes=memory_mebibytes,
    )  # fmt: skip
    result = run_in_box(run, nursery)
    return str(result.answers[0] if result.answers and result.answers[0] else (result.failures or result.cause))


def missing_parts() -> str | None:
    """What the sandbox lacks on this machine in one line, or None when it works."""
    means, why = established()
    return None if means is not None else f"no sandbox works here ({why}); code verdicts stay undecided"


class CodeSandbox:
    """Runs programs side by side, one box each (`verdicts.verifier.RunPrograms`).

    Args:
        slots: programs at a time; by default two per core, since starting and ending boxes is mostly waiting.
        means: how boxes are made; by default the strongest way that withstands the self-test.
    """

    def __init__(self, *, slots: int | None = None, means: Means | None = None) -> None:
        self._slots, self._means = slots or 2 * (os.cpu_count() or 1), means
        self._threads = ThreadPoolExecutor(max_workers=self._slots, thread_name_prefix="sandbox")
        self._open: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        self._local = threading.local()
        self.close = weakref.finalize(self, _close, self._threads, self._open)

    def __call__(self, runs: Iterable[ProgramRun]) -> Iterator[ProgramResult]:
        """One result per program, in order, with a few programs ahead of the reader.

        Raises:
            IsolationTooWeakError: a study asks for more isolation than there is here; before that program runs.
        """
        waiting: list[Future[ProgramResult]] = []
        means = self._means or established()[0]
        for run in runs:
            if means is not None and not means.isolation.suffices(run.weakest_isolation):
                raise IsolationTooWeakError(
                    f"this machine isolates programs by {means}; the study asks for at least "
                    f"{run.weakest_isolation} ({established()[1] or 'chosen by the caller'})"
                )
            waiting.append(self._threads.submit(self._run, run, means))
            if len(waiting) > 2 * self._slots:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()

    def _run(self, run: ProgramRun, means: Means | None) -> ProgramResult:
        result = nothing_known(run, Cause.SANDBOX_UNAVAILABLE)
        for _ in range(ATTEMPTS if means is not None else 0):
            assert means is not None
            try:
                result = run_in_box(run, self._slot(means).nursery())
            except (BoxFailureError, OSError):
                self._slot(means).discard()
                result = nothing_known(run, Cause.SANDBOX_UNAVAILABLE, str(means))
            if result.cause != Cause.SANDBOX_UNAVAILABLE:
                break
        return result

    def _slot(self, means: Means) -> "_Slot":
        """This thread's slot: a nursery ends with the thread that started it, so it belongs to one."""
        if not hasattr(self._local, "slot"):
            self._local.slot = _Slot(means)
            self._open.put(self._local.slot)
        return self._local.slot


class _Slot:
    """A thread's nursery: started when first needed, replaced when it failed or made many boxes."""

    def __init__(self, means: Means) -> None:
        self._means, self._nursery, self._made = means, None, 0

    def nursery(self) -> Nursery:
        """A nursery that works, as far as is known."""
        if self._made >= BOXES_PER_NURSERY:
            self.discard()
        if self._nursery is None:
            self._nursery, self._made = Nursery(self._means), 0
        self._made += 1
        return self._nursery

    def discard(self) -> None:
        """End the nursery."""
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            nursery.close()


def _close(threads: ThreadPoolExecutor, slots: "queue.SimpleQueue[_Slot]") -> None:
    threads.shutdown(wait=True, cancel_futures=True)
    with suppress(queue.Empty):
        while True:
            slots.get_nowait().discard()


_lock = threading.Lock()
_shared: list[CodeSandbox] = []


def shared_code_sandbox() -> RunPrograms:
    """The process's sandbox, so that concurrent callers share its slots."""
    with _lock:
        if not _shared:
            _shared.append(CodeSandbox())
        return _shared[0]
