import ast
import json
import random

import pytest

from amr_pipeline.categories import Category
from amr_pipeline.sources import generated
from amr_pipeline.verdicts.instruction_constraints import follows


def some(split: str, category: Category, count: int = 60) -> list[generated.Problem]:
    return list(generated.problems(split, category, count, 3))


@pytest.mark.parametrize("category", list(Category))
def test_splits_never_share_a_problem(category: Category):
    queries = {problem.identity for problem in some("queries", category)}
    benchmark = {problem.identity for problem in some("benchmark", category, 40)}
    draw = random.Random(1)
    trained = {generated.training_problem(category, draw).identity for _ in range(300)}
    assert not queries & benchmark
    if category is not Category.SCIENCE:  # closed-book facts must have been read
        assert not queries & trained
        assert not benchmark & trained


def test_math_references_are_right():
    for problem in some("queries", Category.MATH):
        expression = problem.identity.removeprefix("math ")
        tree = ast.parse(expression, mode="eval")
        assert str(eval(compile(tree, "e", "eval"), {"__builtins__": {}})) == problem.reference


def test_code_solutions_pass_their_own_tests():
    for problem in some("queries", Category.CODE):
        space: dict[str, object] = {}
        exec(problem.answer.strip().removeprefix("```python").removesuffix("```"), space)
        for statement in json.loads(problem.test_cases or "")["assert_case"]:
            exec(statement, space)


def test_instruction_answers_follow_their_constraints_and_damaged_ones_do_not():
    broken = 0
    for problem in some("queries", Category.INSTRUCTION_FOLLOWING):
        constraints = json.loads(problem.constraints or "")
        assert all(follows(problem.answer, item["id"], item["kwargs"], "strict") for item in constraints)
        broken += any(not follows("x, y", item["id"], item["kwargs"], "strict") for item in constraints)
    assert broken == 60


def test_judgements_have_the_truth_of_their_answers():
    draw = random.Random(5)
    for _ in range(200):
        judgement = generated.judgement(draw)
        right = judgement.answer == judgement.reference
        assert (judgement.truth in ("5", "4 4 4")) == right
