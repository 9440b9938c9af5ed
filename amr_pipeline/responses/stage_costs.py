"""What every stage took, what became of the tokens that were written, and what a token took that a subset keeps.

Belongs here: sums over stages and ratios. Does not belong here: reading records (`assets.costs`), noting them
(`responses.cost`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from amr_pipeline.responses.cost import NOTE, is_recorded, noted_costs, spent_money
from amr_pipeline.responses.prices import Prices

ALL = "all"
"""Stands for every category, and every distiller or recipe."""

OF_DISTILLERS = ("responses", "response_quality", "verdicts")
OF_SELECTION = ("second_opinions",)
OF_TRAINING = ("checkpoints", "benchmark_responses", "benchmark_scores")
STAGES = (*OF_DISTILLERS, *OF_SELECTION, *OF_TRAINING)
"""Tables whose records say what models did for them, in pipeline order, by what their partitions are named for."""

STAGE_COSTS = pl.Schema(
    {
        "stage": pl.String,
        "name": pl.String,
        "category": pl.String,
        "answers": pl.Float64,
        "engine_seconds": pl.Float64,
        "gpu_seconds": pl.Float64,
        "is_recorded": pl.Boolean,
    }
)
"""What `stage_costs` gives, a row per stage, name (of a distiller or recipe) and category: sums, and whether every
partition behind them has a record."""

_GRAIN = ("stage", "name", "category")

OUTCOMES = ("fit for subsets", "rejected for quality", "failed", "undecided", "not judged")
BECAME = pl.Schema(
    {"distiller": pl.String, "category": pl.String, "outcome": pl.String, "responses": pl.Int64, "tokens": pl.Int64}
)
"""What `became` gives: response tokens by what was found of the response. Only what passed can be rejected here."""


def stage_costs(noted: Iterable[tuple[str, str, Mapping[str, Any]]]) -> pl.DataFrame:
    """`STAGE_COSTS` rows of the stages after the responses.

    Args:
        noted: stage, name, and the notes of a partition's newest record. One without costs counts in category `ALL`.
    """
    rows: list[tuple[object, ...]] = []
    for stage, name, notes in noted:
        if NOTE not in notes:
            rows.append((stage, name, ALL, 0.0, 0.0, 0.0, False))
        for category, cost in noted_costs(notes).items():
            known = ALL if stage == "checkpoints" else category
            rows.append((stage, name, known, cost.responses, cost.engine_seconds, cost.gpu_seconds, True))
    return _added_up(pl.DataFrame(rows, schema=STAGE_COSTS, orient="row"))


def of_responses(spent: pl.DataFrame) -> pl.DataFrame:
    """`STAGE_COSTS` rows of the responses themselves, from `cost.SPENT` rows."""
    rows = spent.select(
        pl.lit("responses").alias("stage"),
        pl.col("distiller").alias("name"),
        "category",
        pl.col("recorded_responses").alias("answers"),
        "engine_seconds",
        "gpu_seconds",
        # Shares of whole numbers, whose sums are not quite whole.
        (pl.col("recorded_responses") > pl.col("responses") * (1 - 1e-8)).alias("is_recorded"),
    )
    return _added_up(rows)


def _added_up(rows: pl.DataFrame) -> pl.DataFrame:
    sums = (pl.col("answers", "engine_seconds", "gpu_seconds").sum(), pl.col("is_recorded").all())
    columns = (pl.col(name).cast(kind) for name, kind in STAGE_COSTS.items())
    return rows.group_by(_GRAIN).agg(*sums).select(columns).sort(_GRAIN)


def became(distiller: str, quality: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """`BECAME` rows of one partition.

    Args:
        distiller: whose.
        quality: response_id, category, response_tokens, quality_reason of its responses.
        verdicts: response_id and verdict of today's verifiers.
    """
    verdict = pl.col("verdict")
    outcome = (
        pl.when(verdict.is_null())
        .then(pl.lit("not judged"))
        .when(verdict != "passed")
        .then(verdict)
        .when(pl.col("quality_reason").is_null())
        .then(pl.lit(OUTCOMES[0]))
        .otherwise(pl.lit(OUTCOMES[1]))
    )
    rows = quality.join(verdicts.select("response_id", "verdict"), on="response_id", how="left")
    return (
        rows.with_columns(outcome.alias("outcome"), pl.lit(distiller).alias("distiller"))
        .group_by("distiller", "category", "outcome")
        .agg(pl.len().cast(pl.Int64).alias("responses"), pl.col("response_tokens").cast(pl.Int64).sum().alias("tokens"))
        .select(BECAME.names())
    )


def add_up_outcomes(parts: pl.DataFrame) -> pl.DataFrame:
    """`BECAME` rows of several partitions, added up."""
    grain = ("distiller", "category", "outcome")
    return parts.group_by(grain).agg(pl.col("responses", "tokens").sum()).select(BECAME.names()).sort(grain)


@dataclass(frozen=True, kw_only=True, slots=True)
class Took:
    """Time of engines, of the GPUs that they held, and its price; None where something of it is on no record.

    `money` is None where something has no price, too.
    """

    engine_seconds: float | None
    gpu_seconds: float | None
    money: float | None


def took(stages: pl.DataFrame, prices: Prices, spent: pl.DataFrame | None = None) -> Took:
    """What some `STAGE_COSTS` rows took.

    Args:
        stages: the rows.
        prices: of the deployment and the study.
        spent: `cost.SPENT` rows of the responses among them, which say what servers bill; None: there are none.
    """
    if not stages.get_column("is_recorded").all():
        return Took(engine_seconds=None, gpu_seconds=None, money=None)
    engine_seconds, gpu_seconds = stages.select(pl.col("engine_seconds").sum(), pl.col("gpu_seconds").sum()).row(0)
    later = stages.filter(pl.col("stage") != "responses").get_column("gpu_seconds").sum()
    parts = (prices.of_gpus(float(later)), 0.0 if spent is None else spent_money(spent, prices))
    money = None if None in parts else sum(part or 0.0 for part in parts)
    return Took(engine_seconds=engine_seconds, gpu_seconds=gpu_seconds, money=money)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptCost:
    """What the tokens that one recipe keeps took, in one category or in all.

    Attributes:
        written: response tokens of the recipe's distillers, whatever became of them: failed, rejected, truncated,
            looping, and those that today's study does not expect any more.
        kept: response tokens of the subset.
        stages: what writing, scoring and judging them took, by stage; the same of `total`.
    """

    recipe: str
    category: str
    written: int
    kept: int
    stages: Mapping[str, Took]
    total: Took

    @property
    def written_per_kept(self) -> float | None:
        """Tokens written for each token kept; None where none is."""
        return self.written / self.kept if self.kept else None


def kept_costs(
    recipe: str,
    distillers: Sequence[str],
    spent: pl.DataFrame,
    stages: pl.DataFrame,
    subset: pl.DataFrame,
    prices: Prices,
) -> list[KeptCost]:
    """What a recipe's kept tokens took: a row per category that its distillers answered, and one for all.

    Args:
        recipe: its name.
        distillers: those it chooses from; only their responses were written for it.
        spent: `cost.SPENT` rows.
        stages: `STAGE_COSTS` rows, those of responses among them.
        subset: `category` and `response_tokens` of what it chose.
        prices: of the deployment and the study.
    """
    mine = spent.filter(pl.col("distiller").is_in(distillers))
    is_of_distiller = pl.col("stage").is_in(OF_DISTILLERS) & pl.col("name").is_in(distillers)
    for_it = stages.filter(is_of_distiller | (pl.col("stage").is_in(OF_SELECTION) & (pl.col("name") == recipe)))
    rows = []
    for category in [*sorted({*mine.get_column("category"), *subset.get_column("category")}), ALL]:
        of_category = pl.lit(value=True) if category == ALL else pl.col("category") == category
        written, chosen = mine.filter(of_category), subset.filter(of_category)
        # A partition without a record may have taken time for any category.
        here = for_it.filter(of_category | ((pl.col("category") == ALL) & ~pl.col("is_recorded")))
        by_stage = {
            stage: took(here.filter(pl.col("stage") == stage), prices, written if stage == "responses" else None)
            for stage in (*OF_DISTILLERS, *OF_SELECTION)
        }
        rows.append(
            KeptCost(
                recipe=recipe,
                category=category,
                written=int(written.get_column("response_tokens").sum()),
                kept=int(chosen.get_column("response_tokens").cast(pl.Int64).sum()),
                stages=by_stage,
                total=took(here, prices, written),
            )
        )
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedCost:
    """What one training recipe took, and the tokens of the subset that it was spent on.

    Attributes:
        trained: tokens that counted in the loss, over all epochs.
        stages: training, the responses of its checkpoint, their verdicts; the same of `total`.
    """

    recipe: str
    subset: str
    kept: int
    trained: int
    stages: Mapping[str, Took]
    total: Took


def trained_cost(
    recipe: str, subset: str, *, kept: int, trained: int, stages: pl.DataFrame, prices: Prices
) -> TrainedCost:
    """What a training recipe took, from `STAGE_COSTS` rows."""
    mine = stages.filter(pl.col("stage").is_in(OF_TRAINING) & (pl.col("name") == recipe))
    by_stage = {stage: took(mine.filter(pl.col("stage") == stage), prices) for stage in OF_TRAINING}
    return TrainedCost(
        recipe=recipe, subset=subset, kept=kept, trained=trained, stages=by_stage, total=took(mine, prices)
    )


@dataclass(frozen=True, kw_only=True)
class Costs:
    """All that the cost report shows.

    Attributes:
        spent, outcomes, stages: `cost.SPENT`, `BECAME` and `STAGE_COSTS` rows.
        kept, trained: per selection and training recipe.
    """

    spent: pl.DataFrame
    outcomes: pl.DataFrame
    stages: pl.DataFrame
    kept: Sequence[KeptCost]
    trained: Sequence[TrainedCost]
    prices: Prices

    @property
    def has_gpus(self) -> bool:
        """Whether any GPU time is on record, so that it is what engine time is shown as."""
        return bool(self.stages.get_column("gpu_seconds").sum() > 0)

    @property
    def is_whole(self) -> bool:
        """Whether everything that was made has a record of what it took."""
        return bool(self.stages.get_column("is_recorded").all()) and is_recorded(self.spent)
