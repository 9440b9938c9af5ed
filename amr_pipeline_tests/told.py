"""A story that the command line tells: a study file of a user's own, a home, engines that count, and kills.

Belongs here: running, killing and looking at it. Does not belong here: what must hold (`test_story`).
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import psutil

from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.engines.engine_stream import BATCHES_IN_FLIGHT
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.studies.loading import load_study
from amr_pipeline.studies.study import Study
from amr_pipeline.tables import TABLES

LEDGERS = ("responses", "benchmark_responses")
"""Tables of what was paid for."""

SEQUENCES, RESPONSES_PER_PART = 2, 4
"""The story's engines step few requests together and its parts are small, so that what a kill may cost is little of it."""

MAX_ENGINES, NUM_SHARDS, NUM_PROBLEMS, NUM_SAMPLES = 2, 2, 10, 4

IN_FLIGHT = MAX_ENGINES * (2 * BATCHES_IN_FLIGHT * SEQUENCES + NUM_SHARDS * RESPONSES_PER_PART)
"""Most responses that are written and not committed at any instant. An engine holds so many batches; what it finished of
them may wait in its last answer, while it finishes those it was given in their place; and every partition that is being
filled keeps what is not a part yet. Finished text only: half a response is lost with its engine and counted by nobody."""

STUDY = f"""
from dataclasses import replace
from amr_pipeline.studies.micro import ANNEALING, STAGE_1, STAGE_2, STUDY as MICRO, SWEEP

DISTILLERS = ["weak", "strong"]
STUDY = replace(
    MICRO,
    name="story",
    num_shards={NUM_SHARDS},
    sources=tuple(replace(row, reads=replace(row.reads, num_rows=20)) for row in MICRO.sources),
    benchmarks=tuple(
        replace(row, reads=replace(row.reads, num_rows={NUM_PROBLEMS}), num_samples={NUM_SAMPLES}) for row in MICRO.benchmarks
    ),
    distillers=tuple(row for row in MICRO.distillers if row.name in DISTILLERS),
    selection_recipes=(replace(STAGE_1, distillers=tuple(DISTILLERS)), STAGE_2),
    training_recipes=(replace(SWEEP[3], epochs=1), replace(ANNEALING, epochs=1)),
)
"""

# The real command. Each response is counted in a file by the engine that wrote it, in the moment it is finished.
COUNTED = f"""
import os, sys
from amr_pipeline.assets import response_ledger
from amr_pipeline.engines import engine_pools, engine_work
from amr_pipeline.engines.admission import Admission
from amr_pipeline.engines.vllm_engine import VllmEngine

class CountingEngine(VllmEngine):
    counts = os.environ["STORY_COUNTS"]

    def __init__(self, settings):
        super().__init__(settings)
        self._admission = Admission({SEQUENCES})

    def _done(self, pending, output):
        if pending.work.kind == "write":
            counts = os.open(self.counts, os.O_WRONLY | os.O_APPEND)
            os.write(counts, b".")
            os.close(counts)
        return super()._done(pending, output)

engine_pools._engine_class = lambda settings: CountingEngine
engine_work.CPU_SEQUENCES = {SEQUENCES}
response_ledger.RESPONSES_PER_PART, response_ledger.SECONDS_BETWEEN_PARTS = {RESPONSES_PER_PART}, 0.0
response_ledger.MANY_PARTS = 10_000
if sys.argv[1] == "responses":  # no command: what leads up to responses, and they themselves
    from amr_pipeline.assets.session import Session
    with Session.open() as session:
        session.materialize_owed(assets=("raw_queries", "benchmark_queries", "near_duplicates", "queries", "responses"), say=print)
else:
    from amr_pipeline.command_line import app
    app(sys.argv[1:])
"""


@dataclass(frozen=True)
class Kill:
    """What was there when everything was killed: responses written, and those of them in a commit of any kind."""

    written: int
    committed: int


class Story:
    """A study file of the user's own, a home, and the command line run on both."""

    def __init__(self, folder: Path, study: str = STUDY, variables: Mapping[str, str] | None = None) -> None:
        self.variables = dict(variables or {})
        self.file, self.home, self.counts = folder / "story.py", folder / "home", folder / "counts"
        self.said, self.ended = folder / "said", folder / "ended"
        self.file.write_text(study)
        self.counts.touch()
        self.store = TableStore(str(self.home / "tables"))
        self.kills: list[Kill] = []

    @property
    def study(self) -> Study:
        return load_study(str(self.file), {})

    @property
    def written(self) -> int:
        """Responses that an engine wrote, in all attempts, for distillers and for benchmarks."""
        return self.counts.stat().st_size

    @property
    def committed(self) -> int:
        """Responses that a re-run will not ask for again."""
        tables = [(name, key) for name in LEDGERS for key in stored_partitions(self.study, name)]
        newest = [self.store.latest_any(*place) for place in tables]
        return sum(commit.rows for commit in newest if commit)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AMR_", "DAGSTER"))},
            "AMR_STUDY": str(self.file),
            "AMR_HOME": str(self.home),
            "AMR_MAX_ENGINES": str(MAX_ENGINES),
            "STORY_COUNTS": str(self.counts),
            "PYTHONWARNINGS": "ignore",
            **self.variables,
        }
        with self.said.open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "-c", COUNTED, *arguments], env=environment, stdout=said, stderr=subprocess.STDOUT
            )

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        process.wait(timeout=1500)
        said = self.said.read_text()
        assert process.returncode == 0, said[-4000:]
        return said

    def run_until(self, reached: Callable[[float], bool]) -> None:
        """Start the demo and kill it when something is reached, given the seconds since the start, unless it ends first."""
        process, begun = self.start("demo"), time.monotonic()
        while not reached(time.monotonic() - begun):
            if process.poll() is not None:
                assert process.returncode == 0, self.said.read_text()[-4000:]
                return
            time.sleep(0.05)
        kill_tree(process)
        self.kills.append(Kill(written=self.written, committed=self.committed))

    def rows(self, table: str) -> pl.DataFrame:
        """A whole table, in the order of its key."""
        return self.store.read(table, stored_partitions(self.study, table)).sort(TABLES[table].key)

    def digests(self, table: str) -> dict[str, str | None]:
        return {key: self.store.digest(table, key) for key in stored_partitions(self.study, table)}


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and everything below it, all at once: stopped first, so that none sees another one die.

    One may end by itself meanwhile, or be killed by the kernel because its parent was.
    """
    root, stopped = psutil.Process(process.pid), set[psutil.Process]()
    try:
        while found := {root, *root.children(recursive=True)} - stopped:
            for one in found:
                with suppress(psutil.NoSuchProcess):
                    one.suspend()
            stopped |= found
    finally:
        for one in stopped:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
