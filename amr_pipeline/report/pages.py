"""Pages that people look at: one self-contained HTML file each, pictures inside, nothing fetched and nothing run.

Every text on a page comes from queries, models or rows and is hostile until escaped; a content policy forbids
scripts and requests on top of that.

Belongs here: the order of a page and its words. Does not belong here: pictures (`plots`), numbers (chapters).
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import polars as pl

from amr_pipeline.difficulty import JOINT
from amr_pipeline.report import plots
from amr_pipeline.report.layouts import PassesSpent, Rows, count_rows, pass_rate_rows, spent_rows
from amr_pipeline.report.summary import tiers

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
body{font:16px/1.55 system-ui,sans-serif;margin:2.5rem auto;max-width:64rem;padding:0 1.2rem;color:#222;background:#fff}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.4rem}p{max-width:46rem;color:#444}
.numbers{display:flex;flex-wrap:wrap;gap:2.2rem;margin:1.4rem 0}.numbers b{display:block;font-size:1.5rem;color:#111}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid #ddd;padding:.3rem .8rem;text-align:left;vertical-align:top}
th{border-bottom:2px solid #888}td.number{text-align:right}img{max-width:100%;height:auto}
td{max-width:34rem;overflow-wrap:anywhere}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of a page: a heading, a sentence or two, a picture, a table; each may be absent.

    Attributes:
        picture: PNG bytes.
    """

    heading: str
    text: str = ""
    picture: bytes | None = None
    rows: Rows | None = None


def page(title: str, numbers: Mapping[str, str], sections: Sequence[Section]) -> str:
    """A page: the title, a line of named numbers, and sections in order."""
    shown = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in numbers.items())
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f'<h1>{escape(title)}</h1><div class="numbers">{shown}</div>',
            *map(_section, sections),
            "</body></html>",
        ]
    )


def difficulty_page(
    title: str,
    difficulty: pl.DataFrame,
    *,
    dropped: Mapping[str, int],
    examples: Rows | None = None,
    spent: Mapping[str, PassesSpent] | None = None,
) -> str:
    """How difficult a study's queries are, for whom, and how sure that is.

    Args:
        title: the page's heading.
        difficulty: `tables.DIFFICULTY` rows of every shard.
        dropped: queries dropped before distilling, by reason.
        examples: queries worth a look, chosen by the caller; their texts are escaped like all others.
        spent: what adaptive passes came to, by distiller (`adaptive_passes.passes_spent`).
    """
    sections = [*_difficulty_sections(difficulty), *_spent_sections(spent or {}), *_dropped_sections(dropped)]
    if examples is not None:
        sections.append(Section(heading="Queries worth a look", rows=examples))
    return page(title, _difficulty_numbers(difficulty, dropped), sections)


def _difficulty_numbers(difficulty: pl.DataFrame, dropped: Mapping[str, int]) -> dict[str, str]:
    joint = difficulty.filter(pl.col("distiller") == JOINT)
    decided, undecided = (int(joint.get_column(name).sum()) for name in ("num_responses", "num_undecided"))
    return {
        "queries graded": f"{joint.height:,}",
        "distillers": f"{difficulty.filter(pl.col('distiller') != JOINT).get_column('distiller').n_unique():,}",
        "responses decided": f"{decided:,}",
        "undecided": f"{undecided:,} ({undecided / max(1, decided + undecided):.1%})",
        "queries dropped before": f"{sum(dropped.values()):,}",
    }


def _difficulty_sections(difficulty: pl.DataFrame) -> list[Section]:
    return [
        Section(
            heading="How often distillers succeed",
            text="Share of decided responses that passed. Intervals treat queries as the draws, because passes of one "
            "query resemble each other. Undecided responses are in no denominator.",
            picture=plots.pass_rate_bars(difficulty),
            rows=pass_rate_rows(difficulty),
        ),
        Section(
            heading="How difficult queries are",
            text="Tiers by the pass rate over all distillers: 1 trivial, above 5/8 easy, 3/8 to 5/8 medium, above 0 "
            "hard, 0 unsolved.",
            picture=plots.tier_bars(difficulty),
            rows=tiers(difficulty),
        ),
        Section(
            heading="How pass rates are spread",
            text="Queries at each pass rate of one distiller.",
            picture=plots.pass_rate_distribution(difficulty),
        ),
        Section(
            heading="What variation adds to the pass rate",
            text="With scores of 0 and 1 alone, the coefficient of variation follows from the pass rate (the line), "
            "and selecting by it selects by pass rate. Only fractional scores leave the line.",
            picture=plots.variation_scatter(difficulty),
        ),
    ]


def _spent_sections(spent: Mapping[str, PassesSpent]) -> list[Section]:
    text = (
        "Passes spent where a tier was open, beside what the same number for every query would have been. Moved: "
        "queries that were given more than that number and changed tier by it. A query that settled early keeps the "
        "tier of fewer passes; how often that is another one, no verdict here can say (benchmarks/adaptive_passes.py)."
    )
    return (
        [Section(heading="What adaptive passes saved and changed", text=text, rows=spent_rows(spent))] if spent else []
    )


def _dropped_sections(dropped: Mapping[str, int]) -> list[Section]:
    return [
        Section(
            heading="What was dropped before",
            picture=plots.count_bars(dropped, "queries dropped"),
            rows=count_rows(dropped, "queries"),
        ),
    ]


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.picture is not None:
        image = base64.b64encode(section.picture).decode()
        parts.append(f'<img alt="{escape(section.heading)}" src="data:image/png;base64,{image}">')
    if section.rows is not None:
        parts.append(_table(section.rows))
    return "".join(parts)


def _table(rows: Rows) -> str:
    header, body = rows
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in body)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(value: object) -> str:
    if value is None:
        return '<td class="number">-</td>'
    if isinstance(value, bool | str):
        return f"<td>{escape(str(value))}</td>"
    text = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return f'<td class="number">{escape(text)}</td>'
