"""benchmark_responses: what each checkpoint writes to held-out problems.

Like `responses`, a ledger of what was paid for: rows are added and never removed, what is owed is expected minus
present, and finished responses are committed every few hundred or few seconds. `evaluation` judges what is stored
here, so a changed verifier generates nothing.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from amr_pipeline import tables, worklist
from amr_pipeline.assets.lineage import Lineage, benchmarks_of
from amr_pipeline.assets.partitions import StudyPartitions
from amr_pipeline.assets.publication import (
    Publication,
    dictionary_check,
    note_current,
    note_written,
    partitions_of_run,
    progress_log,
)
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.responses import RESPONSES_PER_PART, SECONDS_PER_PART
from amr_pipeline.categories import Category
from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.report.summary import counts_plot
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest, response_id, seed_of
from amr_pipeline.responses.progress import Progress
from amr_pipeline.responses.prompts import prompt_messages
from amr_pipeline.studies.study import Benchmark, Study, TrainingRecipe

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore


class ResponsesOwedError(LookupError):
    """A checkpoint has not answered every problem it is to be measured on."""


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The benchmark responses of a study's training recipes."""

    @dg.asset(
        partitions_def=partitions.training_recipes,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=["checkpoints", dg.AssetDep("benchmark_queries", partition_mapping=dg.AllPartitionMapping())],
        check_specs=[dictionary_check("benchmark_responses")],
        group_name="evaluation",
        kinds={"vllm", "ray"},
        pool="engines",
    )
    def benchmark_responses(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """What each checkpoint writes to held-out problems; only what is owed is generated."""
        done, generated = Publication(table=tables.BENCHMARK_RESPONSES), 0
        for key in partitions_of_run(context):
            generated += Answering(platform, study, study.training_recipe(key)).finish(done)
        return done.result(
            metadata={
                "responses generated in this run": generated,
                "finish reasons": dg.MetadataValue.md(counts_plot(done.counts)),
            }
        )

    return [benchmark_responses]


def expected_responses(study: Study, store: "TableStore", recipe: TrainingRecipe) -> pl.DataFrame:
    """One row per response that a recipe's checkpoint owes: the problem's columns, `pass_index`, `response_id`.

    A response's identity is the problem, the pass, the checkpoint's weights and what decides what it writes: the
    prompt as it is sent, the sampling and the context.
    """
    digest = store.read("checkpoints", recipe.name).row(0, named=True)["digest"]
    frames = [_owed_to(study.benchmark(name), store, recipe, digest) for name in benchmarks_of(study, recipe.name)]
    return pl.concat(frames)


def _owed_to(benchmark: Benchmark, store: "TableStore", recipe: TrainingRecipe, digest: str) -> pl.DataFrame:
    passes = pl.DataFrame({"pass_index": range(benchmark.num_samples)}, schema={"pass_index": pl.Int32})
    rows = store.read("benchmark_queries", benchmark.name).join(passes, how="cross")
    decides = (digest, benchmark.name, benchmark.sampling, recipe.evaluation_context_tokens)
    identities = [
        response_id(row["query_id"], fingerprint(*decides, _prompt(row, recipe)), row["pass_index"])
        for row in rows.iter_rows(named=True)
    ]
    return rows.with_columns(pl.Series("response_id", identities, dtype=pl.String), digest=pl.lit(digest))


def current_benchmark_responses(study: Study, store: "TableStore", recipe: TrainingRecipe) -> pl.DataFrame:
    """Stored responses of a recipe's newest checkpoint, with their problem's messages, reference, tests, constraints.

    Raises:
        ResponsesOwedError: some that today's rows expect are not there.
    """
    expected = expected_responses(study, store, recipe)
    stored = store.read("benchmark_responses", recipe.name)
    found = stored.join(
        expected.select("response_id", "messages", "reference", "test_cases", "constraints"), on="response_id"
    )
    if found.height != expected.height:
        raise ResponsesOwedError(
            f"{recipe.name}: {expected.height - found.height:,} of {expected.height:,} benchmark responses of its "
            "checkpoint are owed; materialize benchmark_responses for it, then benchmark_scores"
        )
    return found


class Answering:
    """One checkpoint's responses while they are being written."""

    def __init__(self, platform: Platform, study: Study, recipe: TrainingRecipe) -> None:
        self._platform, self._study, self._recipe = platform, study, recipe
        self._store = platform.tables()
        lineage = Lineage(study, self._store)
        self._is_current = lineage.is_current("benchmark_responses", recipe.name)
        # Opened before what is present is read: if another run commits in between, this one's commit is refused.
        self._writer = self._store.writer(
            "benchmark_responses", recipe.name, fingerprints=lineage.fingerprints("benchmark_responses", recipe.name)
        )
        self._expected = expected_responses(study, self._store, recipe)
        present = self._store.read_any("benchmark_responses", recipe.name, columns=["response_id"])
        self._owed = worklist.owed(self._expected, present, ["response_id"])
        self._fresh: list[dict[str, object]] = []
        self._committed_at = time.monotonic()

    def finish(self, done: Publication) -> int:
        """Have the checkpoint answer what it owes and complete the partition; how many it answered."""
        key = self._recipe.name
        if self._is_current and self._owed.is_empty():
            note_current(done, self._store, key)
            return 0
        progress = Progress(total=self._owed.height, what=f"benchmark responses of {key}", say=progress_log.info)
        for (benchmark,), problems in self._owed.group_by("benchmark", maintain_order=True):
            questions = {row["response_id"]: row for row in problems.iter_rows(named=True)}
            for answer in self._write(self._study.benchmark(str(benchmark)), questions):
                self._take(questions[answer.response_id], answer)
                progress.add(1, answer.response_tokens)
        self._writer.append(self._frame())
        self._writer.commit_part()
        everything = self._store.read_any("benchmark_responses", key)
        mine = everything.join(self._expected.select("response_id"), on="response_id", how="semi")
        counts = Counter(mine.get_column("finish_reason").to_list())
        self._writer.complete(counts=counts)
        note_written(done, key, everything, counts)
        return self._owed.height

    def _write(self, benchmark: Benchmark, questions: Mapping[str, Mapping[str, Any]]) -> Iterator[GeneratedResponse]:
        folder = self._store.read("checkpoints", self._recipe.name).row(0, named=True)["path"]
        requests = (
            GenerationRequest(response_id=identity, messages=_prompt(question, self._recipe), seed=_seed(question))
            for identity, question in questions.items()
        )
        origin = _origin(self._study, self._recipe)
        weights = Path(self._platform.home) / folder
        return self._platform.write_with_checkpoint(origin, weights, benchmark.sampling, requests)

    def _take(self, question: Mapping[str, Any], answer: GeneratedResponse) -> None:
        """Keep one response; commit a part when enough came together."""
        said = ("text", "finish_reason", "prompt_tokens", "response_tokens", "engine")
        asked = ("response_id", "benchmark", "query_id", "category", "pass_index", "digest")
        row = {name: question[name] for name in asked} | {name: getattr(answer, name) for name in said}
        self._fresh.append({"training_recipe": self._recipe.name, "seed": _seed(question), **row})
        if len(self._fresh) >= RESPONSES_PER_PART or time.monotonic() - self._committed_at >= SECONDS_PER_PART:
            self._writer.append(self._frame())
            self._writer.commit_part()
            self._fresh, self._committed_at = [], time.monotonic()

    def _frame(self) -> pl.DataFrame:
        return pl.DataFrame(self._fresh, schema=tables.BENCHMARK_RESPONSES.schema)


def _prompt(question: Mapping[str, Any], recipe: TrainingRecipe) -> tuple[tuple[str, str], ...]:
    return prompt_messages(
        question["messages"], Category(question["category"]), recipe.system_prompt, recipe.prompt_suffixes
    )


def _seed(question: Mapping[str, Any]) -> int:
    """Seeds come from the problem and pass, not from the checkpoint, so that runs are compared on equal draws."""
    return seed_of(response_id(question["query_id"], "benchmark", question["pass_index"]))


def _origin(study: Study, recipe: TrainingRecipe) -> TrainingRecipe:
    """The recipe at the start of a chain of continued ones: it names the model whose architecture all share."""
    while recipe.continues is not None:
        recipe = study.training_recipe(recipe.continues)
    return recipe
