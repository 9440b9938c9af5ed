"""Answers that look alike and answers that do not, by the whole mathematics verifier."""

from amr_pipeline.categories import Category
from amr_pipeline.engines.answer_checkers import AnswerCheckers
from amr_pipeline.studies.study import MathVerifier
from amr_pipeline.verdicts.math_answers import MathAnswers
from amr_pipeline.verdicts.verifier import Outcome
from amr_pipeline_tests.golden.answer_traps import DIFFERENT, EQUAL
from amr_pipeline_tests.verdicts.cases import case


def test_what_is_one_answer_passes_and_what_only_looks_like_it_fails():
    pairs = [*((pair, Outcome.PASSED) for pair in EQUAL), *((pair, Outcome.FAILED) for pair in DIFFERENT)]
    checkers = AnswerCheckers(slots=2)
    try:
        cases = [
            case(Category.MATH, f"\\boxed{{{answer}}}", response_id=str(place), reference=reference)
            for place, ((reference, answer), _) in enumerate(pairs)
        ]
        found = {one.response_id: one for one in MathAnswers(MathVerifier(), lambda: checkers).judge(cases)}
    finally:
        checkers.close()
    wrong = [
        (pair, found[str(place)].outcome)
        for place, (pair, wanted) in enumerate(pairs)
        if found[str(place)].outcome is not wanted
    ]
    assert wrong == []
    assert len(pairs) > 250
