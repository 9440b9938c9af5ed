from collections.abc import Iterable, Iterator

import pytest

from amr_pipeline.categories import Category
from amr_pipeline.engines.answer_checkers import AnswerCheckers
from amr_pipeline.studies.study import SymbolicMathVerifier
from amr_pipeline.verdicts.symbolic_answers import SymbolicAnswers
from amr_pipeline.verdicts.verifier import AnswerPair, Cause, Comparison
from amr_pipeline_tests.verdicts.cases import case, comparer

ALWAYS_EQUAL = comparer(True)


def judge(answer: str, reference: str | None = "12", compare=ALWAYS_EQUAL, **more: str):
    said = {"reference": reference} if reference is not None else {}
    (found,) = SymbolicAnswers(SymbolicMathVerifier(), compare).judge([case(Category.MATH, answer, **said, **more)])
    return found


def test_the_comparison_decides_even_where_texts_are_equal():
    assert judge("\\boxed{12}", compare=comparer(False)).outcome == "failed"
    assert judge("\\boxed{13}", compare=comparer(True)).outcome == "passed"
    assert judge("\\boxed{12}", compare=comparer(None, Cause.TIMEOUT)).cause == "timeout"


@pytest.mark.parametrize(
    ("answer", "more", "outcome", "stage"),
    [
        ("\\boxed{12}", {"finish_reason": "length"}, "failed", "truncated"),
        ("I would rather not say what the value of this is.", {}, "failed", "no_answer"),
        ("\\boxed{12}", {"reference": None}, "undecided", "reference"),
        ("\\boxed{9^{9^{9^{9}}}}", {}, "undecided", "limits"),
    ],
)
def test_what_needs_no_comparison(answer: str, more: dict, outcome: str, stage: str):
    found = judge(answer, **more)
    assert (found.outcome, found.stage) == (outcome, stage)


def test_equal_pairs_are_compared_once():
    asked: list[AnswerPair] = []

    def compare(pairs: Iterable[AnswerPair]) -> Iterator[Comparison]:
        for pair in pairs:
            asked.append(pair)
            yield Comparison(pair_id=pair.pair_id, equal=True)

    cases = [case(Category.MATH, "\\boxed{12}", reference="12", response_id=str(index)) for index in range(5)]
    found = list(SymbolicAnswers(SymbolicMathVerifier(), lambda: compare).judge(cases))
    assert len(found) == 5
    assert len(asked) == 1


def test_with_real_checkers_its_own_reference_passes_and_another_value_fails():
    checkers = AnswerCheckers(slots=1)
    try:
        for reference, damaged in (("12", "13"), ("-7", "7"), ("\\frac{1}{2}", "0.51"), ("x+1", "x-1")):
            assert judge(f"\\boxed{{{reference}}}", reference, lambda: checkers).outcome == "passed"
            assert judge(f"\\boxed{{{damaged}}}", reference, lambda: checkers).outcome == "failed"
    finally:
        checkers.close()
