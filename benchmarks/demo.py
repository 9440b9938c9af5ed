"""Wall and CPU time of the demo by stage, and its peak memory: `python -m benchmarks.demo [FILE]`.

Runs `amr demo` in a fresh home and again in the same one. A stage begins and ends with the lines that the command
prints; its CPU time is what the command and every process below it used meanwhile, engines and sandboxes included. With
FILE the figures are kept there too: the micro study's test reads what it found from `benchmarks/results/demo.json`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from amr_pipeline.assets.evaluation import sweep_rows
from amr_pipeline.categories import Category
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.report.summary import pass_rates, tiers
from amr_pipeline.studies.micro import STUDY
from benchmarks.versions import measured_on

PACKAGES = ("vllm", "dagster", "ray", "polars", "torch", "deepspeed", "mlflow")
STAGE = re.compile(r"^\[\d+/\d+\] (\w+): (?:(\d+) partitions? owed|done in )")


class Watch:
    """CPU seconds and peak memory of a process and everything below it, looked at twice a second."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.peak_gib = 0.0
        self._own: dict[tuple[int, float], float] = {}
        self._reaped: dict[tuple[int, float], float] = {}
        self._parent: dict[tuple[int, float], int] = {}
        self._root, self._ended, self._lock = psutil.Process(process.pid), threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)
        self._thread.start()

    def cpu_seconds(self) -> float:
        """CPU time used so far, by what lives and by what ended.

        What ended between two looks was seen by its parent alone, whose sum over ended children holds it.
        """
        alive = self._look()
        with self._lock:
            seen: dict[int, float] = {}
            for identity, parent in self._parent.items():
                if identity not in alive:
                    seen[parent] = seen.get(parent, 0.0) + self._own[identity] + self._reaped[identity]
            unseen = [max(0.0, reaped - seen.get(identity[0], 0.0)) for identity, reaped in self._reaped.items()]
            return sum(self._own.values()) + sum(unseen)

    def stop(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _keep_looking(self) -> None:
        while not self._ended.wait(0.5):
            self._look()

    def _look(self) -> set[tuple[int, float]]:
        """Note everyone's times; who is alive."""
        total, alive = 0, set()
        with self._lock:
            for one in self._tree():
                try:
                    identity, times = (one.pid, one.create_time()), one.cpu_times()
                    # Proportional sharing would be exact and costs seconds; shared pages are counted once per process.
                    total += one.memory_info().rss
                    self._own[identity] = times.user + times.system
                    self._reaped[identity] = times.children_user + times.children_system
                    self._parent[identity] = one.ppid()
                    alive.add(identity)
                except psutil.Error:
                    continue
            self.peak_gib = max(self.peak_gib, total / 2**30)
        return alive

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []


def run_demo(home: str) -> dict[str, object]:
    """One run of the demo in `home`: wall and CPU seconds, in all and by stage, peak resident GiB (an upper bound)."""
    environment = {**os.environ, "AMR_HOME": home, "PYTHONWARNINGS": "ignore"}
    environment.pop("DAGSTER_HOME", None)
    begun, said = time.monotonic(), []
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "amr_pipeline.command_line", "demo"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    watch, stages, at = Watch(process), {}, (0.0, 0.0)
    for line in process.stdout:
        said.append(line)
        stage = STAGE.match(line)
        if stage is None:
            continue
        now = time.monotonic(), watch.cpu_seconds()
        if stage[2] is None:
            stages[stage[1]] = {"wall": round(now[0] - at[0], 1), "cpu": round(now[1] - at[1], 1)}
        at = now
    cpu = watch.cpu_seconds()
    process.wait()
    watch.stop()
    if process.returncode:
        raise SystemExit("".join(said)[-3000:])
    wall = time.monotonic() - begun
    return {
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "cpu_over_wall": round(cpu / wall, 2),
        "peak_gib": round(watch.peak_gib, 2),
        "seconds_by_stage": stages,
    }


def results_of(home: str) -> dict[str, object]:
    """What a finished demo found, which depends on no machine.

    `pass_rate` by distiller and category, `queries` by joint tier, and `sweep`: learning rate, pass@1 and its 95 %
    interval of each training recipe.
    """
    store = TableStore(f"{home}/tables")
    difficulty = store.read("difficulty", list(STUDY.shards))
    header, rows = pass_rates(difficulty, [row.name for row in STUDY.distillers])
    categories = [name for name in header if name in set(Category)]
    rates = [dict(zip(header, row, strict=True)) for row in rows]
    scores = sweep_rows(STUDY, store.read("benchmark_scores", [run.name for run in STUDY.training_recipes]))
    said = ("training_recipe", "sweep", "learning_rate", "benchmark", "mean", "low", "high")
    return {
        "pass_rate": {str(row["distiller"]): {name: row[name] for name in categories} for row in rates},
        "queries": {str(row[0]): row[-1] for row in tiers(difficulty)[1]},
        "sweep": [{name: row[name] for name in said} for row in scores],
    }


def main() -> None:
    """Print the figures, the last line as one JSON object."""
    with tempfile.TemporaryDirectory() as home:
        first, again, results = run_demo(home), run_demo(home), results_of(home)
    ratio = round(float(str(first["wall_seconds"])) / float(str(again["wall_seconds"])), 1)
    figures = {
        "benchmark": "demo",
        "first": first,
        "nothing_owed": again,
        "first_over_nothing_owed": ratio,
        **results,
        **measured_on(*PACKAGES),
    }
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
