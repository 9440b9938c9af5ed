"""What adaptive passes save and change: `python -m benchmarks.adaptive_passes [FOLDER]`.

Replays policies on queries whose passes are all known: simulated ones (every query has a pass rate of its own, drawn
from a beta distribution; 64 passes each), and with FOLDER real labels: 100 MATH problems with eight responses each of
one model, and GSM8K with one response each of four models, smallest first, which stand in for passes of one distiller.

For each policy: passes per query; the share of queries whose tier is another than over all known passes (by the cuts
at 3/8 and 5/8 alone, and by all five tiers); and the root mean square error of the pass rate. On real labels the passes
that a policy sees are a large part of those it is compared with, which flatters every policy alike.
"""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl

from amr_pipeline.adaptive_passes import replay
from amr_pipeline.difficulty import EASY_ABOVE, HARD_BELOW, tier
from amr_pipeline.studies.study import AdaptivePasses
from benchmarks.versions import measured_on

Policy = tuple[int, AdaptivePasses | None]
"""`num_passes` of a distiller, and its policy."""

SHAPES = {"most at the ends": (0.5, 0.5), "any rate alike": (1.0, 1.0), "mostly hard": (0.3, 0.6)}
"""Beta distributions that queries' pass rates are drawn from."""
SIMULATED: dict[str, Policy] = {
    **{f"fixed {number}": (number, None) for number in (4, 8, 12, 16)},
    "adaptive, 4 on average": (4, AdaptivePasses(first=3, step=1)),
    "adaptive, 8 on average": (8, AdaptivePasses()),
    "adaptive, 8 on average, confidence 0.9": (8, AdaptivePasses(step=2, confidence=0.9)),
}
MATH: dict[str, Policy] = {
    "fixed 4": (4, None),
    "fixed 8": (8, None),
    "adaptive, 4 on average": (4, AdaptivePasses(first=3, step=1, most=8)),
    "adaptive, 8 on average": (8, AdaptivePasses(most=8)),
}
GSM8K: dict[str, Policy] = {
    "fixed 3": (3, None),
    "fixed 4": (4, None),
    "adaptive, 4 at most": (4, AdaptivePasses(first=3, step=1, most=4)),
}
GSM8K_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def passes_of(outcomes: list[list[bool]]) -> pl.DataFrame:
    """Known passes as rows: query_id, pass_index, passed; a query per list."""
    rows = [(f"{place:032x}", index, one) for place, query in enumerate(outcomes) for index, one in enumerate(query)]
    schema = {"query_id": pl.String, "pass_index": pl.Int32, "passed": pl.Boolean}
    return pl.DataFrame(rows, schema=schema, orient="row")


def simulated(shape: tuple[float, float], num_queries: int, num_passes: int, seed: int = 7) -> pl.DataFrame:
    """Passes of queries whose rates come from a beta distribution."""
    drawn = np.random.default_rng(seed)
    rates = drawn.beta(*shape, size=(num_queries, 1))
    return passes_of((drawn.random((num_queries, num_passes)) < rates).tolist())


def labels(folder: Path) -> dict[str, tuple[pl.DataFrame, dict[str, Policy]]]:
    """Real passes, by what they are, with the policies to replay on them."""
    math, gsm8k = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in ("qwen_math_100x8/math_cot_100.jsonl", "gsm8k/example_model_solutions.jsonl")
    )
    return {
        "MATH, one model": (passes_of([row["score"] for row in math]), MATH),
        "GSM8K, four models": (
            passes_of([[row[model]["is_correct"] for model in GSM8K_MODELS] for row in gsm8k]),
            GSM8K,
        ),
    }


def measure(passed: pl.DataFrame, policies: dict[str, Policy]) -> dict[str, dict[str, float]]:
    """What each policy spends and gets wrong."""
    reference = _graded(passed.group_by("query_id").agg(num_passed=pl.col("passed").sum(), num_asked=pl.len()))
    found = {}
    for name, (num_passes, policy) in policies.items():
        asked = _fixed(passed, num_passes) if policy is None else replay(passed, policy, num_passes)
        both = _graded(asked).join(reference, on="query_id", suffix="_known")
        error = both.get_column("rate") - both.get_column("rate_known")
        found[name] = {
            "passes_per_query": round(float(asked.get_column("num_asked").to_numpy().mean()), 2),
            "in_another_part": _share(both, "part"),
            "in_another_tier": _share(both, "tier"),
            "rate_error": round(float(np.sqrt((error.to_numpy() ** 2).mean())), 4),
        }
    return found


def _fixed(passed: pl.DataFrame, num_passes: int) -> pl.DataFrame:
    first = passed.filter(pl.col("pass_index") < num_passes)
    return first.group_by("query_id").agg(num_passed=pl.col("passed").sum(), num_asked=pl.len())


def _graded(counts: pl.DataFrame) -> pl.DataFrame:
    rated = counts.with_columns(rate=pl.col("num_passed") / pl.col("num_asked"))
    part = (pl.col("rate") > EASY_ABOVE).cast(pl.Int8) - (pl.col("rate") < HARD_BELOW).cast(pl.Int8)
    return rated.select("query_id", "rate", part=part, tier=tier("rate"))


def _share(both: pl.DataFrame, column: str) -> float:
    return round(both.filter(pl.col(column) != pl.col(f"{column}_known")).height / both.height, 4)


def main(folders: list[str]) -> None:
    """Print a line per policy, the last one everything as JSON."""
    worlds = {f"simulated, {name}": (simulated(shape, 10_000, 64), SIMULATED) for name, shape in SHAPES.items()}
    for folder in folders:
        worlds |= labels(Path(folder))
    figures = {name: measure(passed, policies) for name, (passed, policies) in worlds.items()}
    for name, by_policy in figures.items():
        for policy, numbers in by_policy.items():
            print(f"{name}: {policy}: {numbers}")
    print(json.dumps({"benchmark": "adaptive_passes", "by_world": figures, **measured_on("polars")}))


if __name__ == "__main__":
    main(sys.argv[1:])
