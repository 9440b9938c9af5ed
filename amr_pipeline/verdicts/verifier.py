"""What a verdict is, and what a verifier is.

A verdict is `passed`, `failed` or `undecided(cause)`. A verifier that could not judge says so; it never writes a
score of zero for its own failure, because that would move a pass rate. Engines reach verifiers as callables that
are declared here and handed in by the caller, so no verifier knows Ray or a sandbox.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from amr_pipeline.categories import Category, passes
from amr_pipeline.studies.study import Isolation

LONGEST_EVIDENCE = 2_000
"""Characters of evidence kept per verdict."""


class Outcome(StrEnum):
    """The three values of a verdict."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


class Cause(StrEnum):
    """Why a verdict is undecided."""

    TIMEOUT = "timeout"
    CRASHED = "crashed"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    JUDGE_UNAVAILABLE = "judge_unavailable"
    JUDGE_UNPARSED = "judge_unparsed"
    JUDGE_INCONSISTENT = "judge_inconsistent"
    TOO_COMPLEX = "too_complex"
    NO_REFERENCE = "no_reference"
    NO_RESPONSE = "no_response"
    UNSUPPORTED = "unsupported"
    MALFORMED = "malformed"


TRANSIENT_CAUSES = frozenset(
    {Cause.TIMEOUT, Cause.CRASHED, Cause.SANDBOX_UNAVAILABLE, Cause.JUDGE_UNAVAILABLE, Cause.JUDGE_UNPARSED}
)
"""Causes that another attempt may settle: such a verdict stays owed. The others stay undecided until the
reference or the verifier changes, since the same inputs would end the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One response with everything needed to judge it.

    Attributes:
        messages: the query's (role, content) turns, the last one by the user.
        text: the response as written, think part included.
        finish_reason: stop, length, looping or error.
        test_cases, constraints: JSON text as in `tables.QUERIES`.
    """

    response_id: str
    category: Category
    messages: tuple[tuple[str, str], ...]
    text: str
    finish_reason: str
    reference: str | None = None
    test_cases: str | None = None
    constraints: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a verifier says about one response. Build one with `decided` or `undecided`.

    Attributes:
        verify_score: in the category's range; None exactly when undecided.
        stage: which part of the verifier decided (`typed`, `math_verify`, `judge`, ...).
        evidence: at most `LONGEST_EVIDENCE` characters.
    """

    response_id: str
    outcome: Outcome
    verify_score: float | None
    cause: Cause | None
    stage: str
    evidence: str


def decided(case: Case, verify_score: float, *, stage: str, evidence: str = "") -> Verdict:
    """A verdict with a score; the category's threshold says whether it passed (DeepDistill 2.4.2)."""
    outcome = Outcome.PASSED if passes(case.category, verify_score) else Outcome.FAILED
    return Verdict(
        response_id=case.response_id,
        outcome=outcome,
        verify_score=verify_score,
        cause=None,
        stage=stage,
        evidence=evidence[:LONGEST_EVIDENCE],
    )


def undecided(case: Case, cause: Cause, *, stage: str, evidence: str = "") -> Verdict:
    """A verdict without a score, because judging failed; it enters no denominator."""
    return Verdict(
        response_id=case.response_id,
        outcome=Outcome.UNDECIDED,
        verify_score=None,
        cause=cause,
        stage=stage,
        evidence=evidence[:LONGEST_EVIDENCE],
    )


class Verifier(Protocol):
    """Judges responses of one category.

    `judge` gives exactly one verdict per case, in any order, as they become known, and never raises for what a
    response contains. It may raise for what the deployment lacks before it judges anything.
    """

    name: str

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """One verdict per case."""
        ...


# ------------------------------------------------------------------ what engines must provide, named by who needs it


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerPair:
    """A reference and an answer to compare within CPU `seconds`; `pair_id` comes back with the comparison."""

    pair_id: str
    reference: str
    answer: str
    seconds: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Whether two answers are equal: True, False, or None with the cause."""

    pair_id: str
    equal: bool | None
    cause: Cause | None = None


CompareAnswers = Callable[[Iterable[AnswerPair]], Iterator[Comparison]]
"""Compares answers by symbolic mathematics where a hang can be killed (`engines.answer_checkers`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeRequest:
    """A question to a judge model; the reply must match `pattern` (guided decoding)."""

    request_id: str
    messages: tuple[tuple[str, str], ...]
    pattern: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeReply:
    """A judge's text, or None with the cause."""

    request_id: str
    text: str | None
    cause: Cause | None = None


AskJudge = Callable[[Iterable[JudgeRequest]], Iterator[JudgeReply]]
"""Asks a judge model (`engines.engine_pools`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateRequest:
    """A conversation to rate: (role, content) turns, the last one by the assistant."""

    request_id: str
    messages: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RateReply:
    """A reward model's heads in its own order, or None with the cause."""

    request_id: str
    heads: tuple[float, ...] | None
    cause: Cause | None = None


RateReplies = Callable[[Iterable[RateRequest]], Iterator[RateReply]]
"""Rates conversations by a reward model (`engines.engine_pools`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramRun:
    """One program to run on several inputs in one box.

    Attributes:
        source: hostile program text.
        language: "python" or "cpp".
        entry_point: function to call with `calls`, or None to feed `inputs` to standard input.
        calls: one list of positional JSON arguments per test.
        inputs: one text per test.
        in_one_process: the calls follow each other in one process and end with the first that fails, as the statements
            of a test program do; else each has a process of its own.
        test_program: trusted test text, run in a box of its own; the functions it calls there are proxies.
        proxied_names: names in it that stand for the solution's functions.
        weakest_isolation: run it here only if at least this stands between it and the machine.
    """

    run_id: str
    source: str
    language: str
    entry_point: str | None = None
    calls: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    in_one_process: bool = False
    test_program: str | None = None
    proxied_names: tuple[str, ...] = ()
    cpu_seconds: float = 4.0
    memory_mebibytes: int = 512
    weakest_isolation: Isolation = Isolation.LANDLOCK_SECCOMP


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramResult:
    """What came out of the box, one entry per test.

    Attributes:
        answers: per test, JSON text of the returned value or the bytes written as text; None where it failed.
        failures: per test, why there is no answer (`exception`, `time_limit`, `memory_limit`, ...), or None.
        cause: set when the box itself failed, and then nothing is known about the program.
        strength: how strongly the box isolated, as `bubblewrap+seccomp`.
    """

    run_id: str
    answers: tuple[str | None, ...]
    failures: tuple[str | None, ...]
    cause: Cause | None = None
    strength: str = ""


RunPrograms = Callable[[Iterable[ProgramRun]], Iterator[ProgramResult]]
"""Runs hostile programs (`engines.code_sandbox`); expected outputs never enter it."""
