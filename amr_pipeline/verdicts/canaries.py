r"""Canaries: cases whose outcome is known beforehand, judged in the middle of every batch of real responses.

A verifier that lost its mind (an upgraded library, a sandbox that lets programs lie, a pool whose workers hang) still
gives verdicts, and they look like any others. So every batch carries a known pass, a known fail and a known hang,
with a known pass on either side of the hang. `CanaryDrift` refuses the batch, and with it the partition.

What each kind must come to:

    known pass   passed
    known fail   failed
    known hang   failed or undecided, within the verifier's own deadline

A canary that is undecided for a transient cause is no wrong outcome: a sandbox that is away, a worker that was killed
or a busy machine is a failure to judge. All canaries are then judged once more by themselves, and those still
undecided are named, so that people hear of it; real verdicts that met the same are undecided and stay owed.

Covered are the stages that decide by rule or by algebra. What a judge or reward model says is an opinion that this
code does not know beforehand, so a canary of ours that ends at a judge counts for nothing; a study whose judge was
measured declares canaries for it (`JudgeCanary` rows). Not covered: conversations beyond truncation.

Canaries are built here, from texts of our own. They never become rows of a table.

Belongs here: the cases, and what counts as drift. Does not belong here: publishing (`assets.verdicts`).
Source: design, verdicts. Ours: the paper has nothing like it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import ConversationVerifier, JudgeCanary, ScienceVerifier, VerifierRow
from amr_pipeline.verdicts.verifier import TRANSIENT_CAUSES, Case, Outcome, Verdict, Verifier

OPINION_STAGES = ("judge", "reward")
"""Stages of verdicts that are a model's opinion."""


class Kind(StrEnum):
    """What is known about a canary."""

    KNOWN_PASS = "known pass"  # noqa: S105 (an outcome, no password)
    KNOWN_FAIL = "known fail"
    KNOWN_HANG = "known hang"


class CanaryDrift(RuntimeError):
    """A verifier gave a case of known outcome another one; nothing it said in that batch may be published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """A case of known outcome; its `response_id` is its name.

    Attributes:
        of_judge: declared by the study for its judge, so that a judge's opinion on it counts.
    """

    kind: Kind
    case: Case
    of_judge: bool = False

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.case.response_id


def canaries_of(row: VerifierRow) -> tuple[Canary, ...]:
    """The canaries of a verifier row, in the order in which they are woven in (see `woven`); at least one."""
    ours = [_canary(row.category, kind, place, **said) for place, (kind, said) in enumerate(_CASES[row.category])]
    declared = [
        Canary(
            kind=Kind.KNOWN_PASS if one.passes else Kind.KNOWN_FAIL,
            of_judge=True,
            case=Case(
                response_id=f"canary {row.category} judge {place}",
                category=row.category,
                messages=one.messages,
                text=_finished(one.answer),
                finish_reason="stop",
                reference=one.reference,
            ),
        )
        for place, one in enumerate(_declared(row))
    ]
    return (*ours, *declared)


def _declared(row: VerifierRow) -> tuple[JudgeCanary, ...]:
    return row.judge_canaries if isinstance(row, ScienceVerifier | ConversationVerifier) else ()


def woven(cases: Sequence[Case], canaries: Sequence[Canary]) -> list[Case]:
    """The batch with its canaries: the first in front, the last at the end, the others together in the middle."""
    if not canaries:
        return list(cases)
    half = len(cases) // 2
    first, *others = [canary.case for canary in canaries]
    last = [others.pop()] if others else []
    return [first, *cases[:half], *others, *cases[half:], *last]


@dataclass(kw_only=True)
class CanaryWatch:
    """One batch's canaries: keeps their verdicts apart from the real ones, and judges the judge.

    Attributes:
        unsettled: names of canaries that could not be judged, alone neither, because the verifier is away.
    """

    canaries: Sequence[Canary]
    unsettled: list[str] = field(default_factory=list)
    _found: dict[str, Verdict] = field(default_factory=dict)

    def judge(self, verifier: Verifier, cases: Sequence[Case]) -> Iterator[Verdict]:
        """Verdicts on `cases` as they become known; do not use one before the last has come.

        Raises:
            CanaryDrift: after the last verdict, when a canary came to another outcome than is known.
        """
        names = {canary.name for canary in self.canaries}
        for verdict in verifier.judge(woven(cases, self.canaries)):
            if verdict.response_id in names:
                self._found[verdict.response_id] = verdict
            else:
                yield verdict
        self._require_known_outcomes(verifier)

    def _require_known_outcomes(self, verifier: Verifier) -> None:
        _refuse(verifier.name, self._drifted(self._found))
        if not any(_is_unsettled(canary, self._found[canary.name]) for canary in self.canaries):
            return
        alone = {verdict.response_id: verdict for verdict in verifier.judge([one.case for one in self.canaries])}
        _refuse(verifier.name, self._drifted(alone))
        self.unsettled = [one.name for one in self.canaries if _is_unsettled(one, alone[one.name])]

    def _drifted(self, found: dict[str, Verdict]) -> list[str]:
        missing = [f"{canary.name} got no verdict" for canary in self.canaries if canary.name not in found]
        return missing or [_said(one, found) for one in self.canaries if _has_drifted(one, found[one.name])]


def _has_drifted(canary: Canary, verdict: Verdict) -> bool:
    """Whether a verdict contradicts what is known; a transient cause never does."""
    if verdict.stage in OPINION_STAGES and not canary.of_judge:
        return False
    if canary.kind is Kind.KNOWN_HANG:
        return verdict.outcome is Outcome.PASSED
    if verdict.outcome is Outcome.UNDECIDED:
        return verdict.cause not in TRANSIENT_CAUSES
    return verdict.outcome is not (Outcome.PASSED if canary.kind is Kind.KNOWN_PASS else Outcome.FAILED)


def _is_unsettled(canary: Canary, verdict: Verdict) -> bool:
    judged_by_rule = canary.of_judge or verdict.stage not in OPINION_STAGES
    return canary.kind is not Kind.KNOWN_HANG and judged_by_rule and verdict.outcome is Outcome.UNDECIDED


def _said(canary: Canary, found: dict[str, Verdict]) -> str:
    verdict = found[canary.name]
    wanted = {Kind.KNOWN_PASS: "passed", Kind.KNOWN_FAIL: "failed", Kind.KNOWN_HANG: "failed or undecided"}
    cause = f" ({verdict.cause})" if verdict.cause else ""
    return (
        f"{canary.name}, a {canary.kind}, wanted {wanted[canary.kind]}, found {verdict.outcome}{cause} "
        f"at stage {verdict.stage}: {verdict.evidence[:200]}"
    )


def _refuse(verifier: str, problems: Iterable[str]) -> None:
    if found := list(problems):
        raise CanaryDrift(f"verifier {verifier} does not judge as it should: {'; '.join(found)}")


# ------------------------------------------------------------------------------------------------------- the cases


def _canary(category: Category, kind: Kind, place: int, *, answer: str, **more: str) -> Canary:
    return Canary(
        kind=kind,
        case=Case(
            response_id=f"canary {category} {place}",
            category=category,
            messages=(("user", "A case of known outcome."),),
            text=_finished(answer),
            finish_reason=more.pop("finish_reason", "stop"),
            **more,
        ),
    )


def _finished(answer: str) -> str:
    return f"<think>Its outcome is known.</think><answer>{answer}</answer>"


def _python(body: str) -> str:
    return f"\n```python\n{body}\n```\n"


def _cpp(body: str) -> str:
    return f"\n```cpp\n#include <iostream>\nint main() {{ long x; std::cin >> x; {body} }}\n```\n"


_DOUBLES = json.dumps(
    {"call_type": "assert", "fn_name": "f", "assert_case": ["assert f(2) == 4", "assert f(-1) == -2"]}
)
_DOUBLES_ONCE = json.dumps({"call_type": "assert", "fn_name": "f", "assert_case": ["assert f(2) == 4"]})
_DOUBLES_READ = json.dumps({"call_type": "std", "inputs": ["2\n"], "outputs": ["4\n"]})
_DOUBLES_IN_CPP = json.dumps({"language": "cpp", "call_type": "std", "inputs": ["2\n"], "outputs": ["4\n"]})
_RULES = json.dumps(
    [
        {"id": "punctuation:no_comma", "kwargs": {}},
        {"id": "length_constraints:number_sentences", "kwargs": {"num_sentences": 2, "relation": "at least"}},
        {"id": "detectable_content:number_placeholders", "kwargs": {"num_placeholders": 1}},
        {"id": "detectable_content:postscript", "kwargs": {"postscript_marker": "P.S."}},
        {"id": "detectable_format:number_bullet_lists", "kwargs": {"num_bullets": 1}},
        {"id": "detectable_format:title", "kwargs": {}},
    ]
)
_SLOW_FOR_PATTERNS = "a" * 20_000 + ".b," + "[" * 20_000 + "\n" * 20_000 + "<<" * 10_000
"""Text on which a pattern that backtracks takes hours; it follows none of `_RULES`."""

_CASES: dict[Category, tuple[tuple[Kind, dict[str, str]], ...]] = {
    Category.MATH: (
        (Kind.KNOWN_PASS, {"reference": "\\frac{3}{4}", "answer": "\\boxed{0.75}"}),
        (Kind.KNOWN_PASS, {"reference": "(1, 2)", "answer": "It is \\boxed{(1,2)}."}),
        (Kind.KNOWN_HANG, {"reference": "9^{9^{9^{9}}}", "answer": "\\boxed{9^{9^{9^{8}}}+1}"}),
        (Kind.KNOWN_PASS, {"reference": "x^2-1", "answer": "\\boxed{(x-1)(x+1)}"}),
        # Nothing but symbolic algebra decides these two.
        (Kind.KNOWN_PASS, {"reference": "\\sum_{k=1}^{4} k", "answer": "\\boxed{10}"}),
        (Kind.KNOWN_FAIL, {"reference": "\\sum_{k=1}^{4} k", "answer": "\\boxed{11}"}),
        # Finished, right in its thinking, and without an answer: no later stage may be asked about it.
        (Kind.KNOWN_FAIL, {"reference": "12", "answer": "The value \\boxed{12 is what one would expect to see here"}),
        (Kind.KNOWN_FAIL, {"reference": "12", "answer": "\\boxed{13}"}),
    ),
    Category.CODE: (
        (Kind.KNOWN_PASS, {"test_cases": _DOUBLES, "answer": _python("def f(x):\n    return 2 * x")}),
        (Kind.KNOWN_PASS, {"test_cases": _DOUBLES_READ, "answer": _python("print(2 * int(input()))")}),
        (Kind.KNOWN_HANG, {"test_cases": _DOUBLES_ONCE, "answer": _python("def f(x):\n    while True: pass")}),
        (Kind.KNOWN_PASS, {"test_cases": _DOUBLES, "answer": _python("def f(x):\n    return x + x")}),
        (Kind.KNOWN_PASS, {"test_cases": _DOUBLES_IN_CPP, "answer": _cpp("std::cout << 2 * x;")}),
        (Kind.KNOWN_FAIL, {"test_cases": _DOUBLES_IN_CPP, "answer": _cpp("std::cout << x * x + x;")}),
        # Wrong in every test: a row may run the first one alone.
        (Kind.KNOWN_FAIL, {"test_cases": _DOUBLES, "answer": _python("def f(x):\n    return 2 * abs(x) + 1")}),
    ),
    Category.SCIENCE: (
        (Kind.KNOWN_PASS, {"reference": "B", "answer": "\\boxed{B}"}),
        (Kind.KNOWN_PASS, {"reference": "C", "answer": "The answer is (C)."}),
        (Kind.KNOWN_HANG, {"reference": "D", "answer": ("answer" + " " * 5_000) * 10}),
        (Kind.KNOWN_PASS, {"reference": "A", "answer": "A"}),
        (Kind.KNOWN_FAIL, {"reference": "B", "answer": "\\boxed{C}"}),
    ),
    Category.INSTRUCTION_FOLLOWING: (
        (Kind.KNOWN_PASS, {"constraints": _RULES, "answer": "<<T>>\n* One [x]. Two.\nP.S. three"}),
        (Kind.KNOWN_PASS, {"constraints": _RULES, "answer": "<<U>>\n- [y] Three. Four.\nP.S. five"}),
        (Kind.KNOWN_HANG, {"constraints": _RULES, "answer": _SLOW_FOR_PATTERNS}),
        (Kind.KNOWN_PASS, {"constraints": _RULES, "answer": "<<V>>\n* [z] Six. Seven.\nP.S. eight"}),
        (Kind.KNOWN_FAIL, {"constraints": _RULES, "answer": "<<W>>\n* [z] Six, or seven. Eight.\nP.S. nine"}),
    ),
    Category.CONVERSATION: ((Kind.KNOWN_FAIL, {"answer": "Cut o", "finish_reason": "length"}),),
}
