import pytest

from amr_pipeline.categories import Category
from amr_pipeline.verdicts.finished_answer import finished_answer
from amr_pipeline.verdicts.verifier import Cause, Verdict
from amr_pipeline_tests.verdicts.cases import case


def test_a_finished_response_has_an_answer():
    assert finished_answer(case(Category.MATH, "42")) == "42"


@pytest.mark.parametrize("finish_reason", ["length", "looping"])
def test_what_the_distiller_did_not_finish_failed(finish_reason: str):
    found = finished_answer(case(Category.MATH, "42", finish_reason=finish_reason))
    assert isinstance(found, Verdict)
    assert (found.outcome, found.stage) == ("failed", "truncated")


def test_what_the_engine_did_not_give_is_undecided():
    found = finished_answer(case(Category.MATH, "", finish_reason="error"))
    assert isinstance(found, Verdict)
    assert (found.outcome, found.cause) == ("undecided", Cause.NO_RESPONSE)
