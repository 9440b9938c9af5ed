"""benchmark_scores and sweep_report: what each checkpoint scores on held-out problems, and what a sweep shows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.benchmark_responses import current_benchmark_responses
from amr_pipeline.assets.engine_times import EngineTimes, model_of
from amr_pipeline.assets.partitions import StudyPartitions
from amr_pipeline.assets.publication import Built, dictionary_check, progress_log, publish
from amr_pipeline.assets.reporting import picture, publish_page
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.verdicts import judge_responses
from amr_pipeline.categories import Category
from amr_pipeline.evaluation import benchmark_summary, compare_all
from amr_pipeline.report import plots
from amr_pipeline.report.layouts import comparison_rows, score_rows
from amr_pipeline.report.pages import Section, page
from amr_pipeline.report.summary import markdown_table
from amr_pipeline.responses.cost import EngineTime
from amr_pipeline.responses.progress import Progress
from amr_pipeline.studies.study import Scorer, Study


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The evaluation assets of a study."""

    @dg.asset(
        partitions_def=partitions.training_recipes,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            "benchmark_responses",
            "checkpoints",
            dg.AssetDep("benchmark_queries", partition_mapping=dg.AllPartitionMapping()),
        ],
        check_specs=[dictionary_check("benchmark_scores")],
        group_name="evaluation",
        kinds={"python", "mlflow"},
        pool="engines",
    )
    def benchmark_scores(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Verdicts on what each checkpoint wrote to held-out problems, by the study's verifiers; generates nothing."""
        times = EngineTimes(platform, "benchmark_scores")
        done = publish(
            context,
            platform,
            study,
            tables.BENCHMARK_SCORES,
            lambda name: _measure(study, platform, name, times),
            notes=times.notes,
        )
        summary = benchmark_summary(platform.tables().read("benchmark_scores", list(done.rows)).lazy())
        return done.result(metadata={"scores": dg.MetadataValue.md(markdown_table(summary.columns, summary.rows()))})

    @dg.asset(
        deps=[
            dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping())
            for name in ("benchmark_scores", "checkpoints")
        ],
        automation_condition=dg.AutomationCondition.eager(),
        group_name="evaluation",
        kinds={"matplotlib", "mlflow"},
    )
    def sweep_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Score by learning rate with intervals, and every run against the best one, problem by problem.

        MLflow gets each sweep's curves, and its best run in the model registry.
        """
        return _report(study, platform)

    return [benchmark_scores, sweep_report]


def sweep_rows(study: Study, scores: pl.DataFrame) -> list[dict[str, object]]:
    """One row per scored run and benchmark: recipe, sweep, learning_rate, benchmark, mean, low, high, undecided."""
    rates = {run.name: run for run in study.training_recipes}
    return [
        {
            "training_recipe": row["training_recipe"],
            "sweep": rates[row["training_recipe"]].sweep,
            "learning_rate": rates[row["training_recipe"]].learning_rate,
            "benchmark": row["benchmark"],
            "mean": row["pass_at_1"],
            "low": row["pass_at_1_low"],
            "high": row["pass_at_1_high"],
            "stop_ratio": row["stop_ratio"],
            "undecided": row["num_undecided"],
        }
        for row in benchmark_summary(scores.lazy()).iter_rows(named=True)
        if row["training_recipe"] in rates
    ]


def _report(study: Study, platform: Platform) -> dg.MaterializeResult:
    store = platform.tables()
    scores = store.read("benchmark_scores", [run.name for run in study.training_recipes], missing="empty")
    rows = [row for row in sweep_rows(study, scores) if row["mean"] is not None]
    curves = {(str(row["sweep"]), str(row["benchmark"])): _curve(rows, row) for row in rows if row["sweep"]}
    sections = [*curves.values(), *(_comparison(rows, scores) if rows else ())]
    # Before the page, which says that this report is done.
    registered = _record_sweeps(study, platform, rows, curves) if curves else {}
    numbers = {"runs": str(len({row["training_recipe"] for row in rows})), "responses": f"{scores.height:,}"}
    address = publish_page(study, store, "sweep_report", page(f"Sweeps of {study.name}", numbers, sections))
    return dg.MaterializeResult(
        metadata={
            "page": dg.MetadataValue.path(address),
            **registered,
            **{
                f"{one.heading}, numbers": dg.MetadataValue.md(markdown_table(*one.rows))
                for one in sections
                if one.rows
            },
            **{one.heading: picture(one.picture) for one in sections if one.picture},
        }
    )


def _curve(rows: Sequence[dict[str, object]], of: dict[str, object]) -> Section:
    """Score against learning rate on the sweep and benchmark of a row."""
    mine = [row for row in rows if (row["sweep"], row["benchmark"]) == (of["sweep"], of["benchmark"])]
    return Section(
        heading=f"{of['sweep']} on {of['benchmark']}",
        text="pass@1 with its 95 % interval over problems, by peak learning rate.",
        picture=plots.sweep_curve(mine, str(of["benchmark"])),
    )


def best_of_sweep(rows: Sequence[dict[str, object]], sweep: str) -> tuple[str, dict[str, float]]:
    """(training recipe with the highest mean score over the benchmarks of a sweep, its score by benchmark).

    Of equal ones the lowest learning rate. That it is best says nothing of whether others can be told from it.
    """
    mine = [row for row in rows if row["sweep"] == sweep]
    rates = {str(row["training_recipe"]): float(str(row["learning_rate"])) for row in mine}
    scores: dict[str, dict[str, float]] = {name: {} for name in rates}
    for row in mine:
        scores[str(row["training_recipe"])][str(row["benchmark"])] = float(str(row["mean"]))
    best = max(scores, key=lambda name: (sum(scores[name].values()) / len(scores[name]), -rates[name]))
    return best, scores[best]


def _record_sweeps(
    study: Study, platform: Platform, rows: Sequence[dict[str, object]], curves: Mapping[tuple[str, str], Section]
) -> dict[str, dg.MetadataValue]:
    """Each sweep's curves at its parent run, and its best run in the model registry; what of that Dagster shows."""
    tracking, store, shown = platform.tracking(study.name), platform.tables(), {}
    for (sweep, benchmark), section in curves.items():
        assert section.picture is not None, "made in _curve"
        tracking.record_figure(tracking.open_sweep(sweep), f"{benchmark}.png", section.picture)
    for sweep in sorted({sweep for sweep, _ in curves}):
        name, scores = best_of_sweep(rows, sweep)
        checkpoint = store.read("checkpoints", name).row(0, named=True)
        tags = {
            "training_recipe": name,
            "learning_rate": str(study.training_recipe(name).learning_rate),
            "subset_version": str(checkpoint["subset_version"]),
            "subset_digest": checkpoint["subset_digest"],
            "checkpoint_digest": checkpoint["digest"],
            **{f"{benchmark}_pass_at_1": f"{score:.4f}" for benchmark, score in scores.items()},
        }
        run, source = checkpoint["mlflow_run_id"], f"{store.root}/{checkpoint['path']}"
        version = tracking.register_best(sweep, run, source=source, tags=tags)
        registered = "" if version is None else f", version {version} of {study.name}.{sweep} in MLflow's registry"
        shown[f"best of {sweep}"] = dg.MetadataValue.text(f"{name}{registered}")
        if page := tracking.page(tracking.open_sweep(sweep)):
            shown[f"MLflow, {sweep}"] = dg.MetadataValue.url(page)
    return shown


def _comparison(rows: Sequence[dict[str, object]], scores: pl.DataFrame) -> tuple[Section, Section]:
    """All scores, and every run against the best one on equal draws."""
    best = str(max(rows, key=lambda row: float(str(row["mean"])))["training_recipe"])
    return (
        Section(heading="Scores", rows=score_rows(benchmark_summary(scores.lazy()))),
        Section(
            heading=f"Against {best}",
            text="Runs are compared problem by problem on equal seeds; p values are corrected for their number.",
            rows=comparison_rows(compare_all(scores.lazy(), best)),
        ),
    )


def _measure(study: Study, platform: Platform, name: str, times: EngineTimes | None = None) -> Built:
    """`benchmark_scores` rows of one checkpoint from its stored responses; MLflow gets the means."""
    recipe, store = study.training_recipe(name), platform.tables()
    responses = current_benchmark_responses(study, store, recipe)
    progress = Progress(total=responses.height, what=f"benchmark verdicts of {name}", say=progress_log.info)
    judged = [
        verdict
        for (category,), mine in sorted(responses.partition_by("category", as_dict=True).items())
        for verdict in _judged(study, platform, str(category), mine, progress, times and partial(times.clock, name))
    ]
    said = pl.DataFrame(
        judged, schema={"response_id": pl.String, "verdict": pl.String, "verify_score": pl.Float64, "cause": pl.String}
    )
    frame = responses.join(said, on="response_id").select(
        pl.col(column).cast(kind) for column, kind in tables.BENCHMARK_SCORES.schema.items()
    )
    checkpoint = store.read("checkpoints", name).row(0, named=True)
    scores = {"learning_rate_peak": recipe.learning_rate, **_means(frame)}
    platform.tracking(study.name).record_scores(checkpoint["mlflow_run_id"], scores)
    counts = frame.get_column("verdict").value_counts()
    return frame, dict(counts.iter_rows())


def _means(scores: pl.DataFrame) -> dict[str, float]:
    """What MLflow shows of one run: `{benchmark}_{measure}`."""
    measures = ("pass_at_1", "pass_at_1_low", "pass_at_1_high", "stop_ratio", "mean_response_tokens")
    return {
        f"{row['benchmark']}_{measure}": row[measure]
        for row in benchmark_summary(scores.lazy()).iter_rows(named=True)
        if row["pass_at_1"] is not None
        for measure in measures
    }


def _judged(
    study: Study,
    platform: Platform,
    category: str,
    responses: pl.DataFrame,
    progress: Progress,
    clock: Callable[[Scorer | None], EngineTime] | None,
) -> Iterator[dict[str, object]]:
    row = study.verifier(Category(category))
    if row is None:
        raise ValueError(f"a benchmark has {category} problems and the study no verifier for them; add its row")
    for verdict in judge_responses(platform, row, responses, clock and clock(model_of(row))):
        progress.add(1)
        yield {
            "response_id": verdict.response_id,
            "verdict": str(verdict.outcome),
            "verify_score": verdict.verify_score,
            "cause": None if verdict.cause is None else str(verdict.cause),
        }
