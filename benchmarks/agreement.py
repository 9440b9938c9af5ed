"""Agreement of verdicts with the labels that real responses came with: `python -m benchmarks.agreement HOME ROOT`.

HOME is what `AMR_STUDY=imported AMR_STUDY_PARAMETERS=root=ROOT,set=all amr demo` filled; ROOT holds the labelled
responses. Every disagreement is listed, because some labels are wrong. Verdicts that are undecided are counted apart:
they neither agree nor disagree.
"""

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.studies.imported import study

GSM8K_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
HUMANEVAL_MODELS = ("gpt-3.5-turbo", "gpt-4", "text-davinci-003")

Key = tuple[str, str, int]
"""Distiller, question, pass."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How one set's verdicts compare with its labels.

    Attributes:
        compared: labels with a decided verdict.
        undecided: labels without one.
        disagreements: (distiller, pass, start of the question, label, evidence).
    """

    compared: int
    undecided: int
    disagreements: list[tuple[str, int, str, object, str]]

    @property
    def share(self) -> float:
        """Agreeing among compared; 1 where nothing is compared."""
        return 1 - len(self.disagreements) / max(1, self.compared)


def agreements(tables: TableStore, root: str) -> dict[str, Agreement]:
    """Agreement per set, over every labelled response of the study."""
    rows = study({"root": root, "set": "all"})
    asked = tables.read("queries", stored_partitions(rows, "queries"), columns=["query_id", "messages"])
    questions = {query: turns[-1]["content"] for query, turns in asked.select("query_id", "messages").iter_rows()}
    verdicts = tables.read("verdicts", stored_partitions(rows, "verdicts"))
    found = {
        (row["distiller"], questions[row["query_id"]], row["pass_index"]): row for row in verdicts.iter_rows(named=True)
    }
    return {
        "gsm8k": _whole_responses(found, dict(_gsm8k(root))),
        "math": _whole_responses(found, dict(_math(root))),
        "humaneval": _whole_responses(found, dict(_humaneval(root))),
        "ifeval": _constraints(found, root),
    }


def _whole_responses(found: dict[Key, dict[str, Any]], labels: dict[Key, bool]) -> Agreement:
    decided = {key: label for key, label in labels.items() if found[key]["verdict"] != "undecided"}
    wrong: list[tuple[str, int, str, object, str]] = [
        (key[0], key[2], " ".join(key[1].split())[:60], label, str(found[key]["evidence"])[:200])
        for key, label in decided.items()
        if (found[key]["verdict"] == "passed") != label
    ]
    return Agreement(compared=len(decided), undecided=len(labels) - len(decided), disagreements=wrong)


def _constraints(found: dict[Key, dict[str, Any]], root: str) -> Agreement:
    compared = 0
    wrong: list[tuple[str, int, str, object, str]] = []
    for row in _lines(f"{root}/ifeval/labelled_responses_20x3.jsonl"):
        distiller = f"ifeval-{row['model']}"
        evidence = json.loads(str(found[distiller, row["prompt"], 0]["evidence"]))
        for said, name, label in zip(evidence, row["instruction_id_list"], row["follow_instruction_list"], strict=True):
            compared += 1
            if said["strict"] != label:
                wrong.append((distiller, 0, name, label, json.dumps(said)))
    return Agreement(compared=compared, undecided=0, disagreements=wrong)


def _gsm8k(root: str) -> Iterator[tuple[Key, bool]]:
    for row in _lines(f"{root}/gsm8k/example_model_solutions.jsonl"):
        for model in GSM8K_MODELS:
            yield (f"gsm8k-{model}", row["question"], 0), row[model]["is_correct"]


def _math(root: str) -> Iterator[tuple[Key, bool]]:
    for row in _lines(f"{root}/qwen_math_100x8/math_cot_100.jsonl"):
        labels = row["score"] if isinstance(row["score"], list) else ast.literal_eval(row["score"])
        for index, label in enumerate(labels):
            yield ("math-qwen", row["question"], index), label


def _humaneval(root: str) -> Iterator[tuple[Key, bool]]:
    for model in HUMANEVAL_MODELS:
        for row in _lines(f"{root}/code_runs/simple_test_run/simple_1_{model}_pass_at_k_1.jsonl"):
            yield (f"humaneval-{model}", row["prompt"], 0), row["is_solved"]


def _lines(path: str) -> Iterator[dict[str, Any]]:
    with Path(path).open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def main(home: str, root: str) -> None:
    """Print every disagreement, then the figures as one JSON object."""
    measured = agreements(TableStore(f"{home}/tables"), root)
    for name, one in measured.items():
        for line in one.disagreements:
            print(name, *line, sep=" | ")
    figures = {
        name: {"compared": one.compared, "undecided": one.undecided, "agreement": round(one.share, 5)}
        for name, one in measured.items()
    }
    print(json.dumps({"benchmark": "agreement", "sets": figures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
