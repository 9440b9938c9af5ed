"""A small valid study, for tests that change one row of it."""

from dataclasses import replace

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import (
    Benchmark,
    CategoryRule,
    Distiller,
    JsonLines,
    MathVerifier,
    QualityRules,
    QueryColumns,
    QueryRules,
    Sampling,
    SelectionRecipe,
    Source,
    Study,
    TrainingRecipe,
)

SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_tokens=100)
SOURCE = Source(
    name="numbers", reads=JsonLines(path="numbers.jsonl"), category=Category.MATH, columns=QueryColumns(), licence="MIT"
)
BENCHMARK = Benchmark(
    name="exam",
    reads=JsonLines(path="exam.jsonl"),
    category=Category.MATH,
    columns=QueryColumns(),
    num_samples=4,
    sampling=SAMPLING,
    licence="MIT",
)
WEAK = Distiller(name="weak", model="models/weak", revision="1", num_passes=4, sampling=SAMPLING, max_model_len=200)
STRONG = replace(WEAK, name="strong", model="models/strong", mean_response_tokens=50.0)
RULE = CategoryRule(category=Category.MATH, lowest_score=0.99, cv_threshold=0.05)
RECIPE = SelectionRecipe(name="stage1", distillers=("strong",), rules=(RULE,), seed=7)
FIRST = TrainingRecipe(
    name="first",
    subset="stage1",
    starts_from="models/base",
    revision="1",
    learning_rate=8e-5,
    epochs=1,
    sequence_tokens=128,
    batch_rows=4,
    seed=1,
)
SECOND = replace(FIRST, name="second", starts_from=None, revision=None, continues="first")


def small_study(**changed: object) -> Study:
    """The study, with some fields replaced."""
    rows: dict[str, object] = {
        "name": "small",
        "title": "A small study",
        "num_shards": 4,
        "sources": (SOURCE,),
        "benchmarks": (BENCHMARK,),
        "query_rules": QueryRules(),
        "distillers": (WEAK, STRONG),
        "quality_rules": QualityRules(),
        "verifiers": (MathVerifier(),),
        "selection_recipes": (RECIPE,),
        "training_recipes": (FIRST, SECOND),
    }
    return Study(**(rows | changed))  # pyright: ignore[reportArgumentType]
