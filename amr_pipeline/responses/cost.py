"""What responses cost: engine time shared out while they are written, and tokens by how they ended.

A partition's commit record says what writing it took (`noted_cost`), accumulated over all runs that wrote in it; its
rows say the tokens. Not in the record: loading and idling engines, and what a killed run did since its last part.
Other stages note what they took in the same way, by category (`noted_costs`).

Belongs here: notes, clocks, shares and sums. Does not belong here: reading records (`assets.costs`), prices
(`responses.prices`), all stages together and what a kept token took (`responses.stage_costs`).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import polars as pl

from amr_pipeline.responses.prices import Prices

NOTE = "cost"
"""Name under which a commit record holds Costs as dicts: of `responses` by distiller fingerprint, of `checkpoints` by
identity of the run, else by category."""

SPENT = pl.Schema(
    {
        "distiller": pl.String,
        "category": pl.String,
        "finish_reason": pl.String,
        "is_expected": pl.Boolean,
        "responses": pl.Int64,
        "prompt_tokens": pl.Int64,
        "response_tokens": pl.Int64,
        "recorded_responses": pl.Float64,
        "engine_seconds": pl.Float64,
        "gpu_seconds": pl.Float64,
        "lost_prompt_tokens": pl.Float64,
        "lost_response_tokens": pl.Float64,
    }
)
"""What `spending` gives: its grain first, then sums."""

_GRAIN = ("distiller", "category", "finish_reason", "is_expected")
_BY_TOKEN, _BY_RESPONSE = ("engine_seconds", "gpu_seconds"), ("lost_prompt_tokens", "lost_response_tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What some answers of engines took: responses, replies of a judge, perplexities, or a training run.

    Attributes:
        runs: runs that brought some of them.
        responses, response_tokens: what came in that time; rows from before there were records are in neither.
        engine_seconds: seconds that the engines, all of them together, were at work.
        gpu_seconds: the same times the GPUs that they held.
        lost_prompt_tokens, lost_response_tokens: what attempts at a server that brought no answer may have cost at
            most.
    """

    runs: int = 0
    responses: int = 0
    response_tokens: int = 0
    engine_seconds: float = 0.0
    gpu_seconds: float = 0.0
    lost_prompt_tokens: int = 0
    lost_response_tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Both together."""
        mine, its = asdict(self), asdict(other)
        return Cost(**{name: mine[name] + its[name] for name in mine})

    @property
    def tokens_per_gpu_second(self) -> float | None:
        """Measured rate; None where no GPU was held or no token was written."""
        return self.response_tokens / self.gpu_seconds if self.gpu_seconds and self.response_tokens else None


def noted_costs(notes: Mapping[str, Any]) -> dict[str, Cost]:
    """All that a commit record says that its rows took; nothing where it says nothing."""
    return {name: Cost(**cost) for name, cost in notes.get(NOTE, {}).items()}


def noted_cost(notes: Mapping[str, Any], name: str) -> Cost:
    """What a commit record says that a distiller's responses took, or another stage's answers of a category."""
    return noted_costs(notes).get(name, Cost())


def with_cost(notes: Mapping[str, Any], name: str, cost: Cost) -> dict[str, Any]:
    """Notes of the next version of a partition: those found, with what came on top.

    Notes are per version, so that each has to carry what the ones before it said.
    """
    total = noted_cost(notes, name) + cost
    return {**notes, NOTE: {**notes.get(NOTE, {}), name: asdict(total)}}


def with_costs(notes: Mapping[str, Any], costs: Mapping[str, Cost]) -> dict[str, Any]:
    """`with_cost` of several at once; names without a cost are left out, and the notes say that costs are kept."""
    found = {NOTE: {}, **notes}
    for name, cost in costs.items():
        if cost != Cost():
            found = with_cost(found, name, cost)
    return found


def with_run(notes: Mapping[str, Any], identity: str, cost: Cost) -> dict[str, Any]:
    """Notes that say what the run of an identity took; said again, it replaces what was said before."""
    return {**notes, NOTE: {**notes.get(NOTE, {}), identity: asdict(cost)}}


@dataclass(kw_only=True, slots=True)
class _Came:
    """Answers for one share since time was last shared out; changed in place, because every answer passes here."""

    weight: int = 0
    responses: int = 0
    response_tokens: int = 0
    lost_prompt_tokens: int = 0
    lost_response_tokens: int = 0


class EngineTime:
    """Time that some engines work in one run, shared out over what they work for by the tokens it got.

    Partitions are written side by side by the same engines, so that no clock of a partition's own could tell. The
    shares of all partitions add up to the time that the clock ran until the last share-out. An answer without tokens
    counts as one token, since an engine looked at it.

    Args:
        gpus: GPUs that the engines hold together; asked at every reading, since a pool grows and shrinks. Until the
            next reading that number counts.
        clock: seconds, monotonic.
    """

    def __init__(self, gpus: Callable[[], float] = lambda: 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask_gpus, self._clock, self._gpus = gpus, clock, 0.0
        self._read_at: float | None = None
        self._seconds = self._gpu_seconds = self._unticked = 0.0
        self._came: dict[str, _Came] = {}
        self._costs: dict[str, Cost] = {}

    def start(self) -> None:
        """Start the clock: an engine that has loaded asks for work. Where it runs already, nothing changes."""
        if self._read_at is None:
            self._gpus = self._ask_gpus()
            self._read_at = self._clock()

    def stop(self) -> None:
        """Stop the clock: the engines have nothing to do."""
        self._read()
        self._read_at = None

    def tick(self) -> float:
        """GPU-seconds since the last tick, or since the start."""
        self._read()
        ticked, self._unticked = self._unticked, 0.0
        return ticked

    def wrote(self, name: str, tokens: int, *, lost: tuple[int, int] = (0, 0)) -> None:
        """An answer for a partition, or whatever shares are called by, came.

        Args:
            name: of the share.
            tokens: of the answer.
            lost: prompt and response tokens of attempts that brought none.
        """
        came = self._came.get(name)
        if came is None:
            came = self._came[name] = _Came()
        came.weight += max(1, tokens)
        came.responses += 1
        came.response_tokens += tokens
        came.lost_prompt_tokens += lost[0]
        came.lost_response_tokens += lost[1]

    def cost(self, name: str) -> Cost:
        """What a share took in this run up to now."""
        return self.costs().get(name, Cost())

    def costs(self) -> dict[str, Cost]:
        """What every share took in this run up to now; shares out what is not shared out yet."""
        self._read()
        came, self._came = self._came, {}
        if came:
            total = sum(answers.weight for answers in came.values())
            for name, answers in came.items():
                part = answers.weight / total
                self._costs[name] = self._costs.get(name, Cost(runs=1)) + Cost(
                    responses=answers.responses,
                    response_tokens=answers.response_tokens,
                    engine_seconds=part * self._seconds,
                    gpu_seconds=part * self._gpu_seconds,
                    lost_prompt_tokens=answers.lost_prompt_tokens,
                    lost_response_tokens=answers.lost_response_tokens,
                )
            self._seconds = self._gpu_seconds = 0.0
        return dict(self._costs)

    def _read(self) -> None:
        """Take in what the clock says; it waits to be shared out until something comes to share it out over."""
        if self._read_at is not None:
            before, self._read_at = self._read_at, self._clock()
            seconds = self._read_at - before
            self._seconds += seconds
            self._gpu_seconds += seconds * self._gpus
            self._unticked += seconds * self._gpus
            self._gpus = self._ask_gpus()


Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def timed(
    ask: Callable[[Iterable[Asked]], Iterator[Answer]],
    engines: EngineTime,
    share: Callable[[Answer], tuple[str, int]],
) -> Callable[[Iterable[Asked]], Iterator[Answer]]:
    """The same callable, with its engines' clock running from the first request until it ends.

    Args:
        ask: what takes requests and gives answers.
        engines: the clock; calls may follow each other on it, not overlap.
        share: what an answer counts for, and its tokens (`EngineTime.wrote`).
    """

    def asked(requests: Iterable[Asked]) -> Iterator[Answer]:
        def begun() -> Iterator[Asked]:
            for request in requests:
                engines.start()
                yield request

        try:
            for answer in ask(begun()):
                name, tokens = share(answer)
                engines.wrote(name, tokens)
                yield answer
        finally:
            engines.stop()

    return asked


def spending(rows: pl.DataFrame, costs: Mapping[str, Cost]) -> pl.DataFrame:
    """Sums over one partition's responses per category, finish reason and whether they are still expected (`SPENT`).

    A record's seconds go to the responses of its fingerprint by their tokens, at least one each; what was lost goes to
    them evenly.

    Args:
        rows: distiller, distiller_fingerprint, category, finish_reason, is_expected, prompt_tokens, response_tokens.
        costs: what the partition's record says, by distiller fingerprint.
    """
    names = ("responses", *_BY_TOKEN, *_BY_RESPONSE)
    noted = pl.DataFrame(
        [(fingerprint, *(getattr(cost, name) for name in names)) for fingerprint, cost in costs.items()],
        schema={"distiller_fingerprint": pl.String, "recorded_responses": pl.Float64}
        | dict.fromkeys((*_BY_TOKEN, *_BY_RESPONSE), pl.Float64),
        orient="row",
    )
    weight = pl.col("response_tokens").cast(pl.Int64).clip(lower_bound=1)
    whole = "distiller_fingerprint"
    return (
        rows.with_columns(by_token=weight / weight.sum().over(whole), by_response=1 / pl.len().over(whole))
        .join(noted, on=whole, how="left")
        .group_by(_GRAIN)
        .agg(
            pl.len().cast(pl.Int64).alias("responses"),
            *(pl.col(name).cast(pl.Int64).sum() for name in ("prompt_tokens", "response_tokens")),
            *(
                (pl.col(name).fill_null(0.0) * pl.col("by_response")).sum()
                for name in ("recorded_responses", *_BY_RESPONSE)
            ),
            *((pl.col(name).fill_null(0.0) * pl.col("by_token")).sum() for name in _BY_TOKEN),
        )
        .select(pl.col(name).cast(kind) for name, kind in SPENT.items())
        .sort(_GRAIN)
    )


def add_up(parts: pl.DataFrame) -> pl.DataFrame:
    """Rows of `spending` of several partitions, added up."""
    return parts.group_by(_GRAIN).agg(pl.exclude(_GRAIN).sum()).select(SPENT.names()).sort(_GRAIN)


def spent_money(spent: pl.DataFrame, prices: Prices) -> float | None:
    """What `SPENT` rows cost as far as it is on record; None where some of it has no price.

    Behind a server tokens cost, those of attempts without an answer at most; elsewhere the GPUs that were held.
    """
    is_billed = pl.col("distiller").is_in(prices.servers)
    total = 0.0
    for (name,), mine in spent.filter(is_billed).partition_by("distiller", as_dict=True).items():
        price = prices.tokens.get(str(name))
        if price is None:
            return None
        sums = mine.select(
            pl.col("prompt_tokens").sum() + pl.col("lost_prompt_tokens").sum(),
            pl.col("response_tokens").sum() + pl.col("lost_response_tokens").sum(),
        )
        total += price.of(*sums.row(0))
    for (name,), mine in spent.filter(~is_billed).partition_by("distiller", as_dict=True).items():
        of_gpus = prices.of_gpus(float(mine.get_column("gpu_seconds").sum()), str(name))
        if of_gpus is None:
            return None
        total += of_gpus
    return total


def is_recorded(spent: pl.DataFrame) -> bool:
    """Whether every response among `SPENT` rows has a record of what it took."""
    responses, recorded = spent.select(pl.col("responses").sum(), pl.col("recorded_responses").sum()).row(0)
    return recorded > responses - 0.5  # shares of whole numbers
