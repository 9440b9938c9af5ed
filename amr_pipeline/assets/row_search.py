"""Which row an id, or the beginning of one, means: the search behind `amr trace`.

A query's id names its shard. A response's id names nothing, so partitions are looked through one by one, and of each
the slim tables first: texts are read only where these do not hold every id. A search for a whole id ends with
its row.

Belongs here: finding. Does not belong here: what is then said of a row (`passport`).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl

from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.queries.identity import shard_of
from amr_pipeline.studies.study import Study

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

ID_LENGTH, SHORTEST = 32, 8

Kind = Literal["query", "dropped query", "benchmark problem", "response", "benchmark response"]


class UnreadableIdError(ValueError):
    """What was asked for is neither an id nor the beginning of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A row that an id may mean, and the partition that holds it."""

    kind: Kind
    identity: str
    partition: str

    def as_json(self) -> dict[str, str]:
        """The same as plain data."""
        return {"kind": self.kind, "id": self.identity, "partition": self.partition}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a person asked for.

    Attributes:
        beginning: hex digits, at least eight.
        recipe: the selection recipe whose row it is, or None.
    """

    beginning: str
    recipe: str | None

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole id, which is unique."""
        return len(self.beginning) == ID_LENGTH


def read_asked(text: str, study: Study) -> Asked:
    """`ID`, or `RECIPE/ID` for a row of a subset; the first eight characters of an id suffice.

    Raises:
        UnreadableIdError: it is neither; the message says what was wanted.
    """
    recipe, _, beginning = text.strip().rpartition("/")
    recipes = [row.name for row in study.selection_recipes]
    if recipe and recipe not in recipes:
        raise UnreadableIdError(
            f"there is no selection recipe {recipe!r}; wanted one of {', '.join(recipes) or 'none'}"
        )
    beginning = beginning.lower()
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},{ID_LENGTH}}}", beginning):
        raise UnreadableIdError(
            f"{beginning!r} is no id; wanted {ID_LENGTH} hex digits or the first {SHORTEST} or more of them"
        )
    return Asked(beginning=beginning, recipe=recipe or None)


def find(study: Study, store: "TableStore", asked: Asked) -> list[Match]:
    """Rows that `asked` may mean: none, one, or several where it is the beginning of several ids.

    Distillers that the study no longer has are looked at where nothing else is found.
    """
    searches: list[Callable[[Study, TableStore, str], Iterator[Match]]] = [] if asked.recipe else [_queries]
    searches += [_responses] if asked.recipe else [_responses, _benchmark_responses]
    found: dict[str, Match] = {}
    for search in (*searches, _former_responses):
        if search is _former_responses and found:
            break
        for match in search(study, store, asked.beginning):
            found.setdefault(match.identity, match)
            if asked.is_whole:
                return [match]
    return sorted(found.values(), key=lambda match: match.identity)


def _ids(store: "TableStore", table: str, partition: str, column: str) -> pl.DataFrame:
    return store.read(table, partition, columns=[column], missing="empty").unique()


def _queries(study: Study, store: "TableStore", beginning: str) -> Iterator[Match]:
    shard = shard_of(beginning, study.num_shards)
    yield from _matches("query", _ids(store, "queries", shard, "query_id"), shard, beginning)
    yield from _matches("dropped query", _ids(store, "dropped_queries", shard, "query_id"), shard, beginning)
    for row in study.benchmarks:
        problems = _ids(store, "benchmark_queries", row.name, "query_id")
        yield from _matches("benchmark problem", problems, row.name, beginning)


def _responses(study: Study, store: "TableStore", beginning: str) -> Iterator[Match]:
    yield from _responses_of(store, stored_partitions(study, "responses"), beginning)


def _former_responses(study: Study, store: "TableStore", beginning: str) -> Iterator[Match]:
    today = set(stored_partitions(study, "responses"))
    former = [name for name in store.partitions("responses") if name not in today and name.count("|") == 1]
    yield from _responses_of(store, former, beginning)


def _responses_of(store: "TableStore", partitions: list[str], beginning: str) -> Iterator[Match]:
    """Matches in slim tables, a partition at a time; then those of partitions whose slim tables lack ids."""
    incomplete: list[str] = []
    for key in partitions:
        commit = store.latest("responses", key)
        if commit is None:
            continue
        known = _ids(store, "response_quality", key, "response_id")
        if known.height < commit.rows:
            known = pl.concat([known, _ids(store, "verdicts", key, "response_id")]).unique()
        if known.height < commit.rows:
            incomplete.append(key)
        yield from _matches("response", known, key, beginning)
    for key in incomplete:
        yield from _matches("response", _ids(store, "responses", key, "response_id"), key, beginning)


def _benchmark_responses(study: Study, store: "TableStore", beginning: str) -> Iterator[Match]:
    for recipe in stored_partitions(study, "benchmark_responses"):
        commit = store.latest("benchmark_responses", recipe)
        if commit is None:
            continue
        known = _ids(store, "benchmark_scores", recipe, "response_id")
        if known.height < commit.rows:
            known = _ids(store, "benchmark_responses", recipe, "response_id")
        yield from _matches("benchmark response", known, recipe, beginning)


def _matches(kind: Kind, ids: pl.DataFrame, partition: str, beginning: str) -> Iterator[Match]:
    (column,) = ids.columns
    for identity in ids.filter(pl.col(column).str.starts_with(beginning)).get_column(column).sort():
        yield Match(kind=kind, identity=identity, partition=partition)
