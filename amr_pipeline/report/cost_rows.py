"""The tables of what is going to be spent and of what was: the forecast's, and those of the cost report.

Belongs here: which numbers stand side by side, and how unknown ones read. Does not belong here: the numbers
(`responses.forecast`, `responses.cost`, `responses.stage_costs`), the page (`cost_page`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from amr_pipeline.report.layouts import Rows
from amr_pipeline.responses import forecast
from amr_pipeline.responses.cost import spent_money
from amr_pipeline.responses.forecast import Forecast
from amr_pipeline.responses.prices import Prices
from amr_pipeline.responses.stage_costs import (
    ALL,
    OF_DISTILLERS,
    OF_SELECTION,
    OF_TRAINING,
    OUTCOMES,
    STAGES,
    Costs,
    Took,
    took,
)
from amr_pipeline.tables import FINISH_REASONS

UNKNOWN = "unknown"

ENDED = {"stop": "stop", "length": "truncated", "looping": "looping", "error": "error"}
"""Finish reasons as people read them; one that is not here reads as itself."""

DOING = {
    "responses": "writing",
    "response_quality": "perplexity",
    "verdicts": "judging",
    "second_opinions": "second opinions",
    "checkpoints": "training",
    "benchmark_responses": "benchmark responses",
    "benchmark_scores": "benchmark verdicts",
}
"""What models do for a stage's table, as people read it."""


def forecast_rows(forecasts: Sequence[Forecast]) -> Rows:
    """Forecasts as a table; the sum over categories is left out where there is only one."""
    num_rows = Counter(each.distiller for each in forecasts)
    header = ["distiller", "category", "owed", "tokens", "95 % interval", "from", "tokens/GPU-s", "GPU-hours", "money"]
    rows = [
        [
            each.distiller,
            each.category,
            each.owed,
            _rounded(each.expected.tokens),
            "none" if each.expected.high is None else f"{each.expected.low:,.0f} to {each.expected.high:,.0f}",
            each.expected.basis,
            UNKNOWN if each.rate is None else f"{each.rate.tokens_per_gpu_second:,.0f} {each.rate.basis}",
            hours(each.gpu_seconds),
            amount(each.money),
        ]
        for each in forecasts
        if each.category != forecast.ALL or num_rows[each.distiller] != 2
    ]
    return header, rows


def spent_rows(spent: pl.DataFrame, prices: Prices) -> Rows:
    """`responses.cost.SPENT` by distiller and category, and each distiller's sum."""
    header = ["distiller", "category", "responses", "prompt tokens"]
    header += [f"tokens, {ENDED.get(reason, reason)}" for reason in FINISH_REASONS]
    header += ["tokens no longer expected", "tokens lost at most", "responses with a record"]
    header += ["engine-hours", "GPU-hours", "money"]
    return header, [[*named, *_spent(part, prices)] for *named, part in _by_distiller(spent)]


def _by_distiller(rows: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Distiller, category and rows of it; the sum over categories comes last, where there is more than one."""
    for (distiller,), mine in sorted(rows.partition_by("distiller", as_dict=True).items()):
        parts = sorted(mine.partition_by("category", as_dict=True).items())
        for (category,), part in parts:
            yield str(distiller), str(category), part
        if len(parts) > 1:
            yield str(distiller), ALL, mine


def _spent(part: pl.DataFrame, prices: Prices) -> list[object]:
    tokens = dict(part.group_by("finish_reason").agg(pl.col("response_tokens").sum()).iter_rows())
    names = ("responses", "recorded_responses", "engine_seconds", "gpu_seconds")
    responses, recorded, engine_seconds, gpu_seconds = (float(part.get_column(name).sum()) for name in names)
    lost = part.select(pl.col("lost_prompt_tokens").sum() + pl.col("lost_response_tokens").sum()).item()
    return [
        int(responses),
        int(part.get_column("prompt_tokens").sum()),
        *(int(tokens.get(reason, 0)) for reason in FINISH_REASONS),
        int(part.filter(~pl.col("is_expected")).get_column("response_tokens").sum()),
        round(lost),
        f"{recorded / max(1, responses):.0%}",
        hours(engine_seconds if recorded else None),
        hours(gpu_seconds if recorded else None),
        amount(spent_money(part, prices) if recorded else None),
    ]


def outcome_rows(outcomes: pl.DataFrame) -> Rows:
    """`responses.stage_costs.BECAME` by distiller and category: tokens by what was found of the response."""
    header = ["distiller", "category", *(f"tokens, {outcome}" for outcome in OUTCOMES), "share fit for subsets"]
    rows = []
    for *named, part in _by_distiller(outcomes):
        tokens = dict(part.group_by("outcome").agg(pl.col("tokens").sum()).iter_rows())
        total = sum(tokens.values())
        share = f"{tokens.get(OUTCOMES[0], 0) / total:.0%}" if total else "none"
        rows.append([*named, *(tokens.get(outcome, 0) for outcome in OUTCOMES), share])
    return header, rows


def stage_rows(costs: Costs) -> Rows:
    """Time and money of every stage, by distiller or recipe, and of the stage as a whole."""
    header = ["stage", "of", "answers", "engine-hours", "GPU-hours", "money"]
    rows = []
    for stage in STAGES:
        mine = costs.stages.filter(pl.col("stage") == stage)
        parts = sorted(mine.partition_by("name", as_dict=True).items())
        for (name,), part in parts:
            rows.append([DOING[stage], name, *_stage(costs, part)])
        if len(parts) > 1:
            rows.append([DOING[stage], ALL, *_stage(costs, mine)])
    if costs.stages.height:
        rows.append(["everything", ALL, *_stage(costs, costs.stages)])
    return header, rows


def _on_record(stages: pl.DataFrame) -> pl.DataFrame:
    """What is on record, as the lower bound that it is where something is not."""
    return stages.filter(pl.col("is_recorded") | (pl.col("answers") > 0)).with_columns(is_recorded=pl.lit(value=True))


def _stage(costs: Costs, part: pl.DataFrame) -> list[object]:
    """Sums of what is on record; unknown where nothing is."""
    recorded = _on_record(part)
    if recorded.is_empty():
        return [0, UNKNOWN, UNKNOWN, UNKNOWN]
    names = recorded.filter(pl.col("stage") == "responses").get_column("name").unique()
    whole = took(recorded, costs.prices, costs.spent.filter(pl.col("distiller").is_in(names.implode())))
    answers = round(recorded.get_column("answers").sum())
    return [answers, hours(whole.engine_seconds), hours(whole.gpu_seconds), amount(whole.money)]


def category_rows(costs: Costs) -> Rows:
    """Hours that each distiller took in each category, by what was done, and what that cost."""
    unit = "GPU-hours" if costs.has_gpus else "engine-hours"
    header = ["distiller", "category", *(f"{unit}, {DOING[stage]}" for stage in OF_DISTILLERS), f"{unit}, all", "money"]
    stages = _on_record(costs.stages.filter(pl.col("stage").is_in(OF_DISTILLERS))).rename({"name": "distiller"})
    rows = []
    for distiller, category, part in _by_distiller(stages):
        of_it = pl.col("distiller") == distiller
        spent = costs.spent.filter(of_it & ((pl.col("category") == category) | pl.lit(category == ALL)))
        by_stage = [took(part.filter(pl.col("stage") == stage), costs.prices) for stage in OF_DISTILLERS]
        whole = took(part, costs.prices, spent)
        rows.append([distiller, category, *(_hours_of(costs, one) for one in (*by_stage, whole)), amount(whole.money)])
    return header, rows


def kept_rows(costs: Costs) -> Rows:
    """What a kept token took, by recipe and category."""
    unit = f"{'GPU' if costs.has_gpus else 'engine'}-seconds per 1,000 kept"
    stages = [stage for stage in (*OF_DISTILLERS, *OF_SELECTION) if _is_shown(costs, stage)]
    header = ["recipe", "category", "tokens written", "tokens kept", "written per kept"]
    header += [*(f"{unit}, {DOING[stage]}" for stage in stages), f"{unit}, all", "money per million kept"]
    rows = [
        [
            each.recipe,
            each.category,
            each.written,
            each.kept,
            "none kept" if each.written_per_kept is None else f"{each.written_per_kept:,.2f}",
            *(_per(each.kept, _seconds(costs, each.stages[stage]), 1e3) for stage in stages),
            _per(each.kept, _seconds(costs, each.total), 1e3),
            _per(each.kept, each.total.money, 1e6),
        ]
        for each in costs.kept
    ]
    return header, rows


def trained_rows(costs: Costs) -> Rows:
    """What training runs and their measuring took, and per token of the subset that they were trained on."""
    unit = "GPU" if costs.has_gpus else "engine"
    header = [
        "recipe",
        "subset",
        "tokens kept",
        "tokens trained on",
        *(f"{unit}-hours, {DOING[s]}" for s in OF_TRAINING),
    ]
    header += [f"{unit}-hours, all", "money", f"{unit}-seconds per 1,000 kept", "money per million kept"]
    rows = [
        [
            each.recipe,
            each.subset,
            each.kept,
            each.trained,
            *(_hours_of(costs, each.stages[stage]) for stage in OF_TRAINING),
            _hours_of(costs, each.total),
            amount(each.total.money),
            _per(each.kept, _seconds(costs, each.total), 1e3),
            _per(each.kept, each.total.money, 1e6),
        ]
        for each in costs.trained
    ]
    return header, rows


def total_of(costs: Costs) -> Mapping[str, str]:
    """The report's line of numbers."""
    _, engine_hours, gpu_hours, money = _stage(costs, costs.stages)
    spent, unit = costs.spent, "GPU" if costs.has_gpus else "engine"
    return {
        "responses paid for": f"{spent.get_column('responses').sum():,}",
        "response tokens": f"{int(spent.get_column('response_tokens').sum()):,}",
        f"{unit}-hours on record": str(gpu_hours if costs.has_gpus else engine_hours),
        "money": str(money),
    }


def _is_shown(costs: Costs, stage: str) -> bool:
    return stage in OF_DISTILLERS or not costs.stages.filter(pl.col("stage") == stage).is_empty()


def _seconds(costs: Costs, one: Took) -> float | None:
    return one.gpu_seconds if costs.has_gpus else one.engine_seconds


def _hours_of(costs: Costs, one: Took) -> str:
    return hours(_seconds(costs, one))


def _per(kept: int, total: float | None, tokens: float) -> str:
    return "none kept" if not kept else UNKNOWN if total is None else figures(total / kept * tokens)


def figures(number: float) -> str:
    """Three figures of a small number, all whole ones of a large one."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def hours(seconds: float | None) -> str:
    """Seconds as hours."""
    return UNKNOWN if seconds is None else figures(seconds / 3600)


def amount(number: float | None) -> str:
    """Money."""
    return UNKNOWN if number is None else f"{number:,.2f}"


def _rounded(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}"
