"""responses, frequent_ngrams and response_quality.

`responses` is the ledger of what was paid for: rows are added and never removed, and a row's identity is its
content. What is owed is expected minus present (`response_ledger`).
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.engine_times import EngineTimes
from amr_pipeline.assets.live_notes import LiveNotes
from amr_pipeline.assets.partitions import ALL, StudyPartitions, distiller_and_shard, stored_partitions
from amr_pipeline.assets.pools import pools_rows
from amr_pipeline.assets.publication import (
    Built,
    Publication,
    dictionary_check,
    partitions_of_run,
    progress_log,
    publish,
)
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.response_ledger import ResponseLedger
from amr_pipeline.categories import Category
from amr_pipeline.report.summary import counts_plot, markdown_table
from amr_pipeline.responses import quality
from amr_pipeline.responses.cost import timed
from amr_pipeline.responses.expected import expected_responses
from amr_pipeline.responses.generation import GeneratedResponse, ScoringRequest
from amr_pipeline.responses.progress import Progress
from amr_pipeline.responses.prompts import prompt_messages
from amr_pipeline.studies.study import Distiller, Study

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

COMPLETE = "every_expected_response_is_present"
BUDGET = "the_budget_left_nothing_owed"

ENGINES_HERE = {"vllm", "transformers"}
"""Engines that draw from a run's budget as their ledger asks; an engine of a server does so for each attempt."""

_WITH_QUERY = pl.Schema(
    {
        **tables.RESPONSES.schema,
        **{name: tables.QUERIES.schema[name] for name in ("messages", "reference", "test_cases", "constraints")},
    }
)


def current_responses(study: Study, store: "TableStore", distiller: str, shard: str) -> pl.DataFrame:
    """Stored responses that today's rows expect, with their query's messages, reference, tests and constraints.

    Responses of an earlier fingerprint, or to queries that were dropped since, stay stored and are left out here.
    """
    expected = expected_responses(store.read("queries", shard), study.distiller(distiller))
    stored = store.read("responses", f"{distiller}|{shard}")
    return stored.join(
        expected.select("response_id", "messages", "reference", "test_cases", "constraints"),
        on="response_id",
        how="inner",
    )


def texts_of(study: Study, store: "TableStore", rows: pl.DataFrame) -> pl.DataFrame:
    """The current responses (`current_responses`) of some rows with `response_id`, `distiller` and `shard`.

    Only partitions that hold one of them are read, one at a time.
    """
    frames = [
        current_responses(study, store, distiller, shard).join(rows.select("response_id"), on="response_id", how="semi")
        for distiller, shard in rows.select("distiller", "shard").unique().sort("distiller", "shard").iter_rows()
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=_WITH_QUERY)


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The response assets of a study."""
    of_shard = dg.MultiToSingleDimensionPartitionMapping("shard")
    has_scorer = study.quality_rules.perplexity_scorer is not None

    @dg.asset(
        partitions_def=partitions.responses,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[dg.AssetDep("queries", partition_mapping=of_shard)],
        check_specs=[
            dictionary_check("responses"),
            dg.AssetCheckSpec(COMPLETE, asset="responses", description="expected minus present is empty"),
            dg.AssetCheckSpec(BUDGET, asset="responses", description="no budget of the run stopped its requests"),
        ],
        group_name="responses",
        kinds={"vllm", "ray"},
        pool=pool_of(study),
    )
    def responses(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """What each distiller wrote for each query in each pass; only what is owed is generated."""
        return Distilling(context, platform, study).result()

    @dg.asset(
        deps=[dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping()) for name in ("responses", "queries")],
        check_specs=[dictionary_check("frequent_ngrams")],
        group_name="responses",
        kinds={"polars"},
    )
    def frequent_ngrams(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Strings of 20 tokens that occur too often in today's responses together; two passes, a shard at a time."""
        return publish(
            context, platform, study, tables.FREQUENT_NGRAMS, lambda _: _find_ngrams(study, platform)
        ).result()

    @dg.asset(
        partitions_def=partitions.responses,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[dg.AssetDep("responses"), "frequent_ngrams", dg.AssetDep("queries", partition_mapping=of_shard)],
        check_specs=[dictionary_check("response_quality")],
        group_name="responses",
        kinds={"vllm", "ray"},
        pool="engines" if has_scorer else "tables",
    )
    def response_quality(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Perplexity, frequent n-grams and structure of every response, and the first rule it breaks."""
        times = EngineTimes(platform, "response_quality")
        done = publish(
            context,
            platform,
            study,
            tables.RESPONSE_QUALITY,
            lambda key: _assess(study, platform, key, times),
            notes=times.notes,
        )
        return done.result(metadata={"quality": dg.MetadataValue.md(counts_plot(done.counts))})

    return [responses, frequent_ngrams, response_quality]


def pool_of(study: Study) -> str:
    """The pool whose turn a run on `responses` waits for: the scarcest thing that one of the distillers needs.

    The pace of HTTP engines is kept by one process, so their runs take turns as well, but beside the models'.
    """
    engines = {row.engine for row in study.distillers}
    if engines & ENGINES_HERE:
        return "engines"
    return "http" if "http" in engines else "tables"


class Distilling:
    """One run's work on the responses table: distillers side by side, each streaming over all its shards.

    Every distiller keeps counts of its own, because a sum over threads loses some.

    A spent budget ends the run as a success with a check that did not pass, and the partitions owed. An error would
    show a run that did what it was asked as failed, without its metadata, and where failed runs are retried, every
    retry would spend a budget of its own.
    """

    def __init__(self, context: dg.AssetExecutionContext, platform: Platform, study: Study) -> None:
        self._context, self._platform, self._study = context, platform, study
        self._store, self._budget = platform.tables(), platform.budget()

    def result(self) -> dg.MaterializeResult:
        """Fill every partition of the run, then say what was owed, generated and found."""
        done, owed, generated, tokens = Publication(table=tables.RESPONSES), 0, 0, 0
        for filled in self._filled():
            done.add(filled.done)
            owed, generated, tokens = owed + filled.owed, generated + filled.generated, tokens + filled.tokens
        is_stopped = self._budget.has_refused and owed > generated
        if is_stopped:
            left = owed - generated
            progress_log.warning(
                f"budget reached: {self._budget.text()}, {left:,} responses owed; run it again to go on"
            )
        return done.result(
            metadata={
                "responses generated in this run": generated,
                "response tokens written in this run": tokens,
                "finish reasons": dg.MetadataValue.md(counts_plot(done.counts)),
                **self._pools(),
            },
            checks=(
                dg.AssetCheckResult(
                    check_name=COMPLETE,
                    asset_key="responses",
                    passed=owed == generated,
                    metadata={"owed at start": owed, "generated": generated},
                ),
                dg.AssetCheckResult(
                    check_name=BUDGET,
                    asset_key="responses",
                    passed=not is_stopped,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={"budget": self._budget.text(), "owed": owed - generated},
                ),
            ),
        )

    def _pools(self) -> dict[str, dg.MetadataValue]:
        """The engine pools of the cluster, where the deployment names one."""
        pools = self._platform.listed_pools()
        return {"engine pools": dg.MetadataValue.md(markdown_table(*pools_rows(pools)))} if pools else {}

    def _filled(self) -> "Iterator[Filled]":
        """What was done for each distiller of the run; distillers are filled side by side."""
        by_distiller: dict[str, list[str]] = {}
        for key in partitions_of_run(self._context):
            by_distiller.setdefault(distiller_and_shard(key)[0], []).append(key)
        for name in by_distiller:
            self._budget.require_prices(self._study.distiller(name))
        elsewhere = {name for name in by_distiller if self._study.distiller(name).engine == "http"}
        with (
            ThreadPoolExecutor(max_workers=self._platform.max_engines) as here,
            ThreadPoolExecutor(max_workers=max(1, len(elsewhere))) as asked,  # takes no model's place in memory
        ):
            running = [
                (asked if name in elsewhere else here).submit(self._fill, name, keys)
                for name, keys in by_distiller.items()
            ]
            yield from (finished.result() for finished in running)

    def _fill(self, name: str, keys: list[str]) -> "Filled":
        """All partitions of one distiller: requests of all of them flow through its pool without a barrier.

        Raises:
            HttpEngineError: its server ended the run; the message ends with what stays owed.
        """
        from amr_pipeline.engines.http_limits import HttpEngineError

        filled, row = Filled(), self._study.distiller(name)
        ledger = ResponseLedger(
            self._study,
            self._store,
            name,
            keys,
            filled.done,
            budget=self._budget if row.engine in ENGINES_HERE else None,
            gpus=lambda: self._platform.gpus_held(row),
            is_limited=self._budget.is_limited,
        )
        if ledger.is_empty:
            return filled
        load = partial(self._engines_of, row)
        progress = Progress(total=ledger.estimate, what=f"responses of {name}", say=progress_log.info, beside=load)
        live = LiveNotes(self._context.instance, "responses", name, load)
        try:
            with ledger:
                for answer in self._answers(row, ledger, progress):
                    ledger.take(answer)
                    progress.add(1, answer.response_tokens)
                    live.note(progress)
                ledger.finish()
        except HttpEngineError as error:
            owed = ledger.estimate - ledger.num_taken
            raise type(error)(f"{error}; {ledger.num_taken:,} responses came, {owed:,} stay owed") from None
        filled.owed, filled.generated, filled.tokens = ledger.num_owed, ledger.num_taken, ledger.num_tokens
        return filled

    def _engines_of(self, row: Distiller) -> str:
        """How full a distiller's engines are; "" where it has none of ours."""
        load = self._platform.engine_load(row)
        return load.text() if load is not None else ""

    def _answers(self, row: Distiller, ledger: ResponseLedger, progress: Progress) -> Iterator[GeneratedResponse]:
        """What the ledger asks for, as far as the budget reaches.

        An engine of one's own is asked again when all is answered and the budget still covers something, because
        responses were shorter than expected; none is started to be told that nothing is asked. What exists already is
        looked up and costs nothing.
        """
        if row.engine == "http":
            yield from self._platform.ask_server(row, ledger.requests(progress), self._budget)
            return
        while ledger.may_ask():
            yield from self._platform.generate(row, ledger.requests(progress))


@dataclass(kw_only=True)
class Filled:
    """What one distiller's partitions owed when the run began, got (responses, and their tokens), and are now."""

    owed: int = 0
    generated: int = 0
    tokens: int = 0
    done: Publication = field(default_factory=lambda: Publication(table=tables.RESPONSES))


def _find_ngrams(study: Study, platform: Platform) -> Built:
    rules, keys = study.quality_rules, stored_partitions(study, "responses")
    if rules.ngram_tokens is None:
        return tables.FREQUENT_NGRAMS.empty(), {}
    store, counts = platform.tables(), Counter[int]()

    def texts() -> Iterator[str]:
        for key in keys:
            yield from current_responses(study, store, *distiller_and_shard(key)).get_column("text")

    counts.update(quality.count_ngrams(texts(), rules.ngram_tokens))
    found = quality.frequent(counts, rules.ngram_occurrences)
    return quality.frequent_ngram_rows(texts() if found else (), rules.ngram_tokens, found), {}


def _assess(study: Study, platform: Platform, key: str, times: EngineTimes) -> Built:
    store, rules = platform.tables(), study.quality_rules
    rows = current_responses(study, store, *distiller_and_shard(key))
    row = study.distiller(distiller_and_shard(key)[0])
    perplexities: dict[str, float | None] = {}
    if rules.perplexity_scorer is not None:
        requests = (
            ScoringRequest(
                response_id=response["response_id"],
                messages=prompt_messages(
                    response["messages"], Category(response["category"]), row.system_prompt, row.prompt_suffixes
                ),
                text=response["text"],
            )
            for response in rows.iter_rows(named=True)
        )
        progress = Progress(total=rows.height, what=f"perplexities {key}", say=progress_log.info)
        read = {row[0]: row[1:] for row in rows.select("response_id", "category", "response_tokens").iter_rows()}
        score_all = timed(
            partial(platform.pools().score_perplexity, rules.perplexity_scorer),
            times.clock(key, rules.perplexity_scorer),
            lambda score: read[score.response_id],
        )
        for score in score_all(requests):
            perplexities[score.response_id] = score.perplexity
            progress.add(1)
    hashes = set(store.read("frequent_ngrams", ALL, columns=["ngram_hash"]).get_column("ngram_hash"))
    frame = quality.assess(rows, perplexities, hashes, rules)
    reasons = Counter(reason or "fit for subsets" for reason in frame.get_column("quality_reason"))
    return frame, dict(reasons)
