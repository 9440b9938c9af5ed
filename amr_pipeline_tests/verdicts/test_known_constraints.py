from dataclasses import replace

import pytest

from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.categories import Category
from amr_pipeline.sources import generated
from amr_pipeline.studies.deepdistill import STUDY as DEEPDISTILL
from amr_pipeline.studies.micro import STUDY as MICRO
from amr_pipeline.studies.study import InstructionVerifier, StudyError
from amr_pipeline.verdicts import known_constraints
from amr_pipeline.verdicts.known_constraints import require_known_constraints
from amr_pipeline_tests.studies.small import BENCHMARK, SOURCE, small_study


def test_shipped_studies_ask_for_nothing_unknown():
    for study in (MICRO, DEEPDISTILL):
        assert require_known_constraints(study) is study


def test_a_declared_constraint_without_a_rule_fails_the_study_by_name():
    verifiers = (InstructionVerifier(),)
    source = replace(SOURCE, constraint_ids_used=("punctuation:no_comma", "en:startend:quotation", "made:up"))
    with pytest.raises(StudyError, match="source 'numbers' asks for made:up, for which there is no rule"):
        require_known_constraints(small_study(sources=(source,), verifiers=verifiers))
    benchmark = replace(BENCHMARK, constraint_ids_used=("other:one",))
    with pytest.raises(StudyError, match="benchmark 'exam' asks for other:one"):
        assemble(deployment_from_environment({}), small_study(benchmarks=(benchmark,), verifiers=verifiers))
    assert require_known_constraints(small_study(sources=(source,))), "no instruction verifier, nothing to fail"


def test_a_generated_constraint_without_a_rule_fails_the_study_by_name(monkeypatch: pytest.MonkeyPatch):
    really = generated.PROBLEMS[Category.INSTRUCTION_FOLLOWING]

    def with_a_strange_wish(draw):
        problem = really(draw)
        return replace(problem, constraints=problem.constraints.replace("startend:quotation", "startend:whisper"))

    monkeypatch.setitem(generated.PROBLEMS, Category.INSTRUCTION_FOLLOWING, with_a_strange_wish)
    known_constraints._generated.cache_clear()
    try:
        with pytest.raises(StudyError, match="'instruction_following' asks for startend:whisper"):
            require_known_constraints(MICRO)
        others = tuple(row for row in MICRO.sources if row.category is not Category.INSTRUCTION_FOLLOWING)
        with pytest.raises(StudyError, match="benchmark 'held_out' asks for startend:whisper"):
            require_known_constraints(replace(MICRO, sources=others))
    finally:
        known_constraints._generated.cache_clear()
