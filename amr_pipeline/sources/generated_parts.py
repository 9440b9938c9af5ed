"""Parts of the micro world as rows that a source would hold: clean queries, a benchmark, and deliberately bad rows.

Belongs here: rows, and the flaws that filters must catch. Does not belong here: how a problem is made (`generated`).
"""

import random
from collections.abc import Callable, Iterator
from typing import cast

from amr_pipeline.categories import Category
from amr_pipeline.sources.generated import Problem, problems

Record = dict[str, object]


def records(part: str, num_rows: int, seed: int) -> Iterator[Record]:
    """Rows of one part, as a source would hold them.

    Args:
        part: a category name, `benchmark` (all categories in turn), or `flawed` (rows that filters must catch).
        num_rows: how many; `benchmark` and `flawed` spread them evenly over what they hold.
        seed: another seed, other rows.

    Raises:
        ValueError: the part is unknown.
    """
    if part in set(Category):
        yield from (
            _record(problem, index) for index, problem in enumerate(problems("queries", Category(part), num_rows, seed))
        )
    elif part == "benchmark":
        yield from _benchmark(num_rows, seed)
    elif part == "flawed":
        yield from _flawed(num_rows, seed)
    else:
        raise ValueError(f"the micro world has no part {part!r}; wanted a category, 'benchmark' or 'flawed'")


def _record(problem: Problem, index: int) -> Record:
    roles = ("user", "assistant")
    return {
        "id": f"{problem.category}-{index}",
        "category": str(problem.category),
        "messages": [{"role": roles[turn % 2], "content": text} for turn, text in enumerate(problem.turns)],
        "reference": problem.reference,
        "test_cases": problem.test_cases,
        "constraints": problem.constraints,
    }


def _benchmark(num_rows: int, seed: int) -> Iterator[Record]:
    streams = [problems("benchmark", category, num_rows, seed) for category in Category]
    for index in range(num_rows):
        yield _record(next(streams[index % len(streams)]), index)


def _flawed(num_rows: int, seed: int) -> Iterator[Record]:
    """Rows a careful reader would reject: repeats, benchmark copies, links, cut-off and garbled text."""
    draw = random.Random(f"{seed} flawed")
    flaws = (_repeated, _near_repeat, _benchmark_copy, _with_link, _cut_off, _garbled, _with_table, _empty)
    originals = list(problems("queries", Category.MATH, 40, 1))
    copied = list(_benchmark(60, 2))
    for index in range(num_rows):
        row = flaws[index % len(flaws)](_record(draw.choice(originals), index), draw, copied)
        yield {**row, "id": f"flawed-{index}"}


def _said(row: Record, change: Callable[[str], str]) -> Record:
    messages = [dict(turn) for turn in cast(list[dict[str, str]], row["messages"])]
    messages[-1]["content"] = change(messages[-1]["content"])
    return {**row, "messages": messages}


def _repeated(row: Record, draw: random.Random, copied: list[Record]) -> Record:
    return _said(row, lambda text: f"  {text} ")


def _near_repeat(row: Record, draw: random.Random, copied: list[Record]) -> Record:
    return _said(row, lambda text: text.upper() + "!")


def _benchmark_copy(row: Record, draw: random.Random, copied: list[Record]) -> Record:
    return _said(draw.choice(copied), lambda text: f"{text.lower()} ")


def _with_link(row: Record, draw: random.Random, copied: list[Record]) -> Record:
    return _said(row, lambda text: f"{text} See https://example.org/{draw.randint(1, 99)} for more.")


def _cut_off(row: Record, draw: random.Random, copied: list[Record]) -> Record:
    return _said(row, lambda text: text[: len(text) // 2] + " and then the")


def _garbled(row: Record, draw: random.Random, copied: list[Record]) -> Record:
    return _said(row, lambda text: text.replace(" ", "\ufffd") + "Ã©â€™" * 3)


def _with_table(row: Record, draw: random.Random, copied: list[Record]) -> Record:
    return _said(row, lambda text: f"{text}\n| a | b |\n|---|---|\n| 1 | 2 |")


def _empty(row: Record, draw: random.Random, copied: list[Record]) -> Record:
    return _said(row, lambda _: " ")
