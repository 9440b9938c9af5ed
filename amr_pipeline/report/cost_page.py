"""What is going to be spent and what was: the forecast's table, and the tables and the page of the cost report.

Belongs here: the order and the words. Does not belong here: the numbers (`responses.forecast`, `responses.cost`).
"""

from collections import Counter
from collections.abc import Sequence

import polars as pl

from amr_pipeline.report import cost_plots
from amr_pipeline.report.layouts import Rows
from amr_pipeline.report.pages import Section, page
from amr_pipeline.responses.cost import ALL_CATEGORIES, KeptCost, is_recorded, spent_money
from amr_pipeline.responses.forecast import ALL, Forecast
from amr_pipeline.responses.prices import Prices
from amr_pipeline.tables import FINISH_REASONS

UNKNOWN = "unknown"

ENDED = {"stop": "stop", "length": "truncated", "looping": "looping", "error": "error"}
"""Finish reasons as people read them; one that is not here reads as itself."""


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
            _hours(each.gpu_seconds),
            _amount(each.money),
        ]
        for each in forecasts
        if each.category != ALL or num_rows[each.distiller] != 2
    ]
    return header, rows


def spent_rows(spent: pl.DataFrame, prices: Prices) -> Rows:
    """`responses.cost.SPENT` by distiller and category, and each distiller's sum."""
    header = ["distiller", "category", "responses", "prompt tokens"]
    header += [f"tokens, {ENDED.get(reason, reason)}" for reason in FINISH_REASONS]
    header += ["tokens no longer expected", "tokens lost at most", "responses with a record"]
    header += ["engine-hours", "GPU-hours", "money"]
    rows = []
    for (distiller,), mine in sorted(spent.partition_by("distiller", as_dict=True).items()):
        parts = sorted(mine.partition_by("category", as_dict=True).items())
        named = [(str(name[0]), part) for name, part in parts]
        for category, part in [*named, *([(ALL_CATEGORIES, mine)] if len(named) > 1 else [])]:
            rows.append([distiller, category, *_spent(part, prices)])
    return header, rows


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
        _hours(engine_seconds if recorded else None),
        _hours(gpu_seconds if recorded else None),
        _amount(spent_money(part, prices) if recorded else None),
    ]


def kept_rows(kept: Sequence[KeptCost]) -> Rows:
    """What a kept token took, by recipe and category."""
    header = ["recipe", "category", "tokens written", "tokens kept", "written per kept"]
    header += ["GPU-seconds per 1,000 kept", "money per million kept"]
    rows = [
        [
            each.recipe,
            each.category,
            each.written,
            each.kept,
            "none kept" if each.written_per_kept is None else f"{each.written_per_kept:,.2f}",
            _per(each, each.gpu_seconds_per_kept, 1e3),
            _per(each, each.money_per_kept, 1e6),
        ]
        for each in kept
    ]
    return header, rows


def cost_page(title: str, spent: pl.DataFrame, sections: Sequence[Section], prices: Prices) -> str:
    """The cost report: a line of numbers, then its sections (`cost_sections`)."""
    total = _spent(spent, prices)
    numbers = {
        "responses paid for": f"{total[0]:,}",
        "response tokens": f"{int(spent.get_column('response_tokens').sum()):,}",
        "GPU-hours on record": str(total[-2]),
        "money": str(total[-1]),
    }
    return page(title, numbers, sections)


def cost_sections(spent: pl.DataFrame, kept: Sequence[KeptCost], prices: Prices) -> list[Section]:
    """What was written, and what a kept token took; the page's parts and the asset's metadata."""
    whole = "" if is_recorded(spent) else " Some responses have none, so that times are lower bounds."
    priced = "" if prices.gpu_hour else " No price of a GPU-hour is set (AMR_PRICE_PER_GPU_HOUR)."
    if unpriced := sorted(prices.servers - prices.tokens.keys()):
        priced += f" Nothing says what tokens of {', '.join(unpriced)} cost (AMR_PRICE_PER_MILLION_TOKENS)."
    sections = [
        Section(
            heading="Tokens by how responses ended",
            text="Every stored response was paid for, whatever became of it. Times are on the records of the "
            "partitions: engines at work, without loading, idling, and what killed runs had not committed."
            f"{whole}{priced}",
            picture=cost_plots.token_bars(spent),
            rows=spent_rows(spent, prices),
        )
    ]
    if kept:
        sections.append(
            Section(
                heading="What a kept token took",
                text="Response tokens that a recipe's distillers wrote, failed, rejected and truncated ones included, "
                "for each token that its subset keeps.",
                picture=cost_plots.kept_bars(kept),
                rows=kept_rows(kept),
            )
        )
    return sections


def _per(each: KeptCost, per_token: float | None, tokens: float) -> str:
    return "none kept" if not each.kept else UNKNOWN if per_token is None else _figures(per_token * tokens)


def _figures(number: float) -> str:
    """Three figures of a small number, all whole ones of a large one."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _rounded(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}"


def _hours(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else _figures(seconds / 3600)


def _amount(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.2f}"
