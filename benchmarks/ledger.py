"""What the ledger of responses costs: `python -m benchmarks.ledger [ROWS ...]`, by default 2 and 4 million.

A stub answers every request at once, so that what is measured is everything but the engine: reading queries, finding
what is owed, prompts, ids and seeds, filing answers, committing parts, completing partitions. For each number of rows
a process of its own fills 99 % of them and breaks off; another one goes on, and is timed up to its first request; the
peak of resident memory is the larger of the two.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.publication import Publication
from amr_pipeline.assets.response_ledger import ResponseLedger
from amr_pipeline.categories import Category
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.queries.identity import shard_of
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.studies.study import (
    Distiller,
    JsonLines,
    MathVerifier,
    QualityRules,
    QueryColumns,
    QueryRules,
    Sampling,
    Source,
    Study,
)
from benchmarks.versions import measured_on

NUM_SHARDS, NUM_PASSES = 64, 4
TEXT = "<think>" + "so it goes " * 20 + "</think><answer>\\boxed{42}</answer>"

STUDY = Study(
    name="ledger",
    title="Requests and answers without an engine",
    num_shards=NUM_SHARDS,
    sources=(
        Source(name="s", reads=JsonLines(path="none"), category=Category.MATH, columns=QueryColumns(), licence="MIT"),
    ),
    benchmarks=(),
    query_rules=QueryRules(),
    distillers=(
        Distiller(
            name="stub",
            model="stub",
            revision="1",
            num_passes=NUM_PASSES,
            sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=1),
            max_model_len=100,
        ),
    ),
    quality_rules=QualityRules(),
    verifiers=(MathVerifier(),),
    selection_recipes=(),
    training_recipes=(),
)
KEYS = [f"stub|{shard}" for shard in STUDY.shards]


def write_queries(store: TableStore, num_rows: int) -> None:
    """Questions of a few dozen words, as many as it takes for `num_rows` responses, shard by shard."""
    per_shard = num_rows // NUM_PASSES // NUM_SHARDS
    for place, shard in enumerate(STUDY.shards):
        first = place * (2**32 // NUM_SHARDS)
        names = [f"{first + index:08x}{index:024x}" for index in range(per_shard)]
        assert {shard_of(name, NUM_SHARDS) for name in names[:1]} == {shard}
        words = "how many of them are there " * 6
        rows: dict[str, object] = {**dict.fromkeys(tables.QUERIES.schema)}
        rows |= {
            "shard": shard,
            "category": "math",
            "reference": "42",
            "source": "s",
            "source_row": "0",
            "licence": "MIT",
        }
        rows |= {"query_id": names}
        rows |= {"messages": [[{"role": "user", "content": f"Question {name}: {words}"}] for name in names]}
        frame = pl.DataFrame(rows)
        frame = frame.select(pl.col(name).cast(dtype) for name, dtype in tables.QUERIES.schema.items())
        store.write("queries", shard, frame, fingerprints={})


def at_once(requests: Iterable[GenerationRequest], in_flight: int = 768) -> Iterator[GeneratedResponse]:
    """An engine's worth of requests in flight, the oldest answered first."""
    held: list[GenerationRequest] = []
    for request in requests:
        held.append(request)
        if len(held) == in_flight:
            yield from map(_answer, held)
            held.clear()
    yield from map(_answer, held)


def _answer(request: GenerationRequest) -> GeneratedResponse:
    return GeneratedResponse(
        response_id=request.response_id,
        text=TEXT,
        finish_reason="stop",
        prompt_tokens=50,
        response_tokens=70,
        engine="stub 1",
    )


def fill(home: str, at_most: int) -> dict[str, float]:
    """Go on with the table up to so many responses; what it cost this process."""
    store, begun = TableStore(home), time.perf_counter()
    ledger = ResponseLedger(STUDY, store, "stub", KEYS, Publication(table=tables.RESPONSES))
    first: float | None = None
    try:
        with ledger:
            for answer in at_once(ledger.requests()):
                first = time.perf_counter() - begun if first is None else first
                ledger.take(answer)
                if ledger.num_taken >= at_most:
                    raise KeyboardInterrupt
            ledger.finish()
    except KeyboardInterrupt:
        pass
    seconds = time.perf_counter() - begun
    return {
        "responses": ledger.num_taken,
        "seconds": round(seconds, 2),
        "first_request_seconds": round(first or 0.0, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def measure(num_rows: int) -> dict[str, object]:
    """Fill 99 % of so many rows in one process, the rest in another."""
    with tempfile.TemporaryDirectory() as home:
        write_queries(TableStore(home), num_rows)
        runs = []
        for at_most in (num_rows * 99 // 100, num_rows):
            command = [sys.executable, "-m", "benchmarks.ledger", "fill", home, str(at_most)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        stored = sum(commit.rows for key in KEYS if (commit := TableStore(home).latest("responses", key)))
    assert stored == num_rows, f"{stored:,} of {num_rows:,} stored"
    return {
        "rows": num_rows,
        "responses_per_second": round(runs[0]["responses"] / runs[0]["seconds"]),
        "peak_gib": max(run["peak_gib"] for run in runs),
        "first_request_after_restart_seconds": runs[1]["first_request_seconds"],
        "rows_after_restart": runs[1]["responses"],
    }


def main(sizes: list[int]) -> None:
    """Print one line per size, the last one everything as JSON."""
    figures = []
    for size in sizes:
        figures.append(measure(size // (NUM_PASSES * NUM_SHARDS) * NUM_PASSES * NUM_SHARDS))
        print(figures[-1], flush=True)
    print(json.dumps({"benchmark": "ledger", "runs": figures, **measured_on("polars")}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["fill"]:
        print(json.dumps(fill(sys.argv[2], int(sys.argv[3]))))
    else:
        main([int(size) for size in sys.argv[1:]] or [2_000_000, 4_000_000])
