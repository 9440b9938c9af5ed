import json
from pathlib import Path

import pytest

from amr_pipeline.categories import Category
from amr_pipeline.engines.answer_checkers import AnswerCheckers
from amr_pipeline.studies.study import MathVerifier
from amr_pipeline.verdicts.math_answers import MathAnswers
from amr_pipeline.verdicts.verifier import Case
from amr_pipeline_tests.golden.answer_disagreements import CONFLICT, EXPLAINED

VALUE = {"passed": True, "failed": False, "undecided": None}


@pytest.fixture(scope="module")
def cases(real_data: Path) -> list[dict]:
    lines = (real_data / "answer_equivalence" / "cases_dev.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def verdicts(cases: list[dict]) -> dict[str, bool | None]:
    asked = [
        Case(
            response_id=one["id"],
            category=Category.MATH,
            messages=(("user", "?"),),
            text=one["prediction"],
            finish_reason="stop",
            reference=one["gold"],
        )
        for one in cases
    ]
    checkers = AnswerCheckers()
    try:
        judged = list(MathAnswers(MathVerifier(deadline_seconds=60.0), lambda: checkers).judge(asked))
    finally:
        checkers.close()
    return {one.response_id: VALUE[one.outcome] for one in judged}


@pytest.fixture(scope="module")
def plain_math_verify(cases: list[dict]) -> dict[str, bool]:
    from math_verify import parse, verify

    return {
        one["id"]: bool(verify(parse(one["gold"], parsing_timeout=None), parse(one["prediction"], parsing_timeout=None), timeout_seconds=None))
        for one in cases
    }  # fmt: skip


@pytest.mark.real_data
def test_every_difference_is_explained(cases: list[dict], verdicts: dict[str, bool | None]):
    differ = {one["id"] for one in cases if verdicts[one["id"]] != one["expected"]}
    assert sorted(differ - set(EXPLAINED)) == []
    marked = {one["id"] for one in cases if "CONFLICT" in (one["note"] or "")}
    assert sorted(set(EXPLAINED) - differ - marked) == [], "explained, and no longer different"


@pytest.mark.real_data
def test_more_is_right_than_math_verify_says_plainly(
    cases: list[dict], verdicts: dict[str, bool | None], plain_math_verify: dict[str, bool]
):
    mine = sum(verdicts[one["id"]] == one["expected"] for one in cases)
    its = sum(plain_math_verify[one["id"]] == one["expected"] for one in cases)
    print(f"of {len(cases)} cases: {mine} right, Math-Verify {its}")
    assert mine > its


@pytest.mark.real_data
def test_nothing_wrong_passes_that_math_verify_rejects(
    cases: list[dict], verdicts: dict[str, bool | None], plain_math_verify: dict[str, bool]
):
    wrong = {
        one["id"] for one in cases if not one["expected"] and verdicts[one["id"]] and not plain_math_verify[one["id"]]
    }
    assert sorted(wrong - {name for name, why in EXPLAINED.items() if why == CONFLICT}) == []
