"""Cost of a run that finds nothing owed, by number of shards: `python -m benchmarks.nothing_owed`.

Writes empty partitions with today's fingerprints for a study of 4 to 64 shards. Then it times the question alone (what
does every table owe?), and real Dagster runs, in this process on an instance of its own, that are asked to materialize
partitions of `difficulty` which owe nothing: one partition, and all of them. What such a run costs beyond the question
is Dagster's own. A deployment runs each in a process of its own, whose processor time is measured too, from its
start to its end, beside a process that imports Dagster and nothing else.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dagster as dg

from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.lineage import DEPENDENCES, Lineage
from amr_pipeline.assets.materialization import run_range
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.studies.micro import STUDY
from amr_pipeline.studies.study import Study
from benchmarks.versions import measured_on

REPEATS = 5


def fill(study: Study, store: TableStore) -> int:
    """Empty partitions of every table with today's fingerprints; how many."""
    count = 0
    for table in DEPENDENCES:
        for key in stored_partitions(study, table):
            prints = Lineage(study, store).fingerprints(table, key)
            store.writer(table, key, fingerprints=prints, replace=True).complete()
            count += 1
    return count


def median_seconds(work: Callable[[], object]) -> float:
    """Median wall seconds of a few calls, after one that pays for imports."""
    work()
    taken = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def processor_seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """Median processor seconds of a Python process and those below it, user and system."""
    taken = []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(taken)


def measure_process() -> dict[str, float]:
    """Processor seconds of a run's own process with one partition that owes nothing, and of `import dagster`."""
    with tempfile.TemporaryDirectory() as home:
        fill(STUDY, TableStore(deployment_from_environment({"AMR_HOME": home}).storage))
        (Path(home) / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        named = {"AMR_HOME": home, "DAGSTER_HOME": home, "PYTHONWARNINGS": "ignore"}
        environment = {**{name: value for name, value in os.environ.items() if not name.startswith("AMR_")}, **named}
        command = ["-m", "dagster", "asset", "materialize", "-m", "amr_pipeline.definitions", "--select", "difficulty"]
        return {
            "run_process_cpu_seconds": round(processor_seconds([*command, "--partition", "00"], environment), 2),
            "import_dagster_cpu_seconds": round(processor_seconds(["-c", "import dagster"], environment), 2),
        }


def measure(num_shards: int) -> dict[str, float]:
    """Seconds of the question and of both runs, for a study of so many shards."""
    study = replace(STUDY, num_shards=num_shards)
    with (
        tempfile.TemporaryDirectory() as home,
        dg.DagsterInstance.local_temp(home, overrides={"telemetry": {"enabled": False}}) as instance,
    ):
        deployment = deployment_from_environment({"AMR_HOME": home})
        store, definitions = TableStore(deployment.storage), assemble(deployment, study)
        partitions = fill(study, store)
        first, last = study.shards[0], study.shards[-1]

        def ask() -> None:
            owed = sum(len(Lineage(study, store).owed(table)) for table in DEPENDENCES)
            assert owed == 0, owed

        def run(until: str) -> None:
            before = store.latest("difficulty", until)
            run_range(definitions, instance, "difficulty", first, until)
            assert store.latest("difficulty", until) == before, "a run that finds nothing owed commits nothing"

        question, one, every = (
            median_seconds(ask),
            median_seconds(lambda: run(first)),
            median_seconds(lambda: run(last)),
        )
    return {
        "partitions": partitions,
        "question_seconds": round(question, 4),
        "run_of_one_partition_seconds": round(one, 4),
        "run_of_every_shard_seconds": round(every, 4),
        "run_of_one_partition_over_question": round(one / question, 2),
        "run_of_every_shard_over_run_of_one": round(every / one, 2),
    }


def main() -> None:
    """Print the figures, the last line as one JSON object."""
    warnings.simplefilter("ignore")  # Dagster's notes on what it calls beta
    process = measure_process()
    by_shards = {str(shards): measure(shards) for shards in (4, 16, 64)}
    found = {"benchmark": "nothing_owed", "process": process, "by_shards": by_shards}
    print(json.dumps({**found, **measured_on("dagster", "ray", "polars", "vllm")}))


if __name__ == "__main__":
    main()
