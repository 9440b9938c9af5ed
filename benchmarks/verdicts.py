"""Answer pairs judged per CPU second, beside plain Math-Verify: `python -m benchmarks.verdicts ROOT [REPEATS]`.

ROOT holds real responses (GSM8K with the solutions of four models, MATH with eight samples each). Both sides see the
same extracted answers and run in this process, in turn, pair set by pair set, so that the machine's noise meets both;
figures are medians over the repeats. Caches are emptied before every turn of ours: what is measured is the first time
a pair is seen. Agreement is with the labels that the responses came with.
"""

import ast
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amr_pipeline.engines.answer_checker_worker import compare
from amr_pipeline.responses.parsing import parse_response
from amr_pipeline.verdicts import answer_reading, answer_text, expression_values, expressions, quantities
from amr_pipeline.verdicts.algebra_limits import too_complex
from amr_pipeline.verdicts.answer_extraction import final_answer
from amr_pipeline.verdicts.typed_answers import compare_typed

Pair = tuple[str, str, bool]
"""Reference, answer, label."""

GSM8K_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
CACHED = (
    answer_reading.form_of,
    answer_text.plain_answer,
    expressions.parse_expression,
    expression_values._point,
    quantities.unit_of,
)


def gsm8k_pairs(root: Path) -> list[Pair]:
    """Reference and final answer of every solution, as they stand in the data set (`A: 18`)."""
    found = []
    for row in _lines(root / "gsm8k" / "example_model_solutions.jsonl"):
        reference = re.findall(r"A:\s*([^\n]+)", row["ground_truth"])[-1]
        for model in GSM8K_MODELS:
            answers = re.findall(r"(?m)^A:\s*([^\n]+)", row[model]["solution"])
            found.append((reference, answers[-1] if answers else "", row[model]["is_correct"]))
    return found


def math_pairs(root: Path) -> list[Pair]:
    """Reference and boxed answer of every sample, each between dollar signs; equal pairs once."""
    found: dict[tuple[str, str], bool] = {}
    for row in _lines(root / "qwen_math_100x8" / "math_cot_100.jsonl"):
        labels, texts = (_listed(row[name]) for name in ("score", "code"))
        for label, text in zip(labels, texts, strict=True):
            answer = final_answer(parse_response(text).answer_content or "") or ""
            found[f"${row['gt']}$", f"${answer}$"] = bool(label)
    return [(*pair, label) for pair, label in found.items()]


def ours(pairs: Sequence[Pair]) -> list[bool | None]:
    """Types first; what they do not settle goes to the comparison that the checkers run, here without its process."""
    for cached in CACHED:
        cached.cache_clear()
    verdicts = []
    for reference, answer, _ in pairs:
        equal = compare_typed(reference, answer, 1e-6)
        if equal is None and answer.strip("$") and not too_complex(answer):
            equal = compare(reference, answer)
        verdicts.append(equal)
    return verdicts


def plain_math_verify(pairs: Sequence[Pair]) -> list[bool | None]:
    """Math-Verify as its README shows it."""
    from math_verify import parse, verify

    return [bool(verify(parse(reference), parse(answer))) for reference, answer, _ in pairs]


def _measured(
    judge: Callable[[Sequence[Pair]], list[bool | None]], pairs: Sequence[Pair]
) -> tuple[float, list[bool | None]]:
    start = time.process_time()
    verdicts = judge(pairs)
    return time.process_time() - start, verdicts


def main(root: str, repeats: int = 5) -> None:
    """Print a table, then the figures as one JSON object."""
    figures: dict[str, Any] = {}
    for name, pairs in (("gsm8k", gsm8k_pairs(Path(root))), ("math", math_pairs(Path(root)))):
        plain_math_verify(pairs[:3])  # imports are not what is measured
        seconds: dict[str, list[float]] = {"ours": [], "math_verify": []}
        verdicts: dict[str, list[bool | None]] = {}
        for _ in range(repeats):
            for side, judge in (("ours", ours), ("math_verify", plain_math_verify)):
                spent, verdicts[side] = _measured(judge, pairs)
                seconds[side].append(spent)
        rates = {side: len(pairs) / statistics.median(spent) for side, spent in seconds.items()}
        agree = {
            side: sum(bool(one) == label for one, (_, _, label) in zip(found, pairs, strict=True))
            for side, found in verdicts.items()
        }
        figures[name] = {
            "pairs": len(pairs),
            "pairs_per_cpu_second": {side: round(rate, 1) for side, rate in rates.items()},
            "ratio": round(rates["ours"] / rates["math_verify"], 2),
            "agree_with_label": agree,
        }
        print(name, json.dumps(figures[name]))
    versions = {"python": sys.version.split()[0], "math-verify": version("math-verify"), "sympy": version("sympy")}
    print(json.dumps({"benchmark": "verdicts", "repeats": repeats, "sets": figures, "versions": versions}))


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else ast.literal_eval(str(value))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
