"""The ledger of responses: what is owed flows out as requests, what comes back is kept in parts, nothing is paid twice.

A partition is opened when its first request is due and completed when its last answer came, so that one shard's tail
overlaps the next one's head while memory holds what is in flight and a shard or two of ids, however many rows are
owed. What was never asked, or got no answer, stays owed. Each record says what writing the partition took, over all
runs; where a budget ends, no more is asked.

Belongs here: opening, filling and completing partitions of tables of responses. Does not belong here: who answers
(`engines`), which responses are expected (`responses.expected`).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import polars as pl

from amr_pipeline.assets.adaptive_passes import passes_due
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.partitions import distiller_and_shard
from amr_pipeline.assets.publication import Publication, note_committed, note_current
from amr_pipeline.categories import Category
from amr_pipeline.responses.budget import Allowance, Budget
from amr_pipeline.responses.cost import EngineTime, noted_cost, with_cost
from amr_pipeline.responses.expected import longest_first, num_expected, owed_responses
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest, seed_of
from amr_pipeline.responses.progress import Progress
from amr_pipeline.responses.prompts import prompt_messages
from amr_pipeline.studies.study import Distiller, Study

if TYPE_CHECKING:
    from amr_pipeline.engines.commits import Commit
    from amr_pipeline.engines.partition_writer import PartitionWriter
    from amr_pipeline.engines.tables_on_disk import TableStore
    from amr_pipeline.tables import Table

RESPONSES_PER_PART = 100
SECONDS_BETWEEN_PARTS = 0.5
SECONDS_PER_PART = 5.0
"""A part is committed when it has so many responses, but not twice within half a second, or when five are over: what a
kill can cost."""

LARGEST_PART, MANY_PARTS = 10_000, 100
"""Most responses of a part; and so many parts after which they come less and less often, because every commit record
names all parts so far."""

_SAID = ("text", "finish_reason", "prompt_tokens", "response_tokens", "engine", "attempts", "last_failure")


class LedgerPage:
    """One partition of a table of responses while it is being filled.

    A context manager around what answers: leaving it with an error makes durable what came before.

    Should another run commit meanwhile, this one's next commit raises `CommitConflict` and the partition stays as the
    other run left it.

    Args:
        owed: one row per response that is owed: response_id and whatever else of the table's columns no answer says.
        constant: the table's columns that are equal in all of its rows.
        counts: finish reasons of what is there already.
        notes: what each record notes besides, asked when it is made.
    """

    def __init__(
        self,
        writer: "PartitionWriter",
        table: "Table",
        owed: pl.DataFrame,
        constant: Mapping[str, str],
        counts: Mapping[str, int],
        notes: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._writer, self._table, self._owed, self._constant = writer, table, owed, constant
        self._notes = notes
        self.num_missing = owed.height
        self.is_asked = False
        self._finish_reasons = Counter(counts)
        self._fresh: list[GeneratedResponse] = []
        self._committed_at, self._num_parts = time.monotonic(), 0

    def __enter__(self) -> "LedgerPage":
        """The page itself."""
        return self

    def __exit__(self, error: object = None, *_: object) -> None:
        """Keep what came before an error."""
        if error is not None:
            self.commit_part()

    def take(self, answer: GeneratedResponse) -> None:
        """Keep one response; commit a part when enough came together."""
        self._fresh.append(answer)
        self._finish_reasons[answer.finish_reason] += 1
        self.num_missing -= 1
        waited = time.monotonic() - self._committed_at
        pause = SECONDS_BETWEEN_PARTS
        if self._num_parts > MANY_PARTS:
            pause = SECONDS_PER_PART * self._num_parts / MANY_PARTS
        is_enough = len(self._fresh) >= RESPONSES_PER_PART and waited >= pause
        if is_enough or waited >= max(pause, SECONDS_PER_PART) or len(self._fresh) >= LARGEST_PART:
            self.commit_part()

    def commit_part(self) -> None:
        """Make what came so far durable."""
        if self._fresh:
            self._hand_over()
            self._writer.commit_part(self._notes())
            self._num_parts += 1
        self._committed_at = time.monotonic()

    def complete(self) -> "Commit":
        """Publish the partition; what got no answer stays owed."""
        self._hand_over()
        return self._writer.complete(counts=self._finish_reasons, notes=self._notes(), owed=self.num_missing)

    def _hand_over(self) -> None:
        """Give the writer what is fresh, once: where its commit fails, nobody tries the same rows again."""
        frame, self._fresh = self._frame(), []
        self._writer.append(frame)

    def _frame(self) -> pl.DataFrame:
        schema = self._table.schema
        names = [name for name in ("response_id", *_SAID) if name in schema]
        said = {name: [getattr(answer, name) for answer in self._fresh] for name in names}
        answers = pl.DataFrame(said, schema={name: schema[name] for name in names})
        rows = answers.join(self._owed, on="response_id", how="left", maintain_order="left")
        return rows.with_columns(pl.lit(value).alias(name) for name, value in self._constant.items()).select(
            pl.col(name).cast(dtype) for name, dtype in schema.items()
        )


class ResponseLedger:
    """One distiller's partitions of `responses`; use as a context manager around what answers its requests.

    Leaving it with an error makes durable what came before.

    Args:
        budget: of the run, which every request draws from; None: no limit, or whoever answers keeps to it.
        gpus: GPUs that the engines hold, asked when they are there.
        is_limited: whether the run may end before all is asked, because whoever answers keeps to a budget; one that
            is given says so itself.

    Attributes:
        num_owed: responses that the partitions opened so far owed.
        num_taken, num_tokens: responses that came, and their tokens.
    """

    def __init__(
        self,
        study: Study,
        store: "TableStore",
        name: str,
        keys: Sequence[str],
        done: Publication,
        *,
        budget: Budget | None = None,
        gpus: Callable[[], float] = lambda: 0.0,
        is_limited: bool = False,
    ) -> None:
        self._is_limited = is_limited or (budget is not None and budget.is_limited)
        self._study, self._store, self._row, self._done = study, store, study.distiller(name), done
        self._allowance, self._time = Allowance(budget or Budget(), self._row), EngineTime(gpus)
        self._lineage = Lineage(study, store)
        self._keys = [key for key in keys if not self._note_if_current(key)]
        self._open: dict[str, LedgerPage] = {}
        self._asked: dict[str, str] = {}
        self._due = self._all_due()
        self._next: GenerationRequest | None = None
        self.num_owed = self.num_taken = self.num_tokens = 0
        self._unopened = {key: _estimate(store, self._row, key) for key in self._keys}

    def __enter__(self) -> "ResponseLedger":
        """The ledger itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Keep what came before an error, of every partition, also where another one cannot be written."""
        self._allowance.close()
        with ExitStack() as pages:
            for page in self._open.values():
                pages.callback(page.__exit__, *error)

    @property
    def is_empty(self) -> bool:
        """Whether every partition says that it owes nothing."""
        return not self._keys

    @property
    def estimate(self) -> int:
        """Responses owed, as far as commit records say; exact for the partitions that were opened."""
        return self.num_owed + sum(self._unopened.values())

    def may_ask(self) -> bool:
        """Whether something is owed that the budget covers; for a caller that has nothing in flight.

        Waits while others of the run hold what may yet come back.
        """
        self._time.stop()
        return self._peek() is not None and self._allowance.wait()

    def requests(self, progress: Progress | None = None) -> Iterator[GenerationRequest]:
        """What is owed, in the order of partitions (`_ordered` in each); each is read when its turn comes.

        They end where the budget covers no more at the moment, and go on when called again (`may_ask`). The stop is
        here because every engine draws from here.
        """
        self._time.start()
        while (request := self._peek()) is not None and self._allowance.reserve(request.response_id):
            self._next = None
            if progress is not None:
                progress.total = self.estimate
            yield request

    def _peek(self) -> GenerationRequest | None:
        """The next request, which stays the next one."""
        if self._next is None:
            self._next = next(self._due, None)
        return self._next

    def _all_due(self) -> Iterator[GenerationRequest]:
        row = self._row
        for key in self._keys:
            page, owed = self._page(key)
            asked = owed.select("response_id", "category", "messages")
            for identity, category, messages in asked.iter_rows():
                self._asked[identity] = key
                turns = prompt_messages(messages, Category(category), row.system_prompt, row.prompt_suffixes)
                yield GenerationRequest(response_id=identity, messages=turns, seed=seed_of(identity))
            page.is_asked = True
            if not page.num_missing:
                self._complete(key)

    def take(self, answer: GeneratedResponse) -> None:
        """Keep one response; its partition is completed by its last one."""
        key = self._asked.pop(answer.response_id)
        page = self._open[key]
        self._allowance.settle(answer.response_id, answer.response_tokens, self._time.tick())
        lost = (answer.lost_prompt_tokens, answer.lost_response_tokens)
        self._time.wrote(key, answer.response_tokens, lost=lost)
        page.take(answer)
        self.num_taken += 1
        self.num_tokens += answer.response_tokens
        if page.is_asked and not page.num_missing:
            self._complete(key)

    def finish(self) -> None:
        """Complete the partitions that some answers did not reach, those a spent budget left unasked among them.

        Readers find what is there of them and the record says what is owed, so that nothing downstream breaks off at
        a partition that is missing.
        """
        for key in [*self._open, *self._unopened]:
            if key not in self._open:
                self._page(key)
            self._complete(key)

    def _page(self, key: str) -> tuple[LedgerPage, pl.DataFrame]:
        """A partition with what its writer's own version lacks, and the questions behind that."""
        fingerprints = self._lineage.fingerprints("responses", key)
        queries = self._store.read("queries", distiller_and_shard(key)[1])
        writer = self._store.writer("responses", key, fingerprints=fingerprints)
        present = writer.found(
            ["query_id", "category", "pass_index", "distiller_fingerprint", "finish_reason", "response_tokens"]
        )
        due = owed_responses(queries, present, self._row, passes_due(self._study, self._store, key))
        owed = self._ordered(due, distiller_and_shard(key)[1], present)
        is_imported = self._row.engine == "imported"
        seeds = [None if is_imported else seed_of(identity) for identity in owed.get_column("response_id")]
        known = owed.select("response_id", "query_id", "category", "pass_index").with_columns(
            pl.Series("seed", seeds, dtype=pl.Int64)
        )
        constant = {"distiller": self._row.name, "distiller_fingerprint": self._row.distiller_fingerprint}
        counts = Counter(present.get_column("finish_reason"))
        fingerprint = self._row.distiller_fingerprint
        page = self._open[key] = LedgerPage(
            writer,
            self._done.table,
            known,
            constant,
            counts,
            notes=lambda: with_cost(writer.found_notes, fingerprint, self._time.cost(key)),
        )
        self._allowance.know(noted_cost(writer.found_notes, fingerprint))
        self._unopened.pop(key, None)
        self.num_owed += owed.height
        return page, owed

    def _ordered(self, due: pl.DataFrame, shard: str, present: pl.DataFrame) -> pl.DataFrame:
        """What is due in the order in which it is asked: longest first where all of it is.

        Where a budget ends the run before, what came is to stand for what did not, as the forecast takes it; ids are
        hashes, so their order is random.
        """
        if self._is_limited:
            return due.sort("query_id", "pass_index")
        return longest_first(due, self._lengths(shard, present))

    def _lengths(self, shard: str, present: pl.DataFrame) -> pl.DataFrame:
        """What is known of the lengths of a shard's responses: query_id, category and tokens of all that are stored."""
        columns = ["query_id", "category", "response_tokens"]
        others = [f"{row.name}|{shard}" for row in self._study.distillers if row.name != self._row.name]
        return pl.concat(
            [
                present.select(columns),
                self._store.read("responses", others, columns=columns, missing="empty"),
            ]
        )

    def _complete(self, key: str) -> None:
        note_committed(self._done, self._open.pop(key).complete())

    def _note_if_current(self, key: str) -> bool:
        is_current = self._lineage.is_current("responses", key)
        if is_current:
            note_current(self._done, self._store, key)
        return is_current


def _estimate(store: "TableStore", row: Distiller, key: str) -> int:
    """Responses that a partition lacks, without reading one: expected less stored, of whatever fingerprint."""
    categories = store.read("queries", distiller_and_shard(key)[1], columns=["category"])
    newest = store.latest_any("responses", key)
    return max(0, num_expected(categories, row) - (newest.rows if newest else 0))
