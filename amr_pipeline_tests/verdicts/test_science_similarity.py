import pytest

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import JudgeModel, ScienceVerifier, Scorer
from amr_pipeline.verdicts.science_similarity import ScienceSimilarity
from amr_pipeline_tests.verdicts.cases import case, judge_saying

ROW = ScienceVerifier(
    judge=JudgeModel(scorer=Scorer(model="m", revision="r", max_model_len=9), prompt="deepdistill_science")
)


def one(answer: str, reference: str | None, row: ScienceVerifier = ROW, reply: str | None = "3"):
    (found,) = ScienceSimilarity(row, judge_saying(reply)).judge(
        [case(Category.SCIENCE, answer, **({"reference": reference} if reference else {}))]
    )
    return found


def test_rules_come_before_the_judge():
    assert (one("B", "B").stage, one("B", "B").verify_score) == ("option", 5.0)
    assert one("C", "B").verify_score == 0.0
    assert one("38.0", "38").stage == "equal"


@pytest.mark.parametrize(
    ("reply", "score", "outcome"), [("5", 5.0, "passed"), ("4", 4.0, "failed"), ("six", None, "undecided")]
)
def test_the_judge_scores_the_rest(reply: str, score: float | None, outcome: str):
    found = one("salt water", "brine", reply=reply)
    assert (found.verify_score, found.outcome, found.stage) == (score, outcome, "judge")


def test_without_judge_or_reference_nothing_is_decided():
    assert one("salt water", "brine", row=ScienceVerifier()).cause == "judge_unavailable"
    assert one("salt water", None).cause == "no_reference"
