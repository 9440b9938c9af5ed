"""What a person wants to know after a run: rates, rejections, subsets, the sweep, and where to look."""

from collections import Counter
from collections.abc import Callable, Sequence

import polars as pl

from amr_pipeline.assets.evaluation import sweep_rows
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.materialization import ORDER, Walked
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.assets.resources import Platform
from amr_pipeline.report.summary import pass_rates, text_table, tiers
from amr_pipeline.studies.study import Study

Say = Callable[[str], None]


def print_overview(study: Study, platform: Platform, walked: Sequence[Walked], say: Say) -> None:
    """The tables of a finished run, or the sentence that nothing was owed."""
    if not any(turn.partitions for turn in walked):
        say("Nothing is owed: every partition was made from today's rows, code and inputs.")
        return
    store, shards = platform.tables(), list(study.shards)
    difficulty = store.read("difficulty", shards, missing="empty")
    say("\nPass rate by distiller and category")
    say(text_table(*pass_rates(difficulty, [row.name for row in study.distillers])))
    say("\nQueries by joint tier")
    say(text_table(*tiers(difficulty)))
    say("\nSource rows, kept and dropped by reason")
    dropped = store.read("dropped_queries", shards, columns=["reason"], missing="empty")
    kept = store.read("queries", shards, columns=["query_id"], missing="empty").height
    reasons = sorted(Counter(dropped.get_column("reason")).items(), key=lambda item: -item[1])
    say(
        text_table(
            ["", "rows"],
            [["in", kept + dropped.height], ["kept", kept], *([f"dropped: {name}", count] for name, count in reasons)],
        )
    )
    if study.selection_recipes:
        say("\nSubsets")
        say(text_table(*_subset_sizes(study, platform)))
    if study.training_recipes:
        say("\nTraining recipes, pass@1 with its 95 % interval over problems")
        say(text_table(*_sweep(study, platform)))
    say("\nSeconds by asset")
    say(
        text_table(
            ["asset", "partitions", "seconds"],
            [[turn.asset, turn.partitions, round(turn.seconds, 1)] for turn in walked],
        )
    )
    say(
        f"\nPages: {store.root}/reports/ difficulty_report.html, flip_report.html, cost_report.html, "
        f"sweep_report.html; releases: {store.root}/release_files"
    )


def status_table(study: Study, platform: Platform) -> str:
    """Partitions, present and owed, of every asset with a table."""
    lineage, rows = Lineage(study, platform.tables()), []
    for name in ORDER:
        if name.endswith("_report"):
            continue
        partitions = stored_partitions(study, name)
        owed = len(lineage.owed(name))
        rows.append([name, len(partitions), len(partitions) - owed, owed])
    return text_table(["asset", "partitions", "current", "owed"], rows)


def _subset_sizes(study: Study, platform: Platform) -> tuple[list[str], list[list[object]]]:
    store = platform.tables()
    names = [recipe.name for recipe in study.selection_recipes]
    frame = store.read("subsets", names, missing="empty")
    categories = sorted(frame.get_column("category").unique())
    counts = {(row[0], row[1]): row[2] for row in frame.group_by("selection_recipe", "category").len().iter_rows()}
    tokens = dict(frame.group_by("selection_recipe").agg(pl.col("response_tokens").cast(pl.Int64).sum()).iter_rows())
    rows: list[list[object]] = [
        [
            name,
            *(counts.get((name, category), 0) for category in categories),
            sum(v for k, v in counts.items() if k[0] == name),
            tokens.get(name, 0),
        ]
        for name in names
    ]
    return ["subset", *categories, "responses", "tokens"], rows


def _sweep(study: Study, platform: Platform) -> tuple[list[str], list[list[object]]]:
    names = [run.name for run in study.training_recipes]
    scores = platform.tables().read("benchmark_scores", names, missing="empty")
    found = {(row["training_recipe"], row["benchmark"]): row for row in sweep_rows(study, scores)}
    rows = [
        [
            name,
            study.training_recipe(name).learning_rate,
            row["benchmark"],
            row["mean"],
            row["low"],
            row["high"],
            row["stop_ratio"],
            row["undecided"],
        ]
        for name in names
        for (recipe, _), row in found.items()
        if recipe == name
    ]
    return ["training recipe", "learning rate", "benchmark", "pass@1", "low", "high", "stop ratio", "undecided"], rows
