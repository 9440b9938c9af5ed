"""Results of the chapters as header and rows, ready for `summary.text_table`, `summary.markdown_table` or a page.

Belongs here: which numbers stand side by side, and their intervals in words. Does not belong here: computing them.
"""

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from amr_pipeline.difficulty import JOINT, pass_rate_by_category
from amr_pipeline.evaluation import PairedComparison
from amr_pipeline.studies.study import SelectionRecipe

Rows = tuple[Sequence[str], Sequence[Sequence[object]]]
PassesSpent = Mapping[str, int | float | None]
"""A header, and rows of as many values."""


def with_interval(mean: float | None, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """A number with its 95 % interval, as `0.742 (0.705 to 0.778)`; a dash where there is none."""
    if mean is None or low is None or high is None:
        return "-"
    sign = "+" if signed else ""
    return f"{mean:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def pass_rate_rows(difficulty: pl.DataFrame) -> Rows:
    """Pass rate of every distiller and of all together, per category, with intervals over queries.

    Reads `tables.DIFFICULTY` rows.
    """
    measured = pass_rate_by_category(difficulty.lazy()).collect()
    ordered = sorted(
        measured.iter_rows(named=True), key=lambda row: (row["category"], row["distiller"] == JOINT, row["distiller"])
    )
    rows = [
        [
            row["category"],
            "all together" if row["distiller"] == JOINT else row["distiller"],
            with_interval(row["pass_rate"], row["pass_rate_low"], row["pass_rate_high"]),
            row["num_queries"],
            row["num_responses"],
            row["num_undecided"],
        ]
        for row in ordered
    ]
    return ["category", "distiller", "pass rate (95 % interval)", "queries", "decided", "undecided"], rows


def score_rows(summary: pl.DataFrame) -> Rows:
    """Benchmark scores (`evaluation.benchmark_summary`), a row per run and benchmark."""
    rows = [
        [
            row["benchmark"],
            row["training_recipe"],
            with_interval(row["pass_at_1"], row["pass_at_1_low"], row["pass_at_1_high"]),
            row["num_problems"],
            row["num_samples"],
            row["num_undecided"],
            row["stop_ratio"],
            row["mean_response_tokens"],
        ]
        for row in summary.sort("benchmark", "training_recipe").iter_rows(named=True)
    ]
    header = ["benchmark", "run", "pass@1 (95 % interval)", "problems", "responses", "undecided"]
    return [*header, "stop ratio", "mean tokens"], rows


def comparison_rows(comparisons: Iterable[PairedComparison]) -> Rows:
    """Paired comparisons, each with its verdict in words first."""
    rows = [
        [
            each.benchmark,
            f"{each.run} is {each.outcome}" + (" than " if each.outcome != "not distinguishable" else " from ")
            + each.baseline,
            with_interval(each.difference.mean, each.difference.low, each.difference.high, signed=True),
            f"{each.corrected_p_value:.3g}",
            each.num_problems,
        ]
        for each in comparisons
    ]  # fmt: skip
    return ["benchmark", "verdict", "difference in pass@1 (95 % interval)", "p, corrected", "problems"], rows


def mix_rows(subset: pl.DataFrame) -> Rows:
    """Responses, queries and tokens of a subset (`tables.SUBSETS` rows) per category and in all."""
    every = pl.concat([subset.sort("category"), subset.with_columns(category=pl.lit("all"))])
    counted = every.group_by("category", maintain_order=True).agg(
        pl.len().alias("responses"),
        pl.col("query_id").n_unique().alias("queries"),
        pl.col("response_tokens").cast(pl.Int64).sum().alias("tokens"),
        (pl.col("chosen_because") == "challenging").sum().alias("challenging"),
    )
    tokens = max(1, int(subset.get_column("response_tokens").cast(pl.Int64).sum()))
    rows = [
        [
            row["category"],
            row["responses"],
            f"{row['responses'] / subset.height:.1%}",
            row["queries"],
            row["challenging"],
            row["tokens"],
            f"{row['tokens'] / tokens:.1%}",
            row["tokens"] / row["responses"],
        ]
        for row in counted.iter_rows(named=True)
    ]
    header = ["category", "responses", "share", "queries", "challenging", "tokens", "share of tokens"]
    return [*header, "mean tokens"], rows


def rule_rows(recipe: SelectionRecipe) -> Rows:
    """What a selection recipe asks of each category."""
    rows = [
        [
            str(rule.category),
            f"> {rule.lowest_score:g}",
            f"> {rule.cv_threshold:g}",
            f"{rule.easy_keep_probability:.0%}",
            "all" if rule.quota is None else f"{rule.quota:,}",
        ]
        for rule in recipe.rules
    ]
    return ["category", "score", "coefficient of variation", "easy queries kept", "at most"], rows


def what_if_rows(grid: pl.DataFrame) -> Rows:
    """What a recipe would choose at other thresholds (`subsets.what_if`)."""
    rows = [
        [
            f"{row['cv_threshold']:g}",
            row["category"],
            row["num_responses"],
            "-" if row["share_of_responses"] is None else f"{row['share_of_responses']:.1%}",
            row["num_queries"],
            row["response_tokens"],
            "-" if row["share_of_tokens"] is None else f"{row['share_of_tokens']:.1%}",
            row["num_also_chosen_now"],
        ]
        for row in grid.iter_rows(named=True)
    ]
    header = ["variation above", "category", "responses", "share", "queries", "tokens", "share of tokens"]
    return [*header, "chosen today too"], rows


def false_pass_rows(rates: pl.DataFrame) -> Rows:
    """How many rows of a subset a different verifier fails (`second_opinions.false_pass_rates`)."""
    rows = [
        [
            row["category"],
            row["second_verifier"],
            row["num_chosen"],
            row["num_judged"],
            row["num_rejected"],
            row["num_undecided"],
            with_interval(row["false_pass_rate"], row["false_pass_rate_low"], row["false_pass_rate_high"]),
        ]
        for row in rates.iter_rows(named=True)
    ]
    header = ["category", "second verifier", "chosen", "judged again", "failed", "undecided"]
    return [*header, "false-pass rate, estimated (95 % interval)"], rows


def count_rows(counts: Mapping[str, int], what: str) -> Rows:
    """Counts by name, largest first, with their share; `what` is counted."""
    total = max(1, sum(counts.values()))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ["", what, "share"], [[name, count, f"{count / total:.1%}"] for name, count in ordered]


def spent_rows(spent: Mapping[str, PassesSpent]) -> Rows:
    """What adaptive passes came to, a row per distiller (`adaptive_passes.passes_spent`)."""
    shown = {
        "queries": "queries",
        "fixed": "passes if fixed",
        "spent": "passes spent",
        "saved": "saved",
        "not asked": "queries not asked",
        "settled early": "settled early",
        "given more": "given more",
        "moved": "of these moved to another tier",
        "before": "their interval's width before",
        "after": "and after",
    }
    rows = [[name, *(numbers[key] for key in shown)] for name, numbers in spent.items()]
    return ["distiller", *shown.values()], rows
