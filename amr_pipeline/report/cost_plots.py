"""Plots of the cost report, in the manner of `plots`.

Belongs here: how tokens and hours are drawn. Does not belong here: counting them (`responses.stage_costs`).
"""

from collections.abc import Mapping, Sequence

import polars as pl

from amr_pipeline.report.cost_rows import DOING, figures
from amr_pipeline.report.plots import COLOURS, FAINT, INK, Picture, legend_above, nothing_to_see, plain
from amr_pipeline.responses.stage_costs import ALL, OUTCOMES, STAGES, Costs, KeptCost
from amr_pipeline.tables import FINISH_REASONS

REASON_COLOURS = (COLOURS[0], COLOURS[1], COLOURS[5], COLOURS[6])
OUTCOME_COLOURS = (COLOURS[2], COLOURS[1], COLOURS[5], COLOURS[6], FAINT)


def token_bars(spent: pl.DataFrame) -> bytes:
    """Response tokens of each distiller by how the response ended, a bar per distiller with its sum at the end.

    Reads `responses.cost.SPENT` rows.
    """
    sums = spent.group_by("distiller", "finish_reason").agg(pl.col("response_tokens").sum())
    labels = {reason: "truncated" if reason == "length" else reason for reason in FINISH_REASONS}
    return _stacked(sums, dict(zip(labels.items(), REASON_COLOURS, strict=True)), "no token is written yet")


def outcome_bars(outcomes: pl.DataFrame) -> bytes:
    """Response tokens of each distiller by what was found of the response.

    Reads `responses.stage_costs.BECAME` rows.
    """
    sums = outcomes.group_by("distiller", "outcome").agg(pl.col("tokens").sum())
    labels = [(outcome, outcome) for outcome in OUTCOMES]
    return _stacked(sums, dict(zip(labels, OUTCOME_COLOURS, strict=True)), "no token is judged yet")


def _stacked(sums: pl.DataFrame, parts: Mapping[tuple[str, str], str], otherwise: str) -> bytes:
    """A bar per distiller of rows (distiller, part, tokens); `parts` has the colour of each part and its label."""
    found = {(row[0], row[1]): row[2] for row in sums.iter_rows()}
    names = sorted({name for name, _ in found}, reverse=True)
    totals = {name: sum(count for (one, _), count in found.items() if one == name) for name in names}
    if not any(totals.values()):
        return nothing_to_see(otherwise)
    picture, left = Picture(height=0.5 * len(names) + 1.3), dict.fromkeys(names, 0)
    shown = [(*part, colour) for part, colour in parts.items() if any(found.get((name, part[0])) for name in names)]
    for part, label, colour in shown:
        widths = [found.get((name, part), 0) for name in names]
        picture.axes.barh(range(len(names)), widths, left=list(left.values()), height=0.7, label=label, color=colour)
        for name, width in zip(names, widths, strict=True):
            left[name] += width
    for place, name in enumerate(names):
        picture.axes.annotate(
            f"{totals[name]:,}", (totals[name], place), (4, 0), textcoords="offset points", va="center", color=INK
        )
    _name_bars(picture, names)
    picture.axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    picture.axes.set(xlabel="response tokens", xlim=(0, max(totals.values()) * 1.18))
    legend_above(picture.axes, len(shown))
    return picture.png()


def stage_bars(costs: Costs) -> bytes:
    """Hours of every stage that took any, of GPUs where some were held, else of engines."""
    column, unit = ("gpu_seconds", "GPU-hours") if costs.has_gpus else ("engine_seconds", "engine-hours")
    sums = dict(costs.stages.group_by("stage").agg(pl.col(column).sum()).iter_rows())
    names = [stage for stage in reversed(STAGES) if sums.get(stage)]
    if not names:
        return nothing_to_see("no time is on record yet")
    picture, widths = Picture(height=max(1.9, 0.42 * len(names) + 0.9)), [sums[name] / 3600 for name in names]
    bars = picture.axes.barh(range(len(names)), widths, color=COLOURS[0], height=0.7)
    picture.axes.bar_label(bars, labels=[figures(width) for width in widths], padding=4, fontsize=8.5, color=INK)
    _name_bars(picture, [DOING[name] for name in names])
    picture.axes.set(xlabel=unit, xlim=(0, max(widths) * 1.16))
    return picture.png()


def _name_bars(picture: Picture, names: Sequence[str]) -> None:
    picture.axes.set_yticks(range(len(names)), [plain(name) for name in names])
    picture.axes.tick_params(axis="y", length=0)
    picture.axes.grid(visible=False)


def kept_bars(kept: Sequence[KeptCost]) -> bytes:
    """Tokens written for each token kept, by recipe, a bar per category and one for all; without kept tokens no bar."""
    rows = [(each, each.written_per_kept) for each in kept]
    drawn = [(each, ratio) for each, ratio in rows if ratio is not None][::-1]
    if not drawn:
        return nothing_to_see("no subset keeps a token yet")
    picture = Picture(height=max(1.9, 0.42 * len(drawn) + 0.9))
    colours = [COLOURS[0] if each.category == ALL else COLOURS[4] for each, _ in drawn]
    bars = picture.axes.barh(range(len(drawn)), [ratio for _, ratio in drawn], color=colours, height=0.7)
    picture.axes.bar_label(bars, labels=[f"{ratio:,.2f}" for _, ratio in drawn], padding=4, fontsize=8.5, color=INK)
    _name_bars(picture, [f"{each.recipe}, {each.category}" for each, _ in drawn])
    picture.axes.set(xlabel="response tokens written per token kept", xlim=(0, max(ratio for _, ratio in drawn) * 1.16))
    return picture.png()
