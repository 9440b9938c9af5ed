"""What a study is going to cost before anything runs: responses owed, tokens to write, partitions per asset.

Pure arithmetic on rows; nothing is read from storage. What exists already is a number the caller may pass.

Belongs here: counts that follow from a study's rows. Does not belong here: time and money, which depend on machines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import Distiller, Generated, Study

MOST_KEYS = 100
"""A partition dimension stays below this: from 100 upstream partitions on, Dagster stops saying what is stale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillerPlan:
    """What one distiller owes.

    Attributes:
        num_queries: queries of the categories it answers.
        num_passes: of every query; with a policy the most on average.
        expected: responses that should exist, `num_queries` x `num_passes`.
        spread: fewest and most passes of a query under a policy of adaptive passes; None: all get `num_passes`.
        owed: those that do not exist yet.
        tokens: tokens that writing them takes; None where the row has no `mean_response_tokens`, 0 for imported ones.
        gpus_per_replica: GPUs one copy of it occupies here; 0 where it is asked over HTTP.
    """

    distiller: str
    num_queries: int
    num_passes: int
    expected: int
    owed: int
    tokens: float | None
    gpus_per_replica: float
    spread: tuple[int, int] | None = None

    @property
    def passes(self) -> str:
        """Passes in words: 4, or `<= 8 (4-16)` where they are adaptive."""
        spread = self.spread
        return f"{self.num_passes}" if spread is None else f"<= {self.num_passes} ({spread[0]}-{spread[1]})"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPlan:
    """What a study owes and how it is cut up.

    Attributes:
        partitions: partitions of every asset, in pipeline order; 1 for an unpartitioned one.
        dimensions: keys of every partition dimension.
    """

    study: str
    num_queries: int
    distillers: tuple[DistillerPlan, ...]
    partitions: Mapping[str, int]
    dimensions: Mapping[str, int]

    @property
    def expected(self) -> int:
        """Responses that should exist, over all distillers."""
        return sum(row.expected for row in self.distillers)

    @property
    def owed(self) -> int:
        """Responses that do not exist yet, over all distillers."""
        return sum(row.owed for row in self.distillers)

    @property
    def tokens(self) -> float:
        """Tokens to write, over the distillers whose length is expected; see `unknown_lengths`."""
        return sum(row.tokens or 0 for row in self.distillers)

    @property
    def unknown_lengths(self) -> tuple[str, ...]:
        """Distillers whose tokens are in no sum, because their row expects no length."""
        return tuple(row.distiller for row in self.distillers if row.tokens is None)

    @property
    def too_large(self) -> dict[str, int]:
        """Dimensions with too many keys; must be empty."""
        return {name: keys for name, keys in self.dimensions.items() if keys >= MOST_KEYS}

    def text(self) -> str:
        """The plan as a page of plain text."""
        unknown = f" (without {', '.join(self.unknown_lengths)}: no length expected)" if self.unknown_lengths else ""
        header = ("distiller", "queries", "passes", "expected", "owed", "tokens", "GPUs per replica")
        rows = [
            (
                row.distiller,
                f"{row.num_queries:,}",
                row.passes,
                f"{row.expected:,}",
                f"{row.owed:,}",
                "unknown" if row.tokens is None else f"{row.tokens:.3g}",
                f"{row.gpus_per_replica:g}",
            )
            for row in self.distillers
        ]
        parts = [(name, f"{count:,}") for name, count in self.partitions.items()]
        keys = [(name, f"{count:,}") for name, count in self.dimensions.items()]
        return "\n".join(
            [
                f"Study {self.study}: {self.num_queries:,} queries",
                f"{self.owed:,} of {self.expected:,} responses owed, {self.tokens:.3g} tokens{unknown}",
                "",
                *_aligned(header, rows),
                "",
                *_aligned(("asset", "partitions"), parts),
                "",
                *_aligned(("dimension", f"keys (below {MOST_KEYS})"), keys),
            ]
        )


def plan(
    study: Study, num_queries: int | Mapping[Category, int], present: Mapping[str, int] | None = None
) -> StudyPlan:
    """What `study` owes with that many queries.

    Args:
        study: any study.
        num_queries: expected queries; by category where distillers answer only some.
        present: responses that exist already, by distiller.

    Raises:
        ValueError: a number is negative, `present` names a distiller the study does not have, or a distiller answers
            only some categories and `num_queries` does not say how the queries divide.
    """
    present = present or {}
    strangers = sorted(set(present) - {row.name for row in study.distillers})
    if strangers:
        raise ValueError(f"present names {strangers}, which study {study.name!r} does not have")
    total = num_queries if isinstance(num_queries, int) else sum(num_queries.values())
    numbers = [total, *present.values(), *(num_queries.values() if isinstance(num_queries, Mapping) else ())]
    if min(numbers) < 0:
        raise ValueError(f"numbers of queries and responses cannot be negative, found {min(numbers)}")
    return StudyPlan(
        study=study.name,
        num_queries=total,
        distillers=tuple(_owed_by(row, num_queries, present.get(row.name, 0)) for row in study.distillers),
        partitions=_partitions(study),
        dimensions={
            "source": len(study.sources),
            "benchmark": len(study.benchmarks),
            "distiller": len(study.distillers),
            "shard": study.num_shards,
            "selection recipe": len(study.selection_recipes),
            "training recipe": len(study.training_recipes),
        },
    )


def expected_queries(study: Study) -> Mapping[Category, int] | None:
    """Queries a study counts on by category: what it states, or what its generated sources hold; None if unknown."""
    if study.expected_queries:
        return dict(study.expected_queries)
    counts: dict[Category, int] = {}
    for source in study.sources:
        if not isinstance(source.reads, Generated):
            return None
        if source.category is not None:
            counts[source.category] = counts.get(source.category, 0) + source.reads.num_rows
    return counts


def _owed_by(row: Distiller, num_queries: int | Mapping[Category, int], present: int) -> DistillerPlan:
    asked = _asked(row, num_queries)
    expected = asked * row.num_passes
    owed = max(0, expected - present)
    tokens = None if row.mean_response_tokens is None else owed * row.mean_response_tokens
    return DistillerPlan(
        distiller=row.name,
        num_queries=asked,
        num_passes=row.num_passes,
        expected=expected,
        owed=owed,
        tokens=0.0 if row.engine == "imported" else tokens,
        gpus_per_replica=0 if row.engine == "http" else row.gpus_per_replica,
        spread=None if row.passes_policy is None else (row.passes_policy.first, row.passes_policy.most),
    )


def _asked(row: Distiller, num_queries: int | Mapping[Category, int]) -> int:
    """Queries of the categories that a distiller answers."""
    if isinstance(num_queries, Mapping):
        return sum(count for category, count in num_queries.items() if row.answers(category))
    if row.categories:
        raise ValueError(
            f"distiller {row.name!r} answers only {', '.join(row.categories)}; pass num_queries by category"
        )
    return num_queries


def _partitions(study: Study) -> dict[str, int]:
    shards = study.num_shards
    by_response = len(study.distillers) * shards
    selections, trainings = len(study.selection_recipes), len(study.training_recipes)
    return {
        "raw_queries": len(study.sources),
        "benchmark_queries": len(study.benchmarks),
        "near_duplicates": 1,
        "queries": shards,
        "dropped_queries": shards,
        "responses": by_response,
        "frequent_ngrams": 1,
        "response_quality": by_response,
        "verdicts": by_response,
        "audit": 1,
        "difficulty": shards,
        "subsets": selections,
        "second_opinions": selections,
        "checkpoints": trainings,
        "benchmark_responses": trainings,
        "benchmark_scores": trainings,
        "release": selections,
    }


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a text table: the first column to the left, numbers to the right."""
    widths = [max(len(row[index]) for row in [header, *rows]) for index in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return [line(header), *map(line, rows)]
