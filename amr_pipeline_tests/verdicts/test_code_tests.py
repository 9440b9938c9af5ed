import json
from collections.abc import Iterable, Iterator

import pytest

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import CodeVerifier
from amr_pipeline.verdicts.code_tests import (
    CodeTestsVerifier,
    UnusableTestsError,
    extract_program,
    parse_tests,
    same_value,
    untagged,
)
from amr_pipeline.verdicts.verifier import Cause, ProgramResult, ProgramRun
from amr_pipeline_tests.verdicts.cases import case

ASSERTS = json.dumps(
    {"call_type": "assert", "fn_name": "f", "assert_case": ["assert f(1) == 2", "assert f([1, 2]) == (3,)"]}
)
PROGRAM = "```python\ndef f(x): return x + 1\n```"


def sandbox(result: ProgramResult | None, seen: list[ProgramRun] | None = None):
    def run(runs: Iterable[ProgramRun]) -> Iterator[ProgramResult]:
        for one in runs:
            if seen is not None:
                seen.append(one)
            assert result is not None
            yield ProgramResult(run_id=one.run_id, answers=result.answers, failures=result.failures, cause=result.cause)

    return lambda: run


def verdict(
    answer: str,
    tests: str | None,
    result: ProgramResult | None = None,
    seen: list[ProgramRun] | None = None,
    **more: str,
):
    made = case(Category.CODE, answer, **({"test_cases": tests} if tests else {}), **more)
    (found,) = CodeTestsVerifier(CodeVerifier(), sandbox(result, seen)).judge([made])
    return found


def answers(*values: str | None) -> ProgramResult:
    return ProgramResult(run_id="r", answers=values, failures=tuple(None if value else "exception" for value in values))


def test_share_of_tests_is_the_score_and_expected_values_stay_outside():
    seen: list[ProgramRun] = []
    found = verdict(PROGRAM, ASSERTS, answers("2", '{"t": "tuple", "v": [3]}'), seen)
    assert (found.verify_score, found.outcome) == (1.0, "passed")
    assert seen[0].calls == ("[1]", "[[1, 2]]")
    assert "3" not in "".join(seen[0].calls) + seen[0].source.replace("x + 1", "")
    assert verdict(PROGRAM, ASSERTS, answers("2", "[3]")).verify_score == 0.5
    assert verdict(PROGRAM, ASSERTS, answers("2", None)).verify_score == 0.5


def test_what_cannot_be_judged_is_undecided_and_what_is_missing_fails():
    assert verdict(PROGRAM, None).cause == "no_reference"
    assert verdict(PROGRAM, "not json").cause == "malformed"
    assert verdict("I do not know.", ASSERTS).stage == "no_answer"
    assert verdict(PROGRAM, ASSERTS, finish_reason="length").stage == "truncated"
    broken = ProgramResult(run_id="r", answers=(), failures=(), cause=Cause.SANDBOX_UNAVAILABLE)
    assert verdict(PROGRAM, ASSERTS, broken).cause == "sandbox_unavailable"


def test_other_asserts_become_a_program_with_proxies():
    tests = parse_tests(
        json.dumps({"call_type": "assert", "fn_name": "f", "assert_case": ["assert abs(f(1) - g(2)) < 1e-6"]}), 10
    )
    assert tests.names == ("f", "g")
    assert tests.program is not None
    check = parse_tests(
        json.dumps({"call_type": "program", "fn_name": "f", "program": "def check(c):\n    assert c(1) > 2"}), 10
    )
    assert check.program is not None
    assert check.program.endswith("check(f)\n")


def test_inputs_are_limited_and_malformed_tests_refused():
    std = {"call_type": "std", "inputs": ["1", "2", "3"], "outputs": ["1", "2", "3"], "language": "C++"}
    assert parse_tests(json.dumps(std), 2).inputs == ("1", "2")
    assert parse_tests(json.dumps(std), None).language == "cpp"
    for bad in (
        {},
        {"call_type": "std", "inputs": ["1"], "outputs": []},
        {"call_type": "assert", "assert_case": []},
        [1],
    ):
        with pytest.raises(UnusableTestsError):
            parse_tests(json.dumps(bad), 10)


@pytest.mark.parametrize(
    ("answer", "language", "found"),
    [
        ("```python\na = 1\n```\ntext\n```python\na = 2\n```", None, ("python", "a = 2")),
        ("```cpp\nint x;\n```\n```python\na = 2\n```", "cpp", ("cpp", "int x;")),
        ("```\na = 3\n```", "python", ("python", "a = 3")),
        ("def f(x):\n    return 1", None, ("python", "def f(x):\n    return 1")),
        ("just words", None, None),
        ("```json\n{}\n```", None, None),
    ],
)
def test_extraction(answer: str, language: str | None, found: tuple[str, str] | None):
    assert extract_program(answer, language) == found


def test_hostiletagged_values_equal_nothing():
    for value in (
        {"t": "opaque", "v": "int"},
        {"t": "int", "v": "f" * 5000},
        {"x": 1},
        {"t": "set", "v": [[1]]},
        {"t": "dict", "v": [1]},
    ):
        assert not same_value(untagged(value), 1, 1e-6)
    deep: object = 1
    for _ in range(100):
        deep = [deep]
    assert not same_value(untagged(deep), deep, 1e-6)


def test_an_integer_beyond_every_float_is_only_a_wrong_answer():
    tests = json.dumps({"call_type": "assert", "fn_name": "f", "assert_case": ["assert f(1) == 2.5"]})
    huge = json.dumps({"t": "int", "v": hex(10**400)})
    assert verdict(PROGRAM, tests, answers(huge)).outcome == "failed"
    assert verdict(PROGRAM, tests, answers('{"t": "float", "v": "2.5"}')).outcome == "passed"


def test_each_case_gets_the_verdict_of_its_own_run():
    def backwards(runs: Iterable[ProgramRun]) -> Iterator[ProgramResult]:
        for run in reversed(list(runs)):
            right = "right" in run.source
            yield ProgramResult(
                run_id=run.run_id, answers=("1",) if right else (None,), failures=(None,) if right else ("exception",)
            )

    tests = json.dumps({"call_type": "assert", "fn_name": "f", "assert_case": ["assert f() == 1"]})
    made = [
        case(Category.CODE, f"```python\n# {word}\n```", test_cases=tests, response_id=word)
        for word in ("right", "no", "also right")
    ] + [case(Category.CODE, "words", test_cases=tests, response_id="words")]
    found = CodeTestsVerifier(CodeVerifier(), lambda: backwards).judge(made)
    assert {one.response_id: one.verify_score for one in found} == {
        "right": 1.0,
        "no": 0.0,
        "also right": 1.0,
        "words": 0.0,
    }


@pytest.mark.parametrize(
    ("statements", "form"),
    [
        (["assert f(1) == 2"], ("f", ("[1]",), (2,))),
        (["assert 2 == f(1)"], ("f", ("[1]",), (2,))),
        (["assert f() == -1", "assert f('a', None) == [True]"], ("f", ("[]", '["a", null]'), (-1, [True]))),
        (["assert f(x=1) == 2"], None),
        (["assert f(1) == 2", "assert g(1) == 2"], None),
        (["assert f(1) != 2"], None),
        (["assert f(1)"], None),
        (["assert o.f(1) == 2"], None),
        (["assert f(1) == g(2)"], None),
        (["x = 1\nassert f(x) == 2"], None),
    ],
)  # fmt: skip
def test_only_calls_with_literals_are_taken_apart(statements: list[str], form: tuple | None):
    tests = parse_tests(json.dumps({"call_type": "assert", "fn_name": "f", "assert_case": statements}), 10)
    found = None if tests.program is not None else (tests.entry_point, tests.calls, tests.expected)
    assert found == form
    if form is None:
        assert tests.program == "\n".join(statements)


def test_names_a_test_program_brings_along_are_not_the_solutions():
    program = "import math\nfrom os import path as p\nlimit = 3\ndef near(a, b): return abs(a - b) < limit\ntry:\n    assert near(f(1), math.pi)\nexcept ValueError as error:\n    print(error, p, h)\n"
    tests = parse_tests(json.dumps({"call_type": "program", "fn_name": "f", "program": program}), 10)
    assert tests.names == ("f", "h")
    assert tests.program == program


def test_lines_of_a_list_are_joined_and_the_limit_counts_from_the_first():
    std = {"call_type": "std", "inputs": [["1", "2"], "3"], "outputs": [["a", "b"], 4]}
    assert parse_tests(json.dumps(std), 10).inputs == ("1\n2", "3")
    assert parse_tests(json.dumps(std), 10).expected == ("a\nb", "4")
    asserts = {"call_type": "assert", "fn_name": "f", "assert_case": [f"assert f({i}) == {i}" for i in range(20)]}
    assert parse_tests(json.dumps(asserts), 10).expected == tuple(range(10))
