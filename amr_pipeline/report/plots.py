"""Plots as PNG bytes: one function per picture, numbers in, picture out.

matplotlib is imported when a picture is drawn, so that definitions load without it; figures belong to no global
state, so runs that share a process can draw at the same time. Categories of things have the Okabe-Ito colours and
ordered ones a single hue, which people with colour-blindness can tell apart.

Belongs here: how numbers are drawn. Does not belong here: computing them (chapters), or pages (`pages`).
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from amr_pipeline.difficulty import JOINT, pass_rate_by_category
from amr_pipeline.tables import TIERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999933")
TIER_COLOURS = ("#dbe9f6", "#a6cee3", "#5b9bc9", "#2166a5", "#08306b", "#ffffff")
"""Easiest to hardest from light to dark; undecided is hatched."""

INK, FAINT = "#333333", "#d9d9d9"
LARGEST_BUBBLE = 260.0
"""Area of the largest bubble in square points."""

PANELS_PER_ROW = 3

MOST_NAMED_RUNS = len(COLOURS)


class Picture:
    """One figure while it is drawn; `png` ends it. Several panels share both axes and stand three to a row."""

    def __init__(self, width: float = 8.0, height: float = 4.2, panels: int = 1) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows, columns = math.ceil(panels / PANELS_PER_ROW), min(panels, PANELS_PER_ROW)
        self.figure = Figure(figsize=(width, height * rows), layout="constrained", dpi=130)
        FigureCanvasAgg(self.figure)
        grid: list[Axes] = list(self.figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
        self.panels, spare = grid[:panels], grid[panels:]
        for axes in spare:
            axes.set_axis_off()
        for axes in self.panels:
            axes.tick_params(labelbottom=True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(INK)
            axes.tick_params(colors=INK, labelsize=9)
            axes.grid(axis="y", color=FAINT, linewidth=0.7)
            axes.set_axisbelow(True)

    @property
    def axes(self) -> "Axes":
        """The first panel."""
        return self.panels[0]

    def png(self) -> bytes:
        """The picture's bytes."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png")
        return buffer.getvalue()


def pass_rate_bars(difficulty: pl.DataFrame) -> bytes:
    """Pass rate per category, a bar per distiller from the weakest to the strongest, with 95 % intervals over queries.

    Reads `tables.DIFFICULTY` rows. A distiller without a decided response in a category has no bar there.
    """
    rates = pass_rate_by_category(difficulty.lazy()).filter(pl.col("distiller") != JOINT).collect()
    decided = rates.filter(pl.col("num_responses") > 0)
    if decided.is_empty():
        return nothing_to_see("no response is decided yet")
    categories, distillers = sorted(decided["category"].unique()), _by_strength(decided)
    found = {(row["distiller"], row["category"]): row for row in decided.iter_rows(named=True)}
    picture, width = Picture(), 0.8 / len(distillers)
    for index, distiller in enumerate(distillers):
        shown = [(place, found[distiller, name]) for place, name in enumerate(categories) if (distiller, name) in found]
        places = [place + (index - (len(distillers) - 1) / 2) * width for place, _ in shown]
        rows = [row for _, row in shown]
        heights = [row["pass_rate"] for row in rows]
        spread = [
            [row["pass_rate"] - row["pass_rate_low"] for row in rows],
            [row["pass_rate_high"] - row["pass_rate"] for row in rows],
        ]
        picture.axes.bar(places, heights, width * 0.9, label=plain(distiller), color=COLOURS[index % len(COLOURS)])
        picture.axes.errorbar(places, heights, yerr=spread, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    queries = {row[0]: row[1] for row in decided.group_by("category").agg(pl.col("num_queries").max()).iter_rows()}
    labels = [f"{_shown(name)}\n{queries[name]:,} queries" for name in categories]
    picture.axes.set_xticks(range(len(categories)), labels)
    picture.axes.tick_params(axis="x", length=0)
    picture.axes.set(ylabel="pass rate, with 95 % interval", ylim=(0, 1.02))
    legend_above(picture.axes, len(distillers))
    return picture.png()


def tier_bars(difficulty: pl.DataFrame) -> bytes:
    """Share of queries in each joint tier, a bar per category and one for all; labelled where there is room."""
    joint = difficulty.filter(pl.col("distiller") == JOINT)
    if joint.is_empty():
        return nothing_to_see("no query is graded yet")
    with_all = pl.concat([joint, joint.with_columns(category=pl.lit("all"))])
    counts = {(row[0], row[1]): row[2] for row in with_all.group_by("category", "tier").len().iter_rows()}
    categories = ["all", *sorted(joint["category"].unique(), reverse=True)]
    totals = {name: sum(counts.get((name, tier), 0) for tier in TIERS) for name in categories}
    shown = [tier for tier in TIERS if any(counts.get((name, tier), 0) for name in categories)]
    picture, left = Picture(height=0.5 * len(categories) + 1.3), dict.fromkeys(categories, 0.0)
    for tier in shown:
        shares = [counts.get((name, tier), 0) / totals[name] for name in categories]
        undecided, dark = tier == TIERS[-1], TIERS.index(tier) in (2, 3, 4)
        picture.axes.barh(
            range(len(categories)),
            shares,
            left=list(left.values()),
            height=0.72,
            label=tier,
            color=TIER_COLOURS[TIERS.index(tier)],
            edgecolor="#888888" if undecided else "white",
            hatch="///" if undecided else None,
            linewidth=0.8,
        )
        for place, (name, share) in enumerate(zip(categories, shares, strict=True)):
            if share >= 0.055:
                colour = "white" if dark else INK
                picture.axes.text(
                    left[name] + share / 2, place, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=8
                )
            left[name] += share
    picture.axes.set_yticks(range(len(categories)), [f"{_shown(name)} ({totals[name]:,})" for name in categories])
    picture.axes.tick_params(axis="y", length=0)
    picture.axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    picture.axes.grid(visible=False)
    picture.axes.spines["left"].set_visible(False)
    picture.axes.set(xlabel="share of queries, by pass rate over all distillers", xlim=(0, 1))
    legend_above(picture.axes, len(shown))
    return picture.png()


def pass_rate_distribution(difficulty: pl.DataFrame) -> bytes:
    """Share of queries at each pass rate, a panel per category and a line per distiller; nothing decided is left out.

    Rates are put into nine bins around 0, 1/8, ..., 1, which hold the five values of four passes apart.
    """
    rates = difficulty.filter((pl.col("distiller") != JOINT) & pl.col("pass_rate").is_not_null())
    if rates.is_empty():
        return nothing_to_see("no response is decided yet")
    binned = rates.group_by("category", "distiller", (pl.col("pass_rate") * 8).round().alias("eighths")).len()
    counts = {(row[0], row[1], round(row[2])): row[3] for row in binned.iter_rows()}
    measured = pass_rate_by_category(rates.lazy()).collect()
    categories, distillers = sorted(rates["category"].unique()), _by_strength(measured)
    used = sorted({eighth for _, _, eighth in counts})
    picture = Picture(height=2.7, panels=len(categories))
    for axes, category in zip(picture.panels, categories, strict=True):
        for index, distiller in enumerate(distillers):
            line = [counts.get((category, distiller, eighth), 0) for eighth in used]
            if total := sum(line):
                colour = COLOURS[index % len(COLOURS)]
                shares = [count / total for count in line]
                places = [eighth / 8 for eighth in used]
                axes.plot(places, shares, "o-", color=colour, label=plain(distiller), linewidth=1.4, markersize=4)
        axes.set_title(_shown(category).replace("\n", " "), fontsize=10, color=INK)
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        axes.set(xlabel="pass rate", xlim=(-0.06, 1.06))
    for axes in picture.panels[::PANELS_PER_ROW]:
        axes.set(ylabel="share of queries", ylim=(0, None))
    picture.axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _legend_of_panels(picture)
    return picture.png()


def variation_scatter(difficulty: pl.DataFrame) -> bytes:
    """Coefficient of variation against pass rate of one distiller on one query; area says how many coincide.

    A panel per category. The line is where scores of 0 and 1 alone must lie, so distance from it is what variation
    adds to the pass rate. Points closer than 1/40 and 1/20 are drawn as one.
    """
    rows = difficulty.filter((pl.col("distiller") != JOINT) & pl.col("coefficient_of_variation").is_not_null())
    if rows.is_empty():
        return nothing_to_see("no query has a score yet")
    points = rows.group_by(
        "category",
        ((pl.col("pass_rate") * 40).round() / 40).alias("pass_rate"),
        ((pl.col("coefficient_of_variation") * 20).round() / 20).alias("variation"),
    ).len()
    most = float(points.select(pl.col("len").max()).item())
    categories = sorted(points["category"].unique())
    picture = Picture(height=2.9, panels=len(categories))
    highest = float(points.select(pl.col("variation").max()).item())
    rates = [step / 200 for step in range(8, 201)]
    for axes, category in zip(picture.panels, categories, strict=True):
        mine = points.filter(pl.col("category") == category)
        axes.plot(rates, [math.sqrt((1 - rate) / rate) for rate in rates], color="#999999", linewidth=1, zorder=1)
        sizes = [8 + LARGEST_BUBBLE * count / most for count in mine["len"]]
        axes.scatter(
            mine["pass_rate"], mine["variation"], s=sizes, color=COLOURS[0], alpha=0.55, linewidths=0, zorder=2
        )
        axes.set_title(_shown(category).replace("\n", " "), fontsize=10, color=INK)
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        axes.set(xlabel="pass rate", xlim=(-0.08, 1.08), ylim=(-0.12, max(highest * 1.12, 1.1)))
    for axes in picture.panels[::PANELS_PER_ROW]:
        axes.set(ylabel="coefficient of variation")
    picture.figure.suptitle(
        f"line: scores of 0 and 1 only.  largest bubble: {most:,.0f} queries", fontsize=9, color=INK
    )
    return picture.png()


def count_bars(counts: Mapping[str, int], what: str) -> bytes:
    """Counts by reason, largest on top, each with its number and share; `what` labels the axis."""
    rows = sorted(((name, count) for name, count in counts.items() if count), key=lambda item: (item[1], item[0]))
    if not rows:
        return nothing_to_see(f"{what}: none")
    total = sum(count for _, count in rows)
    picture = Picture(height=max(1.9, 0.42 * len(rows) + 0.9))
    names = ["\n".join(textwrap.wrap(plain(name), 44)) for name, _ in rows]
    bars = picture.axes.barh(range(len(rows)), [count for _, count in rows], color=COLOURS[0], height=0.7)
    labels = [f"{count:,}  ({_share(count / total)})" for _, count in rows]
    picture.axes.bar_label(bars, labels=labels, padding=4, fontsize=8.5, color=INK)
    picture.axes.set_yticks(range(len(rows)), names)
    picture.axes.tick_params(axis="y", length=0)
    picture.axes.grid(visible=False)
    picture.axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    picture.axes.set(xlabel=what, xlim=(0, rows[-1][1] * 1.22))
    return picture.png()


def sweep_curve(rows: Sequence[Mapping[str, object]], benchmark: str) -> bytes:
    """Benchmark score with its 95 % interval against peak learning rate; rows: learning_rate, mean, low, high.

    A run without a score (mean None) is left out.
    """
    numbers = [{name: row[name] for name in ("learning_rate", "mean", "low", "high")} for row in rows]
    points = sorted(
        ({name: float(str(value)) for name, value in row.items()} for row in numbers if row["mean"] is not None),
        key=lambda row: row["learning_rate"],
    )
    if not points:
        return nothing_to_see(f"no run has a score on {benchmark} yet")
    rates, means = [row["learning_rate"] for row in points], [row["mean"] for row in points]
    spread = [[row["mean"] - row["low"] for row in points], [row["high"] - row["mean"] for row in points]]
    picture = Picture(width=7.0)
    axes = picture.axes
    axes.plot(rates, means, color=COLOURS[0], alpha=0.35, linewidth=1.2)
    axes.errorbar(rates, means, yerr=spread, fmt="o", color=COLOURS[0], capsize=4, markersize=6, elinewidth=1.4)
    for row in points:
        place = (row["learning_rate"], row["high"])
        axes.annotate(f"{row['mean']:.3f}", place, (0, 5), textcoords="offset points", ha="center", color=INK)
    axes.set_xscale("log")
    axes.set_xticks(rates, [_scientific(rate) for rate in rates])
    axes.set_xticks([], minor=True)
    axes.set_xlim(rates[0] / 1.8, rates[-1] * 1.8)
    highest = max(row["high"] for row in points)
    axes.set(xlabel="peak learning rate (logarithmic)", ylabel=f"pass@1 on {plain(benchmark)}, with 95 % interval")
    axes.set_ylim(0, highest * 1.1 + 0.03)
    return picture.png()


def loss_curves(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Training loss by optimizer step, a line per run; points: step, loss.

    Thin lines are what was logged, thick ones its mean over a twentieth of the run. The scale is logarithmic where
    one run ends ten times above another; losses that are no number are left out. Runs are listed as they end, the
    highest first.
    """
    finite = {
        name: [(point["step"], point["loss"]) for point in curve if math.isfinite(point["loss"])]
        for name, curve in sorted(curves.items())
    }
    drawn = {name: curve for name, curve in finite.items() if curve}
    if not drawn:
        return nothing_to_see("no run has logged a loss yet")
    picture = Picture(width=8.6)
    for index, (name, curve) in enumerate(drawn.items()):
        steps, losses = [step for step, _ in curve], [loss for _, loss in curve]
        colour = COLOURS[index % MOST_NAMED_RUNS]
        style = ("-", "--", ":", "-.")[index // MOST_NAMED_RUNS % 4]
        picture.axes.plot(steps, losses, color=colour, linewidth=0.7, alpha=0.3)
        picture.axes.plot(steps, _smoothed(losses), style, color=colour, linewidth=1.8, label=plain(name))
    handles, labels = picture.axes.get_legend_handles_labels()
    ends = sorted(range(len(labels)), key=lambda index: -_smoothed([y for _, y in list(drawn.values())[index]])[-1])
    last = [curve[-1][1] for curve in drawn.values()]
    if min(last) > 0 and max(last) / min(last) > 10:
        picture.axes.set_yscale("log")
    else:
        picture.axes.set_ylim(bottom=0)
    picture.axes.set(xlabel="optimizer step", ylabel="training loss, nats per token")
    picture.axes.legend(
        [handles[index] for index in ends],
        [labels[index] for index in ends],
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=8.5,
    )
    return picture.png()


def _smoothed(values: Sequence[float]) -> list[float]:
    """Mean over a window of a twentieth of the values, centred, shorter at the ends."""
    half = max(1, len(values) // 40)
    return [
        sum(values[max(0, at - half) : at + half + 1]) / len(values[max(0, at - half) : at + half + 1])
        for at in range(len(values))
    ]


def _by_strength(rates: pl.DataFrame) -> list[str]:
    """Distillers from the lowest to the highest mean pass rate over categories; equal ones by name."""
    order = rates.group_by("distiller").agg(pl.col("pass_rate").mean()).sort("pass_rate", "distiller")
    return [name for name in order["distiller"] if name != JOINT]


def legend_above(axes: "Axes", entries: int) -> None:
    """A legend over the panel, in one row where there is room."""
    axes.legend(
        frameon=False,
        ncols=max(1, min(entries, 6)),
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        fontsize=9,
        handlelength=1.2,
        columnspacing=1.4,
    )


def _legend_of_panels(picture: Picture) -> None:
    """One legend above all panels, in the order of first appearance."""
    entries = {
        label: handle
        for axes in picture.panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    picture.figure.legend(
        entries.values(),
        entries.keys(),
        frameon=False,
        ncols=max(1, len(entries)),
        loc="outside upper center",
        fontsize=9,
    )


def nothing_to_see(why: str) -> bytes:
    """A small picture that says why there is nothing to see."""
    picture = Picture(width=6.0, height=1.2)
    picture.axes.set_axis_off()
    picture.axes.text(0.5, 0.5, plain(why), ha="center", va="center", color=INK, fontsize=11)
    return picture.png()


def _shown(category: str) -> str:
    """A category as people read it, on two lines where it is long."""
    return plain(category).replace("_", "\n")


def _share(share: float) -> str:
    """A share in whole per cent; what is not nothing does not round to nothing."""
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _scientific(number: float) -> str:
    """A learning rate as rows write it: `8e-5`, `1.5e-4`."""
    digits, _, exponent = f"{number:.2e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"


def plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics, on one line."""
    return " ".join(text.replace("$", r"\$").split())
