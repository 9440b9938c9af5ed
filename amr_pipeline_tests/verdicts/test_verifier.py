import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.categories import Category
from amr_pipeline.verdicts.verifier import LONGEST_EVIDENCE, TRANSIENT_CAUSES, Cause, Outcome, decided, undecided
from amr_pipeline_tests.verdicts.cases import case


@pytest.mark.parametrize(
    ("category", "score", "outcome"),
    [
        (Category.MATH, 0.99, Outcome.FAILED),
        (Category.MATH, 1.0, Outcome.PASSED),
        (Category.CODE, 0.99, Outcome.FAILED),
        (Category.CODE, 1.0, Outcome.PASSED),
        (Category.SCIENCE, 4.99, Outcome.FAILED),
        (Category.SCIENCE, 5.0, Outcome.PASSED),
        (Category.INSTRUCTION_FOLLOWING, 0.99, Outcome.FAILED),
        (Category.INSTRUCTION_FOLLOWING, 1.0, Outcome.PASSED),
        (Category.CONVERSATION, 0.69, Outcome.FAILED),
        (Category.CONVERSATION, 0.71, Outcome.PASSED),
    ],
)
def test_the_categorys_threshold_decides(category: Category, score: float, outcome: Outcome):
    found = decided(case(category, "x", response_id="mine"), score, stage="s", evidence="e" * 10_000)
    assert (found.response_id, found.outcome, found.verify_score, found.cause) == ("mine", outcome, score, None)
    assert (found.stage, len(found.evidence)) == ("s", LONGEST_EVIDENCE)


@pytest.mark.parametrize("cause", list(Cause))
def test_undecided_has_a_cause_and_no_score(cause: Cause):
    found = undecided(case(Category.MATH, "x", response_id="mine"), cause, stage="s", evidence="e" * 10_000)
    assert (found.response_id, found.outcome) == ("mine", Outcome.UNDECIDED)
    assert (found.verify_score, found.cause) == (None, cause)
    assert (found.stage, len(found.evidence)) == ("s", LONGEST_EVIDENCE)


@given(st.sampled_from(list(Category)), st.floats(0, 5), st.floats(0, 5))
def test_a_higher_score_never_does_worse(category: Category, one: float, other: float):
    low, high = (decided(case(category, "x"), score, stage="s") for score in sorted((one, other)))
    assert not (low.outcome == Outcome.PASSED and high.outcome == Outcome.FAILED)


def test_what_another_attempt_may_settle_stays_owed_and_the_rest_does_not():
    assert set(Cause) - TRANSIENT_CAUSES == {
        Cause.TOO_COMPLEX,
        Cause.NO_REFERENCE,
        Cause.NO_RESPONSE,
        Cause.JUDGE_INCONSISTENT,
        Cause.UNSUPPORTED,
        Cause.MALFORMED,
    }


def test_the_data_dictionary_knows_every_cause():
    (column,) = (column for column in tables.VERDICTS.columns if column.name == "cause")
    assert set(column.values or ()) == {str(cause) for cause in Cause}
