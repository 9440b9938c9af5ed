"""Compiled programs by the hash of what made them, so that no source is compiled twice in a process.

A compiled program is hostile output: it is bytes that go from one box into another and nowhere else.
"""

import hashlib
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path

COMPILER = "/usr/bin/g++"
COMMAND = (COMPILER, "-O2", "-std=c++17", "-o", "solution", "solution.cpp")

MOST_BYTES = 64 * 2**20
"""Compiled programs kept, in bytes of their encoded form; the oldest go first."""


@dataclass(frozen=True)
class Build:
    """A program as the box that compiled it gave it (base64), or None where the source does not compile."""

    artefact: str | None


@cache
def compiler_version() -> str | None:
    """What the compiler calls itself, or None where there is none."""
    if not Path(COMPILER).exists():
        return None
    said = subprocess.run(
        [COMPILER, "-dumpfullversion", "-dumpversion", "-dumpmachine"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or None


class BuildCache:
    """Builds by hash of source, flags and compiler; bounded, and shared by threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._lock = most_bytes, threading.Lock()
        self._known: OrderedDict[str, Future[Build]] = OrderedDict()

    def build(self, source: str, compile_in_box: Callable[[], Build]) -> Build:
        """The build of a source; threads that ask for the same one wait for the first.

        Raises:
            Exception: whatever `compile_in_box` raised; then nothing is kept.
        """
        text = "\0".join((source, *COMMAND, str(compiler_version())))
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        mine: Future[Build] = Future()
        with self._lock:
            known = self._known.setdefault(key, mine)
            self._known.move_to_end(key)
        if known is not mine:
            return known.result()
        try:
            mine.set_result(compile_in_box())
        except BaseException as error:  # whatever ends this build must also reach the threads that wait for it
            with self._lock:
                self._known.pop(key, None)
            mine.set_exception(error)
            raise
        self._shrink()
        return mine.result()

    def _shrink(self) -> None:
        with self._lock:
            sizes = {key: len(known.result().artefact or "") for key, known in self._known.items() if known.done()}
            total = sum(sizes.values())
            for key, size in list(sizes.items())[:-1]:
                if total <= self._most and len(self._known) <= 1000:
                    break
                total -= size
                del self._known[key]
