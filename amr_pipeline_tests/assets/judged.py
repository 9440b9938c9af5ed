"""A stored study whose verdicts can be judged without engines, for tests of the assets around them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.materialization import materialize_owed
from amr_pipeline.assets.partitions import response_partition
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.responses import expected_responses
from amr_pipeline.assets.verdicts import Judging
from amr_pipeline.categories import Category
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.studies.study import CategoryRule, InstructionVerifier, SelectionRecipe, Study
from amr_pipeline_tests.studies.small import SOURCE, STRONG, WEAK, small_study

RULE = CategoryRule(category=Category.INSTRUCTION_FOLLOWING, lowest_score=0.99, cv_threshold=0.05)

ANSWERS = ("One two", "Sure, here:\nOne two", "One, two", "One two")


def instruction_study(**changed: object) -> Study:
    """Two distillers, two shards, instruction following only: judged by rules, without an engine."""
    rows: dict[str, object] = {
        "num_shards": 2,
        "sources": (SOURCE,),
        "benchmarks": (),
        "distillers": (WEAK, STRONG),
        "verifiers": (InstructionVerifier(),),
        "selection_recipes": (SelectionRecipe(name="stage1", distillers=("strong",), rules=(RULE,), seed=7),),
        "training_recipes": (),
    }
    return small_study(**(rows | changed))


def store_answers(
    store: TableStore, study: Study, shard: str, queries: pl.DataFrame, answer: Callable[[str, int], str]
) -> None:
    """Store a shard's queries, and every distiller's response to each: its answer by category and row number."""
    store.write("queries", shard, queries, fingerprints={})
    for row in study.distillers:
        expected = expected_responses(queries, row)
        answers = [answer(category, index) for index, category in enumerate(expected["category"])]
        responses = expected.select("response_id", "query_id", "category", "pass_index").with_columns(
            pl.lit(row.name).alias("distiller"),
            pl.lit(row.distiller_fingerprint).alias("distiller_fingerprint"),
            pl.lit(1, dtype=pl.Int64).alias("seed"),
            pl.Series("text", [f"<think>{index}</think><answer>{said}</answer>" for index, said in enumerate(answers)]),
            pl.lit("stop").alias("finish_reason"),
            pl.lit(1).alias("prompt_tokens"),
            pl.lit(1).alias("attempts"),
            pl.lit(None, dtype=pl.String).alias("last_failure"),
            pl.lit(1).alias("response_tokens"),
            pl.lit("made up 1").alias("engine"),
        )
        key = response_partition(row.name, shard)
        store.write("responses", key, responses.select(tables.RESPONSES.schema.names()), fingerprints={})


class Stored:
    """The study's tables in a folder, filled with `num_queries` per shard.

    Of four passes the third breaks its rule, and the second only where it is read strictly.
    """

    def __init__(self, folder: Path, study: Study, num_queries: int = 3) -> None:
        self.study, self.store = study, TableStore(str(folder / "tables"))
        self.deployment = deployment_from_environment({"AMR_HOME": str(folder)})
        self.platform = Platform.of(self.deployment)
        for place, shard in enumerate(study.shards):
            self.write_shard(place, shard, num_queries)

    def write_shard(self, place: int, shard: str, num_queries: int) -> None:
        first = place * (256 // self.study.num_shards)
        queries = pl.DataFrame(
            [
                {
                    "query_id": f"{first + index:02x}{index:030x}",
                    "shard": shard,
                    "category": "instruction_following",
                    "messages": [{"role": "user", "content": f"Say {index} without a comma."}],
                    "reference": None,
                    "test_cases": None,
                    "constraints": json.dumps([{"id": "punctuation:no_comma", "kwargs": {}}]),
                    "source": "numbers",
                    "source_row": str(index),
                    "licence": "MIT",
                }
                for index in range(num_queries)
            ],
            schema=tables.QUERIES.schema,
        )
        store_answers(self.store, self.study, shard, queries, lambda category, index: ANSWERS[index % 4])

    def judge(self, *keys: str, study: Study | None = None) -> dg.MaterializeResult:
        """Materialize verdict partitions, as one run of the asset does."""
        judging = Judging(cast(Any, None), self.platform, study or self.study)
        for key in keys:
            judging.settle(key)
        return judging.result()

    def walk(self, assets: Sequence[str], study: Study | None = None) -> list[str]:
        """Materialize what some assets owe, as the command line does, and name those that owed something."""
        study = study or self.study
        with dg.DagsterInstance.ephemeral() as instance:
            walked = materialize_owed(
                assemble(self.deployment, study), study, self.platform, instance, assets=assets, say=lambda line: None
            )
        return [turn.asset for turn in walked if turn.partitions]
