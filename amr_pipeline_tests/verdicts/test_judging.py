from amr_pipeline.categories import Category
from amr_pipeline.studies.study import JudgeModel, Scorer
from amr_pipeline.verdicts.judging import Question, ask, judge_prompt
from amr_pipeline.verdicts.verifier import Cause
from amr_pipeline_tests.verdicts.cases import case, judge_saying

JUDGE = JudgeModel(scorer=Scorer(model="m", revision="r", max_model_len=9), prompt="micro_science")


def question(answer: str) -> Question:
    return Question(case=case(Category.SCIENCE, answer, reference="Sr"), answer=answer)


def test_placeholders_inside_an_answer_stay_text():
    text = judge_prompt("R {reference} A {answer}", question("{reference} {question}"))
    assert text == "R Sr A {reference} {question}"


def test_replies_outside_the_grammar_are_undecided():
    assert [reply for _, reply in ask(JUDGE, judge_saying("5, obviously"), [question("x")], "[0-5]")] == [
        Cause.JUDGE_UNPARSED
    ]
    assert [reply for _, reply in ask(JUDGE, judge_saying(" 5 "), [question("x")], "[0-5]")] == ["5"]
    assert [reply for _, reply in ask(JUDGE, judge_saying(None), [question("x")], "[0-5]")] == [Cause.JUDGE_UNAVAILABLE]
    assert [reply for _, reply in ask(JUDGE, None, [question("x")], "[0-5]")] == [Cause.JUDGE_UNAVAILABLE]


def test_a_judge_that_stops_early_leaves_cases_undecided():
    assert [reply for _, reply in ask(JUDGE, lambda requests: iter(()), [question("x")], "[0-5]")] == [Cause.CRASHED]
