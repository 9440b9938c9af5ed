import ast
from dataclasses import fields, replace
from pathlib import Path

import pytest

import amr_pipeline
from amr_pipeline.studies.study import (
    CodeVerifier,
    ConversationVerifier,
    InstructionVerifier,
    Isolation,
    JudgeModel,
    MathVerifier,
    ScienceVerifier,
    Scorer,
    SymbolicMathVerifier,
    VerifierRow,
)
from amr_pipeline.verdicts import registry
from amr_pipeline.verdicts.registry import build_verifier, verifier_fingerprint
from amr_pipeline_tests.verdicts.cases import comparer

PACKAGE = Path(amr_pipeline.__file__).parent
ROWS = (
    MathVerifier(),
    SymbolicMathVerifier(),
    CodeVerifier(),
    ScienceVerifier(),
    InstructionVerifier(),
    ConversationVerifier(),
)
JUDGE = JudgeModel(scorer=Scorer(model="m", revision="r", max_model_len=9), prompt="deepdistill_math")
OTHER_VALUES = {
    "name": "other", "relative_tolerance": 0.5, "deadline_seconds": 1.5, "answer_patterns": ("A: (.*)",), "judge": JUDGE,
    "num_tests": None, "cpu_seconds": 9.0, "memory_mebibytes": 64, "rule_before_judge": False, "reading": "loose",
    "heads": ("correctness",), "reward_model": JUDGE.scorer,
}  # fmt: skip


def test_every_row_has_a_verifier_and_a_fingerprint_of_its_own():
    for row in ROWS:
        made = build_verifier(row, compare_answers=comparer(True), run_programs=lambda: iter, ask_judge=None)
        assert made.name == row.name
    assert len({verifier_fingerprint(row) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (row, field.name)
        for row in ROWS
        for field in fields(row)
        if field.name != "category" and field.metadata.get("identity", True)
    ],
)
def test_every_field_is_part_of_the_fingerprint(row: VerifierRow, field: str):
    changed = replace(row, **{field: OTHER_VALUES[field]})
    assert verifier_fingerprint(changed) != verifier_fingerprint(row)
    assert verifier_fingerprint(replace(changed, **{field: getattr(row, field)})) == verifier_fingerprint(row)


def test_what_a_machine_must_offer_is_no_part_of_the_fingerprint():
    strict = CodeVerifier(weakest_isolation=Isolation.BUBBLEWRAP_SECCOMP_CGROUP)
    assert verifier_fingerprint(strict) == verifier_fingerprint(CodeVerifier())


def test_a_judges_row_and_the_text_of_its_prompt_count(monkeypatch: pytest.MonkeyPatch):
    row = MathVerifier(judge=JUDGE)
    before = verifier_fingerprint(row)
    assert verifier_fingerprint(MathVerifier(judge=replace(JUDGE, prompt="deepdistill_science"))) != before
    monkeypatch.setattr(registry, "prompt_text", lambda name: "another wording")
    assert registry.verifier_fingerprint.__wrapped__(row) != before


def changed_by(name: str, rows: tuple[VerifierRow, ...], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the rows whose fingerprint changes with the text of a file of the package."""
    before = [verifier_fingerprint(row) for row in rows]
    digest = registry.files_digest

    def altered(paths: list[Path]) -> str:
        return digest(paths) + ("altered" if PACKAGE / name in paths else "")

    monkeypatch.setattr(registry, "files_digest", altered)
    after = [registry.verifier_fingerprint.__wrapped__(row) for row in rows]
    return {row.name for row, old, new in zip(rows, before, after, strict=True) if old != new}


@pytest.mark.parametrize(
    ("name", "graded_again"),
    [
        ("verdicts/code_tests.py", {"code_tests"}),
        ("engines/sandbox_driver.py", {"code_tests"}),
        ("verdicts/constraint_rules.py", {"instruction_constraints"}),
        ("verdicts/conversation_reward.py", {"conversation_reward"}),
        ("verdicts/science_similarity.py", {"science_similarity"}),
        ("engines/answer_checker_worker.py", {"math_answers", "symbolic_answers"}),
        ("verdicts/symbolic_answers.py", {"symbolic_answers"}),
        ("verdicts/typed_answers.py", {"math_answers", "science_similarity"}),
        ("verdicts/math_answers.py", {"math_answers"}),
        ("verdicts/expressions.py", {"math_answers", "science_similarity"}),
        ("verdicts/finished_answer.py", {row.name for row in ROWS}),
        ("responses/parsing.py", {row.name for row in ROWS}),
        ("categories.py", {row.name for row in ROWS}),
        ("verdicts/verifier.py", {row.name for row in ROWS}),
        ("verdicts/judging.py", set()),
        ("verdicts/ledger.py", set()),
    ],
)
def test_changed_code_grades_again_what_it_decides_and_nothing_else(
    name: str, graded_again: set[str], monkeypatch: pytest.MonkeyPatch
):
    assert changed_by(name, ROWS, monkeypatch) == graded_again


def test_how_a_judge_is_asked_counts_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    judged = (*ROWS, replace(MathVerifier(), name="judged", judge=JUDGE))
    assert changed_by("verdicts/judging.py", judged, monkeypatch) == {"judged"}


DECIDE_OTHERWISE = {
    "studies/study.py": "rows are fingerprinted by their values",
    "fingerprint.py": "its outcomes are pinned by tests, and every verdict would be owed with them",
}


@pytest.mark.parametrize("kind", registry._DECIDED_BY, ids=lambda kind: kind.__name__)
def test_what_a_verifier_imports_is_listed_with_it(kind: type):
    judged = registry._DECIDES_WITH_A_JUDGE  # counted where the row names a judge, so it may be imported by all
    listed = {*registry._DECIDED_BY[kind], *registry._SHARED_BY_ALL, *judged}
    for name in sorted(listed):
        for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("amr_pipeline."):
                module = (node.module or "").removeprefix("amr_pipeline.").replace(".", "/")
                files = {f"{module}.py", *(f"{module}/{alias.name}.py" for alias in node.names)}
                used = {file for file in files if (PACKAGE / file).exists()}
                assert used <= listed | DECIDE_OTHERWISE.keys(), f"{name} uses {used}"
