import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from amr_pipeline.categories import Category
from amr_pipeline.engines import code_sandbox
from amr_pipeline.engines import isolation as making_of_boxes
from amr_pipeline.engines.code_sandbox import CodeSandbox, IsolationTooWeakError, breach_of, missing_parts
from amr_pipeline.engines.isolation import BoxFailureError, Nursery
from amr_pipeline.studies.study import CodeVerifier, Isolation
from amr_pipeline.verdicts.code_tests import CodeTestsVerifier
from amr_pipeline.verdicts.verifier import Case, Cause, ProgramRun
from amr_pipeline_tests.engines.boxes import OWNER, boxed_processes, groups_left, run, verdict, wait_for, ways

WAYS = list(ways())
pytestmark = pytest.mark.skipif(not WAYS, reason="no way to make boxes works on this machine")
every_way = pytest.mark.parametrize("isolation", WAYS)
SOAK = os.environ.get("AMR_SOAK") == "1"


@every_way
def test_calls_and_streams_give_their_answers(isolation: str):
    made = run("def f(x): return (x, [x])", "[1]", "[2]", isolation=isolation)
    assert made.answers == ('{"t": "tuple", "v": [1, [1]]}', '{"t": "tuple", "v": [2, [2]]}')
    assert made.strength == isolation
    assert run("print(sum(map(int, input().split())))", inputs=("1 2", "3 4"), isolation=isolation).answers == (
        "3\n",
        "7\n",
    )


@every_way
def test_cpp_is_compiled_in_a_box(isolation: str, monkeypatch: pytest.MonkeyPatch):
    source = f"#include <iostream>\nint main(){{int a;std::cin>>a;std::cout<<a*2;}} // {isolation}"
    assert run(source, inputs=("21", "4"), language="cpp", isolation=isolation).answers == ("42", "8")
    broken = run("int main({", inputs=("1",), language="cpp", isolation=isolation)
    assert broken.failures == ("compile_error",)
    secret = run('#include "/etc/shadow"\nint main(){}', inputs=("1",), language="cpp", isolation=isolation)
    assert secret.failures == ("compile_error",)
    # The same source again: no box compiles, since the compiler is not even asked for.
    monkeypatch.setattr("amr_pipeline.engines.sandbox_boxes.COMMAND", ("/nonexistent",))
    assert run(source, inputs=("5",), language="cpp", isolation=isolation).answers == ("10",)


@every_way
@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("raise ValueError", "exception"),
        ("return 'a' * 200_000", "output_limit"),
        ("import ctypes; ctypes.string_at(0)", "crashed"),
        ("import os; os.kill(os.getpid(), 9)", "crashed"),
        ("import sys; sys.exit(0)", "exception"),
        ("raise SystemExit", "exception"),
        ("import os; os._exit(0)", "exception"),
    ],
)
def test_failures_have_names_and_the_next_test_still_runs(isolation: str, body: str, failure: str):
    result = run(f"def f(x):\n if x == 2: return 'fine'\n {body}", "[1]", "[2]", isolation=isolation)
    assert result.failures == (failure, None)
    assert result.answers[1] == '"fine"'


@every_way
def test_test_programs_see_only_proxies(isolation: str):
    program = "def check(c):\n    for x in range(3):\n        assert c(x) == (x + 1,)\ncheck(f)"
    right = run("def f(x): return (x + 1,)", test_program=program, proxied_names=("f",), isolation=isolation)
    assert right.answers == ("passed",)
    assert run("def f(x): return [x + 1]", test_program=program, proxied_names=("f",), isolation=isolation).answers == (
        None,
    )
    slow = run("def f(x):\n while True: pass", test_program=program, proxied_names=("f",), isolation=isolation)
    assert slow.failures == ("time_limit",)
    raises = run("def f(x): raise ValueError", test_program=program, proxied_names=("f",), isolation=isolation)
    assert raises.failures == ("NoAnswer: the candidate gave no answer",)


def test_a_test_program_at_fault_is_nobodys_wrong_answer():
    endless = run("def f(x): return 1", test_program="f(1)\nwhile True: pass", proxied_names=("f",))
    assert endless.cause == Cause.TOO_COMPLEX


def test_calls_in_one_process_see_each_other_and_end_with_the_first_failure():
    source = "seen = []\ndef f(x):\n seen.append(x)\n if x == 3: raise ValueError\n return len(seen)"
    result = run(source, "[1]", "[2]", "[3]", "[4]", in_one_process=True)
    assert result.answers == ("1", "2", None, None)
    assert run(source, "[1]", "[2]").answers == ("1", "1")


def test_verdicts_of_programs_repeat():
    order = "def f(x): return list({'a', 'b', 'c', 'd', 'e', x})"
    assert len({run(order, '["z"]').answers for _ in range(4)}) == 1


# ------------------------------------------------------------------------------------------------ what a study demands


def test_the_self_test_names_what_a_weaker_way_lets_through(monkeypatch: pytest.MonkeyPatch):
    means = ways()[WAYS[0]]
    monkeypatch.setattr(code_sandbox, "_probe", lambda *a, **k: '["network"]')
    assert "network" in (breach_of(means) or "")


@pytest.mark.skipif("bubblewrap+rlimits" not in WAYS, reason="needs bubblewrap")
def test_a_machine_that_isolates_too_little_is_refused_before_any_verdict():
    weak = CodeSandbox(slots=1, means=ways()["bubblewrap+rlimits"])
    row = CodeVerifier(weakest_isolation=Isolation.BUBBLEWRAP_SECCOMP)
    tests = json.dumps({"call_type": "assert", "fn_name": "f", "assert_case": ["assert f(1) == 1"]})
    cases = [
        Case(response_id=name, category=Category.CODE, messages=(("user", "?"),), text=text, finish_reason="stop", test_cases=tests)
        for name, text in (("none", "words"), ("some", "```python\ndef f(x): return x\n```"))
    ]  # fmt: skip
    with pytest.raises(
        IsolationTooWeakError, match=r"bubblewrap\+rlimits; the study asks for at least bubblewrap\+seccomp"
    ):
        next(iter(CodeTestsVerifier(row, lambda: weak).judge(cases)))
    accepts = CodeVerifier(weakest_isolation=Isolation.BUBBLEWRAP_RLIMITS)
    assert {one.outcome for one in CodeTestsVerifier(accepts, lambda: weak).judge(cases)} == {"passed", "failed"}


def test_the_strength_is_on_the_verdict():
    tests = {"call_type": "assert", "fn_name": "f", "assert_case": ["assert f(1) == 1"]}
    assert json.loads(verdict("def f(x): return x", tests).evidence)["isolation"] == WAYS[0]


def test_strengths_are_ordered():
    assert Isolation.BUBBLEWRAP_SECCOMP_CGROUP.suffices(Isolation.LANDLOCK_SECCOMP)
    assert not Isolation.BUBBLEWRAP_RLIMITS.suffices(Isolation.BUBBLEWRAP_SECCOMP)
    assert all(one.suffices(one) for one in Isolation)


# ------------------------------------------------------------------------------------------------------ when things fail


def test_a_machine_without_a_sandbox_is_undecided(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(code_sandbox, "established", lambda: (None, "bubblewrap is not installed"))
    made = ProgramRun(run_id="r", source="def f(x): return x", language="python", entry_point="f", calls=("[1]",))
    (result,) = CodeSandbox(slots=1)([made])
    assert result.cause == Cause.SANDBOX_UNAVAILABLE
    assert "bubblewrap is not installed" in (missing_parts() or "")


def test_launchers_that_fail_are_tried_again_and_never_a_wrong_answer(monkeypatch: pytest.MonkeyPatch):
    sandbox = CodeSandbox(slots=1, means=ways()[WAYS[0]])
    make, failures = Nursery.make_box, iter([True, True, False, *[True] * 9])

    def sometimes(self: Nursery, *arguments: object):
        if next(failures):
            raise BoxFailureError("no box")
        return make(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Nursery, "make_box", sometimes)
    made = ProgramRun(run_id="r", source="def f(x): return x", language="python", entry_point="f", calls=("[1]",))
    assert [result.answers for result in sandbox([made])] == [("1",)]
    assert [result.cause for result in sandbox([made])] == [Cause.SANDBOX_UNAVAILABLE]
    sandbox.close()


def test_a_nursery_killed_in_the_middle_flips_no_verdict():
    run("def f(x): return x", "[1]")  # the shared sandbox's own nurseries are not this test's to kill
    before = boxed_processes()
    sandbox = CodeSandbox(slots=1, means=ways()[WAYS[0]])
    source = "import time\ndef f(x):\n time.sleep(0.1)\n return x"
    runs = (
        ProgramRun(run_id=str(n), source=source, language="python", entry_point="f", calls=(f"[{n}]",))
        for n in range(12)
    )
    results = []
    for result in sandbox(runs):
        results.append(result)
        if len(results) in {2, 6}:
            for pid in boxed_processes() - before:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert all(result.answers == (result.run_id,) or result.cause == Cause.SANDBOX_UNAVAILABLE for result in results)
    assert sum(result.cause is None for result in results) >= 10
    sandbox.close()


JUDGE = """
from amr_pipeline.engines.code_sandbox import CodeSandbox
from amr_pipeline.verdicts.verifier import ProgramRun
from amr_pipeline_tests.engines.boxes import ways

sandbox = CodeSandbox(slots=1, means=next(iter(ways().values())))
for body in ("return 1", "while True: __import__('time').sleep(1)"):
    source = "def f(x):\\n " + body
    list(sandbox([ProgramRun(run_id="r", source=source, language="python", entry_point="f", calls=("[1]",))]))
    print("ready", flush=True)
"""
"""Ready after a first program: the self-test's nurseries have ended by then, and the sandbox's only one has started."""


def test_a_judge_that_is_killed_takes_its_boxes_along():
    before = boxed_processes()
    judge = subprocess.Popen(
        [sys.executable, "-c", JUDGE],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, OWNER: str(os.getpid())},
    )
    assert judge.stdout is not None
    assert judge.stdout.readline() == b"ready\n"
    assert wait_for(lambda: len(boxed_processes() - before) >= 3)
    time.sleep(0.5)
    judge.kill()
    judge.wait()
    judge.stdout.close()
    assert wait_for(lambda: boxed_processes() <= before)


def test_busy_neighbours_flip_no_verdict():
    spin = "def f(n):\n total = 0\n for i in range(n): total += i % 7\n return total"
    expected = sum(i % 7 for i in range(500_000))
    tests = {
        "call_type": "assert",
        "fn_name": "f",
        "assert_case": [f"assert f(500000) == {expected}", "assert f(0) == 0"],
    }
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        for _ in range(6 if SOAK else 1):
            assert verdict(spin, tests).outcome == "passed"
            assert verdict(spin.replace("% 7", "% 5"), tests).verify_score == 0.5
            assert verdict(spin.replace("return total", "\n while True: pass"), tests).outcome == "failed"
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


SHARED_FILE = Path(f"/dev/shm/amr-boxes-of-{os.getpid()}")


def shared_files() -> set[Path]:
    """Files in shared memory that boxes made: the one a program here asks for, and any of a user whom only boxes have."""
    found = {SHARED_FILE} if SHARED_FILE.exists() else set()
    for file in Path("/dev/shm").iterdir():
        with suppress(FileNotFoundError):  # a neighbour's
            if 0 <= file.lstat().st_uid - making_of_boxes._FIRST_USER < making_of_boxes._USERS:
                found.add(file)
    return found


@pytest.mark.soak
def test_nothing_is_left_of_many_boxes():
    def things() -> set[object]:
        """Whatever may be left, of this process alone: what else runs here starts and ends as it likes."""
        folders = Path(tempfile.gettempdir()).glob(f"amr-box-{os.getpid()}-*")
        children = {process.pid for process in psutil.Process().children()}
        return {*children, *boxed_processes(), *groups_left(), *shared_files(), *folders}

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before, opened = things(), descriptors()
    hostile = f"import os\nif os.fork() == 0:\n while True: __import__('time').sleep(1)\nopen({str(SHARED_FILE)!r}, 'w').write('x')\ndef f(x): return x"
    for isolation in WAYS:
        sandbox = CodeSandbox(slots=2, means=ways()[isolation])
        runs = [
            ProgramRun(
                run_id=str(n), source=hostile if n % 3 == 0 else "def f(x): return x", language="python", entry_point="f", calls=("[1]",)
            )
            for n in range(1000 if SOAK else 30)
        ]  # fmt: skip
        assert all(result.cause is None for result in sandbox(runs))
        sandbox.close()
    assert wait_for(lambda: things() <= before), things() - before
    assert wait_for(lambda: descriptors() <= opened)
