import json
import re
from pathlib import Path

import pytest

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import JudgeModel, MathVerifier, Scorer
from amr_pipeline.verdicts.math_answers import MathAnswers
from amr_pipeline.verdicts.verifier import Case, Cause, JudgeReply
from amr_pipeline_tests.verdicts.cases import case, comparer, judge_saying

JUDGE = JudgeModel(scorer=Scorer(model="m", revision="r", max_model_len=10), prompt="deepdistill_math")

REJECTS = comparer(False)


def verdict(
    answer: str,
    reference: str | None = "4",
    *,
    row: MathVerifier | None = None,
    compare=REJECTS,
    judge=None,
    **more,
):
    one = case(Category.MATH, answer, **({} if reference is None else {"reference": reference}), **more)
    (found,) = MathAnswers(row or MathVerifier(), compare, judge).judge([one])
    return found


def test_right_wrong_and_unfinished():
    assert verdict("\\boxed{4}").outcome == "passed"
    assert verdict("\\boxed{5}").outcome == "failed"
    assert verdict("\\boxed{4}", finish_reason="length").stage == "truncated"
    thinking = Case(
        response_id="r",
        category=Category.MATH,
        messages=(("user", "?"),),
        text="<think>\\boxed{4}",
        finish_reason="stop",
        reference="4",
    )
    (found,) = MathAnswers(MathVerifier(), comparer(True)).judge([thinking])
    assert (found.outcome, found.stage) == ("failed", "truncated")


def test_failures_of_the_judge_are_never_wrong_answers():
    assert verdict("\\boxed{4}", None).cause == Cause.NO_REFERENCE
    assert verdict("\\boxed{\\sum_{k=1}^n k}", "n", compare=comparer(None, Cause.TIMEOUT)).cause == Cause.TIMEOUT
    assert verdict("\\boxed{9^{9^{9^{9^9}}}}", "x").cause == Cause.TOO_COMPLEX


def test_algebra_decides_what_types_do_not():
    assert verdict("\\boxed{\\sum_{k=1}^n k}", "n", compare=comparer(True)).stage == "math_verify"


def test_the_whole_content_in_words_may_be_the_reference():
    assert verdict("The United States of America.", "united states of america").outcome == "passed"
    assert (
        verdict("It was, I am afraid, the United States of America.", "united states of america").stage == "no_answer"
    )


def test_an_option_is_found_where_the_reference_is_one():
    assert verdict("The answer is for sure D, it can't be A or B", "D").outcome == "passed"
    assert verdict("The answer is C", "D").outcome == "failed"


def test_a_boxed_reference_is_opened():
    assert verdict("\\boxed{4}", "so it is $\\boxed{4}$").outcome == "passed"


def test_the_rows_deadline_goes_with_every_pair():
    seconds = []

    def compare(pairs):
        for pair in pairs:
            seconds.append(pair.seconds)
            yield from comparer(True)()([pair])

    one = case(Category.MATH, "\\boxed{\\sum_{k=1}^n k}", reference="n")
    list(MathAnswers(MathVerifier(deadline_seconds=2.5), lambda: compare).judge([one]))
    assert seconds == [2.5]


def test_equal_pairs_are_compared_once():
    asked = []

    def compare(pairs):
        for pair in pairs:
            asked.append(pair)
            yield from comparer(True)()([pair])

    cases = [
        case(Category.MATH, "\\boxed{\\sum_{k=1}^n k}", reference="n", response_id=str(index)) for index in range(5)
    ]
    assert {found.response_id for found in MathAnswers(MathVerifier(), lambda: compare).judge(cases)} == set("01234")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("reply", "outcome"), [("yes", "passed"), ("no", "failed"), ("maybe", "undecided"), (None, "undecided")]
)
def test_a_judge_looks_again_at_what_stage_one_rejects(reply: str | None, outcome: str):
    found = verdict("\\boxed{5}", row=MathVerifier(judge=JUDGE), judge=judge_saying(reply))
    assert found.outcome == outcome
    assert verdict("\\boxed{4}", row=MathVerifier(judge=JUDGE), judge=judge_saying("no")).outcome == "passed"


def test_the_judge_is_asked_in_both_orders_and_must_agree_with_itself():
    seen = []

    def ask(requests):
        for request in requests:
            seen.append(request.messages[-1][1])
            yield JudgeReply(request_id=request.request_id, text="yes" if len(seen) == 1 else "no")

    found = verdict("\\boxed{5}", "seven", row=MathVerifier(judge=JUDGE), judge=ask)
    assert (found.outcome, found.cause) == ("undecided", Cause.JUDGE_INCONSISTENT)
    first, second = seen
    assert first.index("seven") < first.index("\n5\n")
    assert second.index("Reference answer:\n5") < second.index("\nseven\n")


@pytest.mark.real_data
def test_gsm8k_labels_agree(real_data: Path):
    from amr_pipeline.engines.answer_checkers import AnswerCheckers

    cases, labels = [], {}
    for index, line in enumerate((real_data / "gsm8k" / "example_model_solutions.jsonl").read_text().splitlines()):
        record = json.loads(line)
        reference = re.findall(r"A:\s*([^\n]+)", record["ground_truth"])[-1]
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            key = f"{index} {model}"
            labels[key] = record[model]["is_correct"]
            cases.append(
                Case(
                    response_id=key,
                    category=Category.MATH,
                    messages=(("user", "?"),),
                    text=record[model]["solution"],
                    finish_reason="stop",
                    reference=reference,
                )
            )
    checkers = AnswerCheckers()
    try:
        verdicts = list(
            MathAnswers(MathVerifier(answer_patterns=(r"(?m)^A:\s*([^\n]+)",)), lambda: checkers).judge(cases)
        )
    finally:
        checkers.close()
    wrong = [found for found in verdicts if (found.outcome == "passed") != labels[found.response_id]]
    assert len(verdicts) == 5276
    assert len(wrong) <= 5, wrong
