import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import InstructionVerifier
from amr_pipeline.verdicts.constraint_rules import CannotTellError
from amr_pipeline.verdicts.instruction_constraints import (
    ALL_RULES,
    InstructionConstraints,
    follows,
    unsupported_constraints,
)
from amr_pipeline_tests.verdicts.cases import case
from amr_pipeline_tests.verdicts.test_constraint_rules import FOLLOWED_AND_BROKEN
from amr_pipeline_tests.verdicts.test_extra_constraint_rules import EXTRA_FOLLOWED_AND_BROKEN

UPPER = {"id": "change_case:english_capital", "kwargs": {}}
NO_COMMA = {"id": "en:punctuation:no_comma", "kwargs": None}


def one(answer: str, *constraints: object, reading: str = "strict", **more: str):
    made = case(Category.INSTRUCTION_FOLLOWING, answer, constraints=json.dumps(list(constraints)), **more)
    (found,) = InstructionConstraints(InstructionVerifier(reading=reading)).judge([made])  # type: ignore[arg-type]
    return found


def test_the_score_is_the_mean_and_the_evidence_lists_each():
    found = one("UPPER, CASE", UPPER, NO_COMMA)
    assert (found.verify_score, found.outcome) == (0.5, "failed")
    assert [(item["strict"], item["loose"]) for item in json.loads(found.evidence)] == [(True, True), (False, False)]
    assert one("UPPER CASE", UPPER, NO_COMMA).outcome == "passed"


def test_unknown_and_unusable_constraints_are_undecided():
    assert one("x", UPPER, {"id": "made:up"}).cause == "unsupported"
    assert one("x", {"id": "keywords:existence", "kwargs": {}}).cause == "unsupported"
    assert one("x").cause == "malformed"
    (none,) = InstructionConstraints(InstructionVerifier()).judge([case(Category.INSTRUCTION_FOLLOWING, "x")])
    assert none.cause == "no_reference"
    assert unsupported_constraints(["made:up", "punctuation:no_comma", "en:startend:quotation"]) == ["made:up"]


def test_the_loose_reading_forgives_a_frame():
    answer = "Sure, here it is:\n*QUIET*"
    assert one(answer, UPPER).outcome == "failed"
    assert one(answer, UPPER, reading="loose").outcome == "passed"
    for reading in ("strict", "loose"):
        assert json.loads(one(answer, UPPER, reading=reading).evidence) == [
            {"id": UPPER["id"], "strict": False, "loose": True}
        ]


GERMAN = {"id": "language:response_language", "kwargs": {"language": "de"}}


def test_a_frame_whose_rest_cannot_be_told_forgives_nothing():
    assert one("This is not the end of it.\n12", GERMAN, reading="loose").outcome == "failed"
    assert one("12\n13", GERMAN, reading="loose").cause == "unsupported"


@given(st.sampled_from(sorted(ALL_RULES)), st.text(alphabet='aB .,*\n"[]<>1', max_size=60))
def test_what_follows_strictly_follows_loosely(name: str, text: str):
    arguments = {**FOLLOWED_AND_BROKEN, **EXTRA_FOLLOWED_AND_BROKEN}[name][0]
    try:
        strictly, loosely = (follows(text, name, arguments, reading) for reading in ("strict", "loose"))
    except CannotTellError:
        return
    assert loosely or not strictly


@pytest.mark.real_data
def test_labels_of_a_production_verifier(real_data: Path):
    """Where ours differs, with the reason; anything new that differs fails."""
    expected = {
        # The paragraph begins "Crash\u2014emotion": its first word is crash, though no space follows it.
        ("length_constraints:nth_paragraph_first_word", "crash"): (True, False),
    }
    found, compared = {}, 0
    path = real_data / "verifier_rollouts" / "instruction_following" / "example_rollouts.jsonl"
    for row in map(json.loads, path.read_text().splitlines()):
        text = row["response"]["output"][-1]["content"][0]["text"]
        for name, kwargs, label in zip(
            row["instruction_id_list"], row["kwargs"], row["follow_instruction_list"], strict=True
        ):
            arguments = {key: value for key, value in (kwargs or {}).items() if value is not None}
            ours = follows(text, name, arguments, "strict")
            compared += 1
            if ours != label:
                found[name, arguments.get("first_word")] = (ours, label)
    assert compared == 13
    assert found == expected


@pytest.mark.real_data
def test_strict_labels_of_public_responses(real_data: Path):
    prompts = {
        row["prompt"]: row
        for row in map(json.loads, (real_data / "ifeval" / "prompts_20.jsonl").read_text().splitlines())
    }
    differ, total = [], 0
    for row in map(json.loads, (real_data / "ifeval" / "labelled_responses_20x3.jsonl").read_text().splitlines()):
        details = prompts[row["prompt"]]["kwargs"]
        for name, kwargs, label in zip(
            row["instruction_id_list"], details, row["follow_instruction_list"], strict=True
        ):
            try:
                found = follows(
                    row["response"], name, {key: value for key, value in kwargs.items() if value is not None}, "strict"
                )
            except CannotTellError:
                continue
            total += 1
            if found != label:
                differ.append((row["model"], name, kwargs, label))
    assert total == 93
    assert differ == []
