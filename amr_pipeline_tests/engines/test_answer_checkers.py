import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from amr_pipeline.engines.answer_checkers import AnswerCheckers
from amr_pipeline.verdicts.verifier import AnswerPair, Cause


@pytest.fixture(scope="module")
def checkers() -> Iterator[AnswerCheckers]:
    opened = AnswerCheckers(slots=2)
    yield opened
    opened.close()


HOSTILE = (
    "9^{9^{9^9}}", "(10!)!", "\\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}", "1" * 1500, "(" * 200 + "1" + ")" * 200, "{" * 50,
    "\\frac{" * 60 + "1" + "}{2}" * 60, "\x00\x01", "\\boxed{" * 100, "__import__('os').system('true')", "\ud800", "x = 1," * 200,
)  # fmt: skip


def pairs(*answers: tuple[str, str]) -> list[AnswerPair]:
    """Pairs with time for an honest answer on a busy machine, and little for a hostile one."""
    return [
        AnswerPair(pair_id=str(index), reference=reference, answer=answer, seconds=2.0 if answer in HOSTILE else 60.0)
        for index, (reference, answer) in enumerate(answers)
    ]


def test_algebra_is_compared(checkers: AnswerCheckers):
    found = checkers(pairs(("x^2-1", "(x-1)(x+1)"), ("\\frac{\\pi}{2}", "\\pi/2"), ("x", "y"), ("[0,1)", "[0,1]")))
    assert [one.equal for one in found] == [True, True, False, False]


def workers() -> list[psutil.Process]:
    """Living worker processes of this one, their children included."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie is one, too
            if "answer_checker_worker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_one_percent_poison_costs_no_innocent_pair(checkers: AnswerCheckers):
    asked = pairs(*(("x+1", "1+x") if index % 60 else ("x", HOSTILE[index // 60 % 4]) for index in range(240)))
    found = list(checkers(asked))
    assert [one.pair_id for one in found] == [one.pair_id for one in asked]
    assert all(one.equal is True for index, one in enumerate(found) if index % 60)
    assert all(one.equal is not True for index, one in enumerate(found) if not index % 60)


def test_every_hostile_answer_ends(checkers: AnswerCheckers):
    for one in checkers(pairs(*(("17", answer) for answer in HOSTILE))):
        assert one.equal is False or one.cause in (Cause.TIMEOUT, Cause.CRASHED)


@pytest.fixture
def suspended() -> Iterator[tuple[AnswerCheckers, psutil.Process]]:
    """Checkers with one worker whose comparing process was stopped, and that process."""
    opened, others = AnswerCheckers(slots=1), {one.pid for one in workers()}
    list(opened(pairs(("x", "x"))))
    (worker,) = (one for one in workers() if one.pid not in others and one.ppid() == os.getpid())
    (comparing,) = worker.children()
    comparing.suspend()
    yield opened, comparing
    opened.close()


def test_a_machine_that_is_busy_elsewhere_makes_no_answer_undecided(suspended: tuple[AnswerCheckers, psutil.Process]):
    opened, comparing = suspended
    going_on = threading.Timer(3.0, comparing.resume)
    going_on.start()
    (found,) = opened([AnswerPair(pair_id="0", reference="x+1", answer="1+x", seconds=1.5)])
    going_on.join()
    assert found.equal is True


def test_a_comparison_that_waits_for_ever_ends(suspended: tuple[AnswerCheckers, psutil.Process]):
    (found,) = suspended[0]([AnswerPair(pair_id="0", reference="x+1", answer="1+x", seconds=0.2)])
    assert (found.equal, found.cause) == (None, Cause.TIMEOUT)


def test_a_killed_worker_is_replaced(checkers: AnswerCheckers):
    list(checkers(pairs(("x", "x"))))
    for process in workers():
        os.kill(process.pid, signal.SIGKILL)
    found = list(checkers(pairs(*[("x+1", "1+x")] * 6)))
    assert all(one.equal is True for one in found)


def test_closing_leaves_no_process():
    opened = AnswerCheckers(slots=1)
    list(opened(pairs(("x", "x"))))
    opened.close()
    assert len(workers()) <= 4  # the module's own two workers and their children
