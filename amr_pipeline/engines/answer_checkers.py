"""Symbolic comparison of answers in killable processes, one job per process at a time.

Never a signal in a thread, never a pool whose death takes innocent jobs along, never a parsed object in this
process. The deadline is held outside the process that works; here a second, longer one guards the guard.
"""

import os
import select
import struct
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue

from amr_pipeline.engines.answer_checker_worker import PATIENCE, write_frame
from amr_pipeline.verdicts.verifier import AnswerPair, Cause, CompareAnswers, Comparison

START_SECONDS = 120.0
"""A first answer waits for an interpreter and the library on a busy machine."""

LARGEST_MEMORY = 100_000
"""Decided pairs remembered: equal pairs are common, since many responses answer one query."""

ATTEMPTS = 2
"""A pair whose worker was killed from outside is tried once more; a pair that timed out is not."""


class CheckerDiedError(RuntimeError):
    """A worker process ended or fell silent."""


class Checker:
    """One worker process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "amr_pipeline.engines.answer_checker_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Nothing of the caller's environment: no credentials, no settings of other libraries.
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        self._is_new = True

    def compare(self, pair: AnswerPair) -> Comparison:
        """Whether the pair is equal, or the cause why that is unknown.

        Raises:
            CheckerDiedError: the process is gone; nothing is known about the pair.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            job: dict[str, object] = {"reference": pair.reference, "answer": pair.answer, "seconds": pair.seconds}
            write_frame(self._process.stdin.fileno(), job)
            reply = self._reply(PATIENCE * pair.seconds + (START_SECONDS if self._is_new else 30.0))
        except (BrokenPipeError, ValueError) as error:
            raise CheckerDiedError from error
        self._is_new = False
        equal, cause = reply.get("equal"), reply.get("cause")
        return Comparison(
            pair_id=pair.pair_id,
            equal=equal if isinstance(equal, bool) else None,
            cause=Cause(str(cause)) if cause else None,
        )

    def _reply(self, seconds: float) -> dict[str, object]:
        import json

        size = struct.unpack("<I", self._read(4, seconds))[0]
        return json.loads(self._read(size, seconds))

    def _read(self, size: int, seconds: float) -> bytes:
        assert self._process.stdout is not None
        descriptor, got = self._process.stdout.fileno(), b""
        while len(got) < size:
            if not select.select([descriptor], [], [], seconds)[0]:
                raise CheckerDiedError("no reply in time")
            part = os.read(descriptor, size - len(got))
            if not part:
                raise CheckerDiedError("the worker ended")
            got += part
        return got

    def close(self) -> None:
        """End the process; its child ends with it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.kill()
        self._process.wait()


class AnswerCheckers:
    """A few worker processes behind one callable (`verdicts.verifier.CompareAnswers`)."""

    def __init__(self, *, slots: int | None = None) -> None:
        self._slots = slots or os.cpu_count() or 1
        self._known: OrderedDict[tuple[str, str], Comparison] = OrderedDict()
        self._known_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(max_workers=self._slots, thread_name_prefix="answer-checker")
        self._idle: SimpleQueue[Checker | None] = SimpleQueue()
        for _ in range(self._slots):
            self._idle.put(None)

    def __call__(self, pairs: Iterable[AnswerPair]) -> Iterator[Comparison]:
        """One comparison per pair, in order, with a few pairs ahead of the reader."""
        waiting: deque[Future[Comparison]] = deque()
        for pair in pairs:
            waiting.append(self._threads.submit(self._compare_once, pair))
            if len(waiting) > 8 * self._slots:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()

    def _compare_once(self, pair: AnswerPair) -> Comparison:
        """What is known of an equal pair, or a new comparison; only decided ones are remembered."""
        key = (pair.reference, pair.answer)
        with self._known_lock:
            if key in self._known:
                self._known.move_to_end(key)
                return replace(self._known[key], pair_id=pair.pair_id)
        found = self._compare(pair)
        if found.equal is not None:
            with self._known_lock:
                self._known[key] = found
                if len(self._known) > LARGEST_MEMORY:
                    self._known.popitem(last=False)
        return found

    def _compare(self, pair: AnswerPair) -> Comparison:
        checker = self._idle.get()
        try:
            for _ in range(ATTEMPTS):
                checker = checker or Checker()
                try:
                    return checker.compare(pair)
                except CheckerDiedError:
                    checker.close()
                    checker = None
            return Comparison(pair_id=pair.pair_id, equal=None, cause=Cause.CRASHED)
        finally:
            self._idle.put(checker)

    def close(self) -> None:
        """End the workers."""
        self._threads.shutdown()
        for _ in range(self._slots):
            checker = self._idle.get()
            if checker is not None:
                checker.close()


_lock = threading.Lock()
_shared: list[AnswerCheckers] = []


def shared_answer_checkers() -> CompareAnswers:
    """The process's checkers, so that concurrent callers share them."""
    with _lock:
        if not _shared:
            _shared.append(AnswerCheckers())
        return _shared[0]
