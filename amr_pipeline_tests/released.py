"""A small world of queries, responses and verdicts for tests of releases and their cards."""

from dataclasses import dataclass, replace

import polars as pl

from amr_pipeline import tables
from amr_pipeline.categories import Category
from amr_pipeline.difficulty import difficulty
from amr_pipeline.studies.study import CategoryRule, SelectionRecipe
from amr_pipeline.subsets import Selection, select
from amr_pipeline_tests.studies.small import SOURCE, STRONG, WEAK
from amr_pipeline_tests.verdict_rows import NOW, quality, query, verdicts

DISTILLERS = (replace(STRONG, name="r1", model="lab/Big-R1"), replace(WEAK, name="1.5b"))
SOURCES = (SOURCE, replace(SOURCE, name="scraped", licence="unknown"))
HOSTILE = 'Ünïcode, "quotes", \\ and a line separator:\u2028then\n<script>alert(1)</script> | pipe'
RECIPE = SelectionRecipe(
    name="stage1",
    distillers=("r1",),
    rules=(
        CategoryRule(category=Category.MATH, lowest_score=0.99, cv_threshold=0.05),
        CategoryRule(category=Category.INSTRUCTION_FOLLOWING, lowest_score=0.99, cv_threshold=0.05),
    ),
    seed=1,
)


@dataclass(frozen=True, kw_only=True)
class World:
    """Frames of every table a release reads, and the selection it publishes."""

    queries: pl.DataFrame
    responses: pl.DataFrame
    difficulty: pl.DataFrame
    response_quality: pl.DataFrame
    verdicts: pl.DataFrame
    selection: Selection


def world(*, licence: str = "MIT", source: str = "numbers") -> World:
    """Three math queries (one with a hostile text) and an instruction query, two distillers, four passes."""
    math = [(query(1), "r1", [1, 0, 1, 0]), (query(2), "r1", [1, 1, 0, 0]), (query(3), "r1", [1, 1, 1, 1])]
    following = [(query(9), "r1", [0.5, 1, 0, 0])]
    judged = pl.concat(
        [
            verdicts([*math, (query(1), "1.5b", [1, 0, 0, 0]), (query(2), "1.5b", [None])]),
            verdicts(following, Category.INSTRUCTION_FOLLOWING),
        ]
    )
    grades = difficulty(judged.lazy(), fingerprints=[NOW], num_shards=4).collect()
    assessed = quality(judged)
    selection = select(
        RECIPE,
        difficulty=grades.lazy(),
        verdicts=judged.lazy(),
        response_quality=assessed.lazy(),
        fingerprints=[NOW],
    )
    return World(
        queries=_queries(licence, source),
        responses=_responses(judged),
        difficulty=grades,
        response_quality=assessed,
        verdicts=judged,
        selection=selection,
    )


def _queries(licence: str, source: str) -> pl.DataFrame:
    texts = {1: "1 + 1?", 2: HOSTILE, 3: "3 + 3?", 9: "Say it in capitals."}
    rows = [
        {
            "query_id": query(index),
            "shard": "00",
            "category": "math" if index < 9 else "instruction_following",
            "messages": [{"role": "user", "content": text}],
            "reference": "2" if index < 9 else None,
            "test_cases": None,
            "constraints": None if index < 9 else '[{"id": "change_case:english_capital", "kwargs": {}}]',
            "source": source,
            "source_row": f"line {index}",
            "licence": licence,
        }
        for index, text in texts.items()
    ]
    return pl.DataFrame(rows, schema=tables.QUERIES.schema)


def _responses(judged: pl.DataFrame) -> pl.DataFrame:
    return judged.select(
        "response_id",
        "query_id",
        "category",
        "distiller",
        "distiller_fingerprint",
        "pass_index",
        pl.lit(7, dtype=pl.Int64).alias("seed"),
        (pl.lit("<think>t</think><answer>") + HOSTILE + pl.lit("</answer>")).alias("text"),
        pl.lit("stop").alias("finish_reason"),
        pl.lit(5, dtype=pl.Int32).alias("prompt_tokens"),
        pl.lit(1, dtype=pl.Int32).alias("attempts"),
        pl.lit(None, dtype=pl.String).alias("last_failure"),
        pl.lit(100, dtype=pl.Int32).alias("response_tokens"),
        pl.lit("vllm 0.29.0").alias("engine"),
    )
