"""Boxes for tests: one sandbox per way to make boxes, and what can be seen of them from outside."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from amr_pipeline.categories import Category
from amr_pipeline.engines import isolation as making_of_boxes
from amr_pipeline.engines.code_sandbox import CodeSandbox, breach_of
from amr_pipeline.engines.isolation import Means, candidates
from amr_pipeline.studies.study import CodeVerifier
from amr_pipeline.verdicts.code_tests import CodeTestsVerifier
from amr_pipeline.verdicts.verifier import Case, ProgramResult, ProgramRun, Verdict

OWNER = "AMR_BOXES_OF"
"""Environment variable of a process whose boxes are another's: the number of that one."""

_MARK = f"boxes_of_{os.environ.get(OWNER, os.getpid())}_"
_modules = making_of_boxes._texts
# On the command line of a nursery, which everything forked below it has as well, whoever its parent is by then: an
# orphan of this process cannot be told otherwise from one of the tests that run beside it.
making_of_boxes._texts = lambda: json.dumps({_MARK: "", **json.loads(_modules())})


@cache
def ways() -> dict[str, Means]:
    """Ways to make boxes that withstand the self-test here, by name."""
    return {str(means.isolation): means for means in candidates() if breach_of(means) is None}


@cache
def sandbox(isolation: str) -> CodeSandbox:
    """One sandbox per way and session; it ends with the process."""
    return CodeSandbox(slots=2, means=ways()[isolation])


def run(
    source: str,
    *calls: str,
    isolation: str | None = None,
    inputs: tuple[str, ...] = (),
    by: CodeSandbox | None = None,
    **more: object,
) -> ProgramResult:
    """The result of one program, `f` called with each of `calls`; by the session's sandbox where none is given."""
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
    (result,) = (by or sandbox(isolation or next(iter(ways()))))([made])
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


def is_boxed(pid: int) -> bool:
    """Whether a process is a nursery of this process's, or was forked by one."""
    try:
        return _MARK.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def boxed_processes() -> set[int]:
    """Processes of this process's nurseries and boxes, orphans included."""
    return {pid for pid in psutil.pids() if is_boxed(pid)}


def below_nurseries() -> set[int]:
    """This process's nurseries and everything below them, the dead that nobody waited for included."""
    children: dict[int, list[int]] = {}
    for pid in psutil.pids():
        with suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    found, waiting = set[int](), [pid for pid in children.get(os.getpid(), []) if is_boxed(pid)]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += children.get(pid, [])
    return found


class Peak:
    """Most processes and most memory (pages shared by n counted as 1/n each) of nurseries and boxes begun meanwhile."""

    def __init__(self) -> None:
        self._before = below_nurseries()
        self.processes, self.mebibytes = 0, 0.0

    def look(self) -> None:
        """Count what there is now; other processes are not looked at, so that no bomb comes and goes meanwhile."""
        begun = below_nurseries() - self._before
        self.processes = max(self.processes, len(begun))
        private = 0
        for pid in begun:
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            private += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
        self.mebibytes = max(self.mebibytes, private / 1024)


@contextmanager
def watched() -> Iterator[Peak]:
    """Look twenty times a second."""
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peak.look()

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


def wait_for(condition: object, seconds: float = 60.0) -> bool:
    """Whether `condition()` came true in time."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
