"""Plots of the cost report, in the manner of `plots`.

Belongs here: how tokens are drawn. Does not belong here: counting them (`responses.cost`).
"""

from collections.abc import Sequence

import polars as pl

from amr_pipeline.report.plots import COLOURS, INK, Picture, legend_above, nothing_to_see, plain
from amr_pipeline.responses.cost import ALL_CATEGORIES, KeptCost
from amr_pipeline.tables import FINISH_REASONS

REASON_COLOURS = (COLOURS[0], COLOURS[1], COLOURS[5], COLOURS[6])


def token_bars(spent: pl.DataFrame) -> bytes:
    """Response tokens of each distiller by how the response ended, a bar per distiller with its sum at the end.

    Reads `responses.cost.SPENT` rows.
    """
    sums = {
        (row[0], row[1]): row[2]
        for row in spent.group_by("distiller", "finish_reason").agg(pl.col("response_tokens").sum()).iter_rows()
    }
    names = sorted({name for name, _ in sums}, reverse=True)
    totals = {name: sum(count for (one, _), count in sums.items() if one == name) for name in names}
    if not any(totals.values()):
        return nothing_to_see("no token is written yet")
    picture, left = Picture(height=0.5 * len(names) + 1.3), dict.fromkeys(names, 0)
    reasons = zip(FINISH_REASONS, REASON_COLOURS, strict=True)
    shown = [(reason, colour) for reason, colour in reasons if any(sums.get((name, reason)) for name in names)]
    for reason, colour in shown:
        widths = [sums.get((name, reason), 0) for name in names]
        label = "truncated" if reason == "length" else reason
        picture.axes.barh(range(len(names)), widths, left=list(left.values()), height=0.7, label=label, color=colour)
        for name, width in zip(names, widths, strict=True):
            left[name] += width
    for place, name in enumerate(names):
        picture.axes.annotate(
            f"{totals[name]:,}", (totals[name], place), (4, 0), textcoords="offset points", va="center", color=INK
        )
    picture.axes.set_yticks(range(len(names)), [plain(name) for name in names])
    picture.axes.tick_params(axis="y", length=0)
    picture.axes.grid(visible=False)
    picture.axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    picture.axes.set(xlabel="response tokens", xlim=(0, max(totals.values()) * 1.18))
    legend_above(picture.axes, len(shown))
    return picture.png()


def kept_bars(kept: Sequence[KeptCost]) -> bytes:
    """Tokens written for each token kept, by recipe, a bar per category and one for all; without kept tokens no bar."""
    rows = [(each, each.written_per_kept) for each in kept]
    drawn = [(each, ratio) for each, ratio in rows if ratio is not None][::-1]
    if not drawn:
        return nothing_to_see("no subset keeps a token yet")
    picture = Picture(height=max(1.9, 0.42 * len(drawn) + 0.9))
    colours = [COLOURS[0] if each.category == ALL_CATEGORIES else COLOURS[4] for each, _ in drawn]
    bars = picture.axes.barh(range(len(drawn)), [ratio for _, ratio in drawn], color=colours, height=0.7)
    picture.axes.bar_label(bars, labels=[f"{ratio:,.2f}" for _, ratio in drawn], padding=4, fontsize=8.5, color=INK)
    picture.axes.set_yticks(range(len(drawn)), [plain(f"{each.recipe}, {each.category}") for each, _ in drawn])
    picture.axes.tick_params(axis="y", length=0)
    picture.axes.grid(visible=False)
    picture.axes.set(xlabel="response tokens written per token kept", xlim=(0, max(ratio for _, ratio in drawn) * 1.16))
    return picture.png()
