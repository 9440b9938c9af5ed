"""benchmark_responses: what each checkpoint writes to held-out problems.

Like `responses`, a ledger of what was paid for (`response_ledger`): rows are added and never removed, and what is owed
is expected minus present. `evaluation` judges what is stored here, so a changed verifier generates nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from amr_pipeline import tables, worklist
from amr_pipeline.assets.engine_times import EngineTimes
from amr_pipeline.assets.lineage import Lineage, benchmarks_of
from amr_pipeline.assets.partitions import StudyPartitions
from amr_pipeline.assets.publication import (
    Publication,
    dictionary_check,
    note_committed,
    note_current,
    partitions_of_run,
    progress_log,
)
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.response_ledger import LedgerPage
from amr_pipeline.categories import Category
from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.report.summary import counts_plot
from amr_pipeline.responses.cost import timed
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
        writer = self._store.writer(
            "benchmark_responses", recipe.name, fingerprints=lineage.fingerprints("benchmark_responses", recipe.name)
        )
        expected = expected_responses(study, self._store, recipe)
        present = writer.found(["response_id", "finish_reason"])
        self._owed = worklist.owed(expected, present, ["response_id"])
        mine = present.join(expected.select("response_id"), on="response_id", how="semi")
        seeds = pl.Series("seed", [_seed(row) for row in self._owed.iter_rows(named=True)], dtype=pl.Int64)
        known = self._owed.select("response_id", "benchmark", "query_id", "category", "pass_index", "digest")
        self._origin = _origin(study, recipe)
        times = EngineTimes(platform, "benchmark_responses")
        self._clock = times.clock(recipe.name, self._origin)
        self._categories = dict(self._owed.select("response_id", "category").iter_rows())
        self._page = LedgerPage(
            writer,
            tables.BENCHMARK_RESPONSES,
            known.with_columns(seeds),
            {"training_recipe": recipe.name},
            Counter(mine.get_column("finish_reason")),
            notes=lambda: times.on_top(recipe.name, writer.found_notes),
        )

    def finish(self, done: Publication) -> int:
        """Have the checkpoint answer what it owes and complete the partition; how many it answered."""
        key = self._recipe.name
        if self._is_current and self._owed.is_empty():
            note_current(done, self._store, key)
            return 0
        progress = Progress(total=self._owed.height, what=f"benchmark responses of {key}", say=progress_log.info)
        with self._page:
            for (benchmark,), problems in self._owed.group_by("benchmark", maintain_order=True):
                for answer in self._write(self._study.benchmark(str(benchmark)), problems):
                    self._page.take(answer)
                    progress.add(1, answer.response_tokens)
            note_committed(done, self._page.complete())
        return self._owed.height

    def _write(self, benchmark: Benchmark, problems: pl.DataFrame) -> Iterator[GeneratedResponse]:
        weights = self._platform.checkpoint(self._store.read("checkpoints", self._recipe.name).row(0, named=True))
        requests = (
            GenerationRequest(
                response_id=question["response_id"], messages=_prompt(question, self._recipe), seed=_seed(question)
            )
            for question in problems.iter_rows(named=True)
        )
        write = timed(
            partial(self._platform.write_with_checkpoint, self._origin, weights, benchmark.sampling),
            self._clock,
            lambda answer: (self._categories[answer.response_id], answer.response_tokens),
        )
        return write(requests)


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
