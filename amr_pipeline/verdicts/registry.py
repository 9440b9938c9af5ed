"""Which verifier belongs to which row, and what identifies it. The whole registry: one line per row type."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from amr_pipeline.fingerprint import files_digest, fingerprint
from amr_pipeline.studies.study import (
    CodeVerifier,
    ConversationVerifier,
    InstructionVerifier,
    MathVerifier,
    ScienceVerifier,
    SymbolicMathVerifier,
    VerifierRow,
)
from amr_pipeline.verdicts.code_tests import CodeTestsVerifier
from amr_pipeline.verdicts.conversation_reward import ConversationReward
from amr_pipeline.verdicts.instruction_constraints import InstructionConstraints
from amr_pipeline.verdicts.judging import prompt_text
from amr_pipeline.verdicts.math_answers import MathAnswers
from amr_pipeline.verdicts.science_similarity import ScienceSimilarity
from amr_pipeline.verdicts.symbolic_answers import SymbolicAnswers
from amr_pipeline.verdicts.verifier import AskJudge, CompareAnswers, RateReplies, RunPrograms, Verifier

_PACKAGE = Path(__file__).parent.parent

_TYPED = tuple(
    f"verdicts/{name}.py"
    for name in (
        "answer_extraction",
        "answer_forms",
        "answer_reading",
        "answer_regions",
        "numerals",
        "answer_text",
        "expression_values",
        "expressions",
        "quantities",
        "typed_answers",
    )
)
_DECIDED_BY: dict[type, tuple[str, ...]] = {
    MathVerifier: (
        "verdicts/math_answers.py",
        "verdicts/algebra_limits.py",
        *_TYPED,
        "engines/answer_checker_worker.py",
    ),
    SymbolicMathVerifier: (
        "verdicts/symbolic_answers.py",
        "verdicts/algebra_limits.py",
        "verdicts/answer_extraction.py",
        "verdicts/answer_text.py",
        "engines/answer_checker_worker.py",
    ),
    CodeVerifier: (
        "verdicts/code_tests.py",
        "verdicts/program_values.py",
        "engines/cgroups.py",
        "engines/isolation.py",
        "engines/seccomp_filter.py",
        "engines/compiled_programs.py",
        "engines/machine_load.py",
        "engines/sandbox_boxes.py",
        "engines/sandbox_children.py",
        "engines/sandbox_driver.py",
        "engines/sandbox_frames.py",
        "engines/sandbox_nursery.py",
    ),
    ScienceVerifier: ("verdicts/science_similarity.py", *_TYPED),
    InstructionVerifier: (
        "verdicts/instruction_constraints.py",
        "verdicts/constraint_rules.py",
        "verdicts/extra_constraint_rules.py",
    ),
    ConversationVerifier: ("verdicts/conversation_reward.py",),
}
"""Files whose text decides a category's verdicts; a change in one re-grades that category and no other."""

_SHARED_BY_ALL = ("responses/parsing.py", "verdicts/finished_answer.py", "verdicts/verifier.py", "categories.py")
_DECIDES_WITH_A_JUDGE = ("verdicts/judging.py", "queries/identity.py")


@cache
def verifier_fingerprint(row: VerifierRow) -> str:
    """Identity of a verifier: its row, its judge's prompt, and the text of the code that decides."""
    judge = getattr(row, "judge", None)
    names = (*_DECIDED_BY[type(row)], *_SHARED_BY_ALL, *(_DECIDES_WITH_A_JUDGE if judge else ()))
    code = files_digest([_PACKAGE / name for name in names])
    return fingerprint(row, prompt_text(judge.prompt) if judge else None, code)


def build_verifier(
    row: VerifierRow,
    *,
    compare_answers: Callable[[], CompareAnswers],
    run_programs: Callable[[], RunPrograms],
    ask_judge: AskJudge | None,
    rate_replies: RateReplies | None = None,
) -> Verifier:
    """The verifier of a study row; engines are handed over unopened and opened when first needed."""
    if isinstance(row, MathVerifier):
        return MathAnswers(row, compare_answers, ask_judge)
    if isinstance(row, SymbolicMathVerifier):
        return SymbolicAnswers(row, compare_answers)
    if isinstance(row, CodeVerifier):
        return CodeTestsVerifier(row, run_programs)
    if isinstance(row, ScienceVerifier):
        return ScienceSimilarity(row, ask_judge)
    if isinstance(row, InstructionVerifier):
        return InstructionConstraints(row)
    return ConversationReward(row, ask_judge, rate_replies)
