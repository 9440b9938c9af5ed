"""The page of what everything took: its sections, in order and in words.

Belongs here: the order and the words. Does not belong here: the numbers (`responses.stage_costs`), tables
(`cost_rows`), pictures (`cost_plots`).
"""

from collections.abc import Iterator

from amr_pipeline.report import cost_plots, cost_rows
from amr_pipeline.report.pages import Section, page
from amr_pipeline.responses.stage_costs import Costs


def cost_page(title: str, costs: Costs) -> str:
    """The cost report: a line of numbers, then its sections (`cost_sections`)."""
    return page(title, cost_rows.total_of(costs), cost_sections(costs))


def cost_sections(costs: Costs) -> list[Section]:
    """The page's parts, and the asset's metadata."""
    return [*_of_tokens(costs), *_of_time(costs), *_of_kept(costs)]


def _of_tokens(costs: Costs) -> Iterator[Section]:
    yield Section(
        heading="Tokens by how responses ended",
        text="Every stored response was paid for, whatever became of it. Tokens that are lost are those of attempts at "
        f"a server that brought no answer and may have been billed. {_about_records(costs)}",
        picture=cost_plots.token_bars(costs.spent),
        rows=cost_rows.spent_rows(costs.spent, costs.prices),
    )
    if costs.outcomes.height:
        yield Section(
            heading="What became of the tokens",
            text="Response tokens that today's study expects, by what was found of the response: a subset may choose "
            "among those that passed and break no rule of quality.",
            picture=cost_plots.outcome_bars(costs.outcomes),
            rows=cost_rows.outcome_rows(costs.outcomes),
        )


def _of_time(costs: Costs) -> Iterator[Section]:
    if not costs.stages.height:
        return
    yield Section(
        heading="Time and money by stage",
        text="Models at work: distillers, scorers, judges and reward models (canaries included), training and its "
        "measuring, added up over all runs. Rules, sandboxes and symbolic algebra are in none.",
        picture=cost_plots.stage_bars(costs),
        rows=cost_rows.stage_rows(costs),
    )
    yield Section(
        heading="Time by distiller and category",
        text="What each distiller's responses took until they were judged.",
        rows=cost_rows.category_rows(costs),
    )


def _of_kept(costs: Costs) -> Iterator[Section]:
    if costs.kept:
        yield Section(
            heading="What a kept token took",
            text="Response tokens that a recipe's distillers wrote, failed, rejected and truncated ones included, "
            "for each token that its subset keeps, and the time of writing and judging them all.",
            picture=cost_plots.kept_bars(costs.kept),
            rows=cost_rows.kept_rows(costs),
        )
    if costs.trained:
        yield Section(
            heading="Training and measuring",
            text="What each training run took, interrupted attempts included, and the benchmarks of its checkpoint.",
            rows=cost_rows.trained_rows(costs),
        )


def _about_records(costs: Costs) -> str:
    """Where times are, what they leave out, and which prices are missing."""
    said = [
        "Times are on the records of the partitions: engines at work, without loading, idling, and what killed runs "
        "had not committed."
    ]
    if not costs.is_whole:
        said.append("Something that was made has no record, so that times are lower bounds.")
    if costs.prices.gpu_hour() is None:
        named = ", ".join(sorted(costs.prices.gpu_hours))
        said.append(f"No price of a GPU-hour is set{f' but for {named}' if named else ''} (AMR_PRICE_PER_GPU_HOUR).")
    if unpriced := sorted(costs.prices.servers - costs.prices.tokens.keys()):
        said.append(f"Nothing says what tokens of {', '.join(unpriced)} cost (AMR_PRICE_PER_MILLION_TOKENS).")
    return " ".join(said)
