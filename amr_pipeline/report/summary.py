"""The tables a person reads after a run, as plain text and as markdown.

Belongs here: laying out numbers that exist. Does not belong here: computing them (chapters) or storing them.
"""

from collections.abc import Mapping, Sequence

import polars as pl


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as an aligned text table; numbers to the right, missing values as a dash."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[index]) for line in [list(header), *cells]) for index in range(len(header))]
    numeric = [all(not isinstance(row[index], str) for row in rows) for index in range(len(header))]

    def line(values: Sequence[str]) -> str:
        return "  ".join(
            value.rjust(width) if number else value.ljust(width)
            for value, width, number in zip(values, widths, numeric, strict=True)
        ).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *(line(row) for row in cells)])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as a markdown table; a pipe inside a value cannot break out of its cell."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(value).replace("|", "\\|") for value in row) + " |" for row in rows]
    return "\n".join(lines)


def pass_rates(difficulty: pl.DataFrame, distillers: Sequence[str]) -> tuple[list[str], list[list[object]]]:
    """Header and rows of pass rate by distiller and category, over decided responses (not a mean of means).

    Reads `tables.DIFFICULTY` rows; the joint row is left out. None where a distiller has no decided response.
    """
    categories = sorted(difficulty.get_column("category").unique())
    sums = (
        difficulty.filter(pl.col("distiller") != "joint")
        .group_by("distiller", "category")
        .agg(pl.col("num_passed").sum(), pl.col("num_responses").sum(), pl.col("num_undecided").sum())
    )
    found = {(row["distiller"], row["category"]): row for row in sums.iter_rows(named=True)}
    rows: list[list[object]] = []
    for distiller in distillers:
        cells: list[object] = [distiller]
        for category in categories:
            row = found.get((distiller, category))
            cells.append(row["num_passed"] / row["num_responses"] if row and row["num_responses"] else None)
        totals = [row for (name, _), row in found.items() if name == distiller]
        cells.append(sum(row["num_responses"] for row in totals))
        cells.append(sum(row["num_undecided"] for row in totals))
        rows.append(cells)
    return ["distiller", *categories, "decided", "undecided"], rows


def tiers(difficulty: pl.DataFrame) -> tuple[list[str], list[list[object]]]:
    """Header and rows of queries per joint tier and category."""
    order = ["trivial", "easy", "medium", "hard", "unsolved", "undecided"]
    joint = difficulty.filter(pl.col("distiller") == "joint")
    categories = sorted(joint.get_column("category").unique())
    counts: Mapping[tuple[str, str], int] = {
        (row[0], row[1]): row[2] for row in joint.group_by("tier", "category").len().iter_rows()
    }
    rows: list[list[object]] = [
        [
            tier,
            *(counts.get((tier, category), 0) for category in categories),
            sum(v for k, v in counts.items() if k[0] == tier),
        ]
        for tier in order
    ]
    return ["joint tier", *categories, "all"], rows


def counts_plot(counts: Mapping[str, int]) -> str:
    """Counts as a markdown table with a bar each, largest first; empty text for none."""
    most = max(counts.values(), default=0)
    rows: list[list[object]] = [
        [name, count, "█" * max(1, round(24 * count / most))]
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]
    return markdown_table(["", "rows", ""], rows) if rows else ""


FLIPS_SAID = 5
"""Flips listed one by one on a terminal; Dagster's metadata list more."""


def flip_lines(flips: pl.DataFrame) -> list[str]:
    """Decided verdicts that changed (`verdicts.ledger.flips`): how many in each direction, and the first few.

    Evidence comes from models; what a terminal would act on is replaced.
    """
    if flips.is_empty():
        return ["No decided verdict flipped."]
    counts = flips.group_by("category", "verdict_before", "verdict_after").len().sort(pl.all())
    rows = [[category, f"{before} -> {after}", count] for category, before, after, count in counts.iter_rows()]
    lines = [f"{flips.height:,} decided verdicts flipped", text_table(["category", "from -> to", "verdicts"], rows)]
    for row in flips.head(FLIPS_SAID).iter_rows(named=True):
        evidence = "".join(sign if sign.isprintable() else " " for sign in row["evidence_after"] or "")[:100]
        lines.append(f"  {row['response_id']} {row['distiller']}: now {row['verdict_after']}, {evidence}")
    if flips.height > FLIPS_SAID:
        lines.append(f"  and {flips.height - FLIPS_SAID:,} more")
    return lines


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 0.001 else f"{value:,.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
