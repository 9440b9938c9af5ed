"""Code: the share of test cases that a program passes, compared outside the sandbox.

Simple asserts become calls whose expected value stays here; any other test text runs in a box of its own where the
solution's functions are proxies. The sandbox only ever says what an answer is.

Source: DeepDistill 2.4.1, Eq. 2 (first 10 tests, Python and C++; limits are ours).
"""

import ast
import builtins
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from amr_pipeline.studies.study import CodeVerifier
from amr_pipeline.verdicts.finished_answer import finished_answer
from amr_pipeline.verdicts.program_values import same_output, same_value, tagged, untagged
from amr_pipeline.verdicts.verifier import (
    Case,
    Cause,
    ProgramResult,
    ProgramRun,
    RunPrograms,
    Verdict,
    decided,
    undecided,
)

_FENCE = re.compile(r"```[ \t]*([A-Za-z+#0-9]*)[^\n]*\n(.*?)(?:\n```|```|\Z)", re.DOTALL)
_CPP_NAMES = frozenset({"cpp", "c++", "cc", "cxx"})
_LANGUAGES = {"python": "python", "py": "python", "python3": "python", "": "python", **dict.fromkeys(_CPP_NAMES, "cpp")}


class UnusableTestsError(ValueError):
    """Test cases that cannot be run; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeTests:
    """Parsed test cases of one query.

    Attributes:
        expected: per call or input, the value or output that is right.
        is_one_test: the calls are a whole test program's; it passes when all answers equal what it says, by `==`.
        program: test text that runs apart, when the tests are not simple calls; then `names` are its proxies.
    """

    language: str | None
    entry_point: str | None = None
    calls: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    expected: tuple[object, ...] = ()
    is_one_test: bool = False
    program: str | None = None
    names: tuple[str, ...] = ()


def parse_tests(test_cases: str, num_tests: int | None) -> CodeTests:
    """Tests from their JSON text; the first `num_tests`, or all for None.

    Raises:
        UnusableTestsError: the text is not one of the forms of the data dictionary.
    """
    try:
        tests = json.loads(test_cases)
    except (ValueError, RecursionError) as error:
        raise UnusableTestsError(f"test cases are not JSON: {error}") from error
    if not isinstance(tests, dict):
        raise UnusableTestsError("test cases are not a record")
    language = _language(tests.get("language"))
    kind = tests.get("call_type")
    if kind == "std":
        return _input_tests(tests, language, num_tests)
    if kind == "assert":
        return _assert_tests(tests, num_tests)
    if kind == "program" and isinstance(tests.get("program"), str) and isinstance(tests.get("fn_name"), str):
        return _program_tests(tests["program"], tests["fn_name"])
    raise UnusableTestsError(f"call_type {kind!r} with these fields is not assert, std or program")


def _language(name: object) -> str | None:
    return None if name is None else _LANGUAGES.get(str(name).lower())


def _input_tests(tests: dict[str, object], language: str | None, num_tests: int | None) -> CodeTests:
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
        raise UnusableTestsError("std tests need inputs and outputs of equal length")
    texts = ["\n".join(map(str, item)) if isinstance(item, list) else str(item) for item in inputs]
    wanted = ["\n".join(map(str, item)) if isinstance(item, list) else str(item) for item in outputs]
    return CodeTests(language=language, inputs=tuple(texts[:num_tests]), expected=tuple(wanted[:num_tests]))


def _assert_tests(tests: dict[str, object], num_tests: int | None) -> CodeTests:
    cases = tests.get("assert_case")
    if not isinstance(cases, list) or not cases or not all(isinstance(case, str) for case in cases):
        raise UnusableTestsError("assert tests need a list of statements in assert_case")
    chosen = cases[:num_tests]
    simple = [_simple_call(case) for case in chosen]
    names = {found[0] for found in simple if found}
    if all(simple) and len(names) == 1:
        return CodeTests(
            language="python",
            entry_point=names.pop(),
            calls=tuple(found[1] for found in simple if found),
            expected=tuple(found[2] for found in simple if found),
        )
    return _program_tests("\n".join(chosen), str(tests.get("fn_name") or ""))


def _simple_call(statement: str) -> tuple[str, str, object] | None:
    """As `_simple_comparison`, of a statement's text."""
    try:
        (node,) = ast.parse(statement.strip()).body
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return _simple_comparison(node)


def _simple_comparison(node: ast.stmt) -> tuple[str, str, object] | None:
    """(function, tagged arguments as JSON, expected value) of `assert f(literals) == literal`, else None."""
    try:
        assert isinstance(node, ast.Assert)
        assert isinstance(node.test, ast.Compare)
        assert len(node.test.ops) == 1
        assert isinstance(node.test.ops[0], ast.Eq)
        made, expected = node.test.left, node.test.comparators[0]
        if not isinstance(made, ast.Call):
            made, expected = expected, made
        assert isinstance(made, ast.Call)
        assert isinstance(made.func, ast.Name)
        assert not made.keywords
        arguments = [ast.literal_eval(argument) for argument in made.args]
        return made.func.id, json.dumps([tagged(argument) for argument in arguments]), ast.literal_eval(expected)
    except (AssertionError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _program_tests(program: str, entry_point: str) -> CodeTests:
    """A test program; names it uses but neither defines nor imports are the solution's functions."""
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableTestsError(f"the test program does not parse: {error}") from error
    literal = _literal_checks(tree, entry_point)
    if literal:
        calls, expected = zip(*literal, strict=True)
        return CodeTests(language="python", entry_point=entry_point, calls=calls, expected=expected, is_one_test=True)
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    bound |= {
        alias.asname or alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names = (used - bound - set(dir(builtins))) | ({entry_point} if entry_point else set())
    checks = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
    called = any(isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) for node in tree.body)
    if checks and not called and entry_point:
        program = f"{program}\ncheck({entry_point})\n"
    return CodeTests(language="python", entry_point=entry_point, program=program, names=tuple(sorted(names)))


def _literal_checks(tree: ast.Module, entry_point: str) -> list[tuple[str, object]] | None:
    """(tagged arguments, expected value) of each check, where a program does nothing but compare calls with literals.

    Such a program needs no box of its own: the comparisons are made outside. None for every other program.
    """
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if [node.name for node in functions] != ["check"] or not entry_point:
        return None
    (check,) = functions
    name = check.args.args[0].arg if check.args.args else ""
    if ast.unparse(check.args) != name:  # exactly one parameter, without annotation or default
        return None
    rest = [node for node in tree.body if node is not check]
    if not all(_is_idle(node) or _calls_check(node, entry_point) for node in rest) or check.decorator_list:
        return None
    found: list[tuple[str, object]] = []
    for statement in check.body:
        if _is_idle(statement):
            continue
        simple = _simple_comparison(statement)
        if simple is None or simple[0] != name:
            return None
        found.append(simple[1:])
    return found


def _is_idle(statement: ast.stmt) -> bool:
    """Whether a statement changes nothing a check could see: a text, `pass`, `assert True`, metadata."""
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.Assert(test=ast.Constant(value=True)):
            return True
        case ast.Assign(targets=[ast.Name(id="METADATA")], value=ast.Dict()):
            return True
    return False


def _calls_check(statement: ast.stmt, entry_point: str) -> bool:
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name(id="check"), args=[ast.Name(id=name)], keywords=[])):
            return name == entry_point
    return False


def extract_program(answer: str, language: str | None) -> tuple[str, str] | None:
    """(language, text) of the last fenced block in the answer that fits the tests, or None.

    An answer without a fence counts as a program when it parses as Python with a definition or statement in it.
    """
    blocks = [(_LANGUAGES.get(name.lower()), text) for name, text in _FENCE.findall(answer)]
    fitting = [(name, text) for name, text in blocks if name is not None and (language is None or name == language)]
    if fitting:
        return fitting[-1][0] or "python", fitting[-1][1]
    if blocks or language == "cpp":
        return None
    try:
        tree = ast.parse(answer)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    is_program = any(
        isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Assign | ast.For)
        for node in tree.body
    )
    return ("python", answer) if is_program else None


class CodeTestsVerifier:
    """Judges code responses by their tests."""

    def __init__(self, row: CodeVerifier, run_programs: Callable[[], RunPrograms]) -> None:
        self.name = row.name
        self._row, self._run_programs = row, run_programs

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """One verdict per case; programs run side by side."""
        waiting: dict[str, tuple[Case, CodeTests]] = {}
        runs: list[ProgramRun] = []
        known: list[Verdict] = []
        for case in cases:
            prepared = self._prepare(case)
            if isinstance(prepared, Verdict):
                known.append(prepared)
            else:
                runs.append(prepared[0])
                waiting[case.response_id] = (case, prepared[1])
        # Programs first: a machine that isolates too little is refused before there is any verdict.
        if runs:
            for result in self._run_programs()(runs):
                yield self._verdict(*waiting.pop(result.run_id), result)
        yield from known

    def _prepare(self, case: Case) -> Verdict | tuple[ProgramRun, CodeTests]:
        if case.test_cases is None:
            return undecided(case, Cause.NO_REFERENCE, stage="tests", evidence="the query has no test cases")
        try:
            tests = parse_tests(case.test_cases, self._row.num_tests)
        except UnusableTestsError as error:
            return undecided(case, Cause.MALFORMED, stage="tests", evidence=str(error))
        answer = finished_answer(case)
        if isinstance(answer, Verdict):
            return answer
        found = extract_program(answer, tests.language)
        if found is None:
            return decided(case, 0.0, stage="no_answer", evidence="no program in the answer")
        run = ProgramRun(
            run_id=case.response_id,
            source=found[1],
            language=found[0],
            entry_point=tests.entry_point,
            calls=tests.calls,
            inputs=tests.inputs,
            in_one_process=tests.is_one_test,
            test_program=tests.program,
            proxied_names=tests.names,
            cpu_seconds=self._row.cpu_seconds,
            memory_mebibytes=self._row.memory_mebibytes,
            weakest_isolation=self._row.weakest_isolation,
        )
        return run, tests

    def _verdict(self, case: Case, tests: CodeTests, result: ProgramResult) -> Verdict:
        if result.cause is not None:
            return undecided(case, result.cause, stage="sandbox", evidence=f"isolation {result.strength}")
        if tests.program is not None:
            right = [answer == "passed" for answer in result.answers]
        else:
            right = [
                answer is not None and self._equal(answer, expected, tests)
                for answer, expected in zip(result.answers, tests.expected, strict=True)
            ]
        reasons = [failure or "wrong answer" for failure, ok in zip(result.failures, right, strict=True) if not ok]
        if tests.is_one_test:
            right, reasons = [all(right)], reasons[:1]
        evidence = {"passed": sum(right), "run": len(right), "failures": reasons[:5], "isolation": result.strength}
        return decided(case, sum(right) / len(right), stage="sandbox", evidence=json.dumps(evidence))

    def _equal(self, answer: str, expected: object, tests: CodeTests) -> bool:
        if tests.inputs:
            return same_output(answer, str(expected), self._row.relative_tolerance)
        value = untagged(json.loads(answer))
        # Of exact builtin types, so `==` is Python's own and means what it means in a test program.
        return value == expected if tests.is_one_test else same_value(value, expected, self._row.relative_tolerance)
