"""Boxes for tests: one sandbox per way to make boxes, and what can be seen of them from outside."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from amr_pipeline.categories import Category
from amr_pipeline.engines.code_sandbox import CodeSandbox, breach_of
from amr_pipeline.engines.isolation import Means, candidates
from amr_pipeline.studies.study import CodeVerifier
from amr_pipeline.verdicts.code_tests import CodeTestsVerifier
from amr_pipeline.verdicts.verifier import Case, ProgramResult, ProgramRun, Verdict


@cache
def ways() -> dict[str, Means]:
    """Ways to make boxes that withstand the self-test here, by name."""
    return {str(means.isolation): means for means in candidates() if breach_of(means) is None}


@cache
def sandbox(isolation: str) -> CodeSandbox:
    """One sandbox per way and session; it ends with the process."""
    return CodeSandbox(slots=2, means=ways()[isolation])


def run(
    source: str, *calls: str, isolation: str | None = None, inputs: tuple[str, ...] = (), **more: object
) -> ProgramResult:
    """The result of one program, `f` called with each of `calls`."""
    made = ProgramRun(
        **{
            "run_id": "r",
            "source": source,
            "language": "python",
            "entry_point": None if inputs else "f",
            "calls": calls,
            "inputs": inputs,
            "cpu_seconds": 1,
            **more,
        }
    )  # type: ignore[arg-type]
    (result,) = sandbox(isolation or next(iter(ways())))([made])
    return result


def verdict(
    source: str, test_cases: dict[str, object], isolation: str | None = None, language: str = "python"
) -> Verdict:
    """What the code verifier says of a program."""
    case = Case(
        response_id="r",
        category=Category.CODE,
        messages=(("user", "?"),),
        text=f"```{language}\n{source}\n```",
        finish_reason="stop",
        test_cases=json.dumps(test_cases),
    )
    boxes = sandbox(isolation or next(iter(ways())))
    (found,) = CodeTestsVerifier(CodeVerifier(cpu_seconds=1), lambda: boxes).judge([case])
    return found


def descendants() -> list[psutil.Process]:
    """Everything this process started, and what that started."""
    return psutil.Process().children(recursive=True)


def boxed_processes() -> set[int]:
    """Processes of nurseries and boxes anywhere on this machine, orphans included."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if any("What makes boxes" in word for word in process.info["cmdline"] or []):
            found.add(process.pid)
    return found


class Peak:
    """Most processes and most memory (pages shared by n counted as 1/n each) of this process's descendants while watched, beyond those before."""

    def __init__(self) -> None:
        self._before = (0, 0.0)
        self._before = self.look()
        self.processes, self.mebibytes = 0, 0.0

    def look(self) -> tuple[int, float]:
        """Processes and mebibytes now."""
        tree = descendants()
        private = 0
        for process in tree:
            try:
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            private += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
        return len(tree) - self._before[0], private / 1024 - self._before[1]


@contextmanager
def watched() -> Iterator[Peak]:
    """Look at all descendants twenty times a second."""
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            processes, mebibytes = peak.look()
            peak.processes, peak.mebibytes = max(peak.processes, processes), max(peak.mebibytes, mebibytes)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def groups_left() -> list[Path]:
    """Control groups of this process's boxes that still exist."""
    places = {
        folder
        for means in ways().values()
        if means.groups is not None
        for folder in (means.groups.memory, means.groups.pids)
    }
    return [group for place in places for group in place.glob(f"amr-box-*-{os.getpid()}-*")]


def wait_for(condition: object, seconds: float = 10.0) -> bool:
    """Whether `condition()` came true in time."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
