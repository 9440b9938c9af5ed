"""Verdicts beside the rewards that production verifiers gave: `python -m benchmarks.rollouts ROOT`.

ROOT holds labelled rollouts, a folder per verifier, with the questions in `example.jsonl`, and the responses and
rewards in `example_rollouts.jsonl`. They become records in the published field names and go through `amr verify`'s own
path, without a judge model. Every row is printed, because there are few and rewards are sometimes wrong.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amr_pipeline.engines.verify_file import verify_file

Row = dict[str, Any]


def _answers(category: str) -> Callable[[Row, Row], Row]:
    """Fields of a record whose reference is an answer."""
    return lambda asked, row: {"category": category, "ground_truth": asked.get("expected_answer", asked.get("answer"))}


def _programs(asked: Row, row: Row) -> Row:
    tests = {"language": "python", "call_type": "std", **asked["verifier_metadata"]["unit_tests"]}
    return {"category": "code", "test_case": json.dumps(tests)}


def _instructions(asked: Row, row: Row) -> Row:
    return {
        "category": "instruction follow",
        "instruction_constrain": {name: row[name] for name in ("instruction_id_list", "kwargs")},
    }


SETS: dict[str, Callable[[Row, Row], Row]] = {
    "math_with_judge": _answers("math"),
    "math_with_autograder": _answers("math"),
    "physics_judge": _answers("math"),
    "mcqa": _answers("science"),
    "equivalence_llm_judge": _answers("science"),
    "omniscience": _answers("science"),
    "reasoning_gym": _answers("science"),
    "code_gen": _programs,
    "instruction_following": _instructions,
}
"""Which of the folders have a verifier here, and the record of one of their rows."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One rollout: its reward there, and the verdict here.

    Attributes:
        name: folder and line.
        reward: 0 or 1.
        verdict: passed, failed or undecided.
        cause: why it is undecided, else null.
        evidence: what the verdict rests on.
    """

    name: str
    reward: float
    verdict: str
    cause: str | None
    evidence: str

    @property
    def agrees(self) -> bool | None:
        """Whether verdict and reward say the same; None where nothing is decided."""
        return None if self.verdict == "undecided" else (self.verdict == "passed") == (self.reward == 1.0)


def judged_rollouts(root: Path) -> list[Judged]:
    """Every rollout of the sets above, judged."""
    rows = [(name, number, row) for name in SETS for number, row in enumerate(_lines(root / name, "example_rollouts"))]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        source.write_text("".join(json.dumps(_record(root, name, row)) + "\n" for name, _, row in rows))
        verify_file(str(source), str(target), say=lambda line: None)
        verdicts = [json.loads(line) for line in target.read_text().splitlines()]
    return [
        Judged(
            name=f"{name}/{number}",
            reward=float(row["reward"]),
            verdict=verdict["verdict"],
            cause=verdict["cause"],
            evidence=verdict["evidence"],
        )
        for (name, number, row), verdict in zip(rows, verdicts, strict=True)
    ]


def _record(root: Path, name: str, row: Row) -> Row:
    question = _question(row)
    asked = next((one for one in _lines(root / name, "example") if _question(one) == question), row)
    incomplete = (row["response"].get("incomplete_details") or {}).get("reason")
    return {
        "question": question,
        "answer": _response(row["response"]["output"]),
        "finish_reason": "length" if incomplete == "max_output_tokens" else "stop",
        **SETS[name](asked, row),
    }


def _question(row: Row) -> str:
    return row["responses_create_params"]["input"][-1]["content"]


def _response(output: list[Row]) -> str:
    """What the model said, its thinking (a part of its own there) left out."""
    messages = (part for part in output if part.get("type") == "message")
    return "\n".join(piece["text"] for message in messages for piece in message["content"] if "text" in piece)


def _lines(folder: Path, name: str) -> list[Row]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def main(root: str) -> None:
    """Print every rollout, then how many agree."""
    found = judged_rollouts(Path(root))
    for one in found:
        mark = {True: "agrees", False: "DIFFERS", None: "undecided"}[one.agrees]
        said = one.cause or " ".join(one.evidence.split())[:140]
        print(f"{one.name:28} reward {one.reward:.0f}  {one.verdict:9}  {mark:9}  {said}")
    decided = [one for one in found if one.agrees is not None]
    print(
        json.dumps(
            {
                "benchmark": "rollouts",
                "rollouts": len(found),
                "decided": len(decided),
                "agree": sum(one.agrees is True for one in decided),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
