"""Instruction following: the mean over a query's constraints of followed or not.

Every constraint is read strictly and loosely, and the evidence keeps both; the row says which of them is the score.
A constraint that is unknown, or that its rule cannot decide, makes the whole response undecided: it never passes
by silence and never fails by ignorance.

Source: DeepDistill 2.4.1, Eq. 3 (mean, not all-or-nothing); strict and loose readings as in IFEval.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

from amr_pipeline.studies.study import InstructionVerifier
from amr_pipeline.verdicts.constraint_rules import RULES, Arguments, CannotTellError
from amr_pipeline.verdicts.extra_constraint_rules import EXTRA_RULES
from amr_pipeline.verdicts.finished_answer import finished_answer
from amr_pipeline.verdicts.verifier import Case, Cause, Verdict, decided, undecided

ALL_RULES = {**RULES, **EXTRA_RULES}
"""Every constraint that can be decided, by its public id."""


def unsupported_constraints(ids: Iterable[str]) -> list[str]:
    """Ids that no rule here decides, sorted; a study can ask before it starts."""
    return sorted({name for name in ids if _rule_name(name) not in ALL_RULES})


def follows(text: str, rule: str, arguments: Arguments, reading: str) -> bool:
    """Whether a text follows one constraint.

    The loose reading forgives a first or last line that frames the answer, and emphasis asterisks; what follows it
    strictly follows it loosely.

    Raises:
        CannotTellError: the rule lacks an argument or cannot decide this text.
        KeyError: there is no such rule.
    """
    judge = ALL_RULES[_rule_name(rule)]
    if not text.strip():
        return False
    strictly = judge(text, arguments)
    if reading == "strict" or strictly:
        return strictly
    lines = text.split("\n")
    variants = ["\n".join(lines[first : len(lines) - last]) for first in (0, 1) for last in (0, 1)]
    variants += [variant.replace("*", "") for variant in variants]
    return any(_follows_if_told(judge, variant.strip(), arguments) for variant in variants if variant.strip())


def _follows_if_told(judge: Callable[[str, Arguments], bool], text: str, arguments: Arguments) -> bool:
    """A variant that cannot be decided forgives nothing; the text itself could be."""
    try:
        return judge(text, arguments)
    except CannotTellError:
        return False


class InstructionConstraints:
    """Judges instruction-following responses."""

    def __init__(self, row: InstructionVerifier) -> None:
        self.name = row.name
        self._row = row

    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """One verdict per case; the evidence is a JSON list of {id, strict, loose}, one per constraint."""
        for case in cases:
            yield self._one(case)

    def _one(self, case: Case) -> Verdict:
        constraints = parse_constraints(case.constraints)
        if isinstance(constraints, str):
            cause = Cause.NO_REFERENCE if case.constraints is None else Cause.MALFORMED
            return undecided(case, cause, stage="constraints", evidence=constraints)
        answer = finished_answer(case)
        if isinstance(answer, Verdict):
            return answer
        if unknown := unsupported_constraints(name for name, _ in constraints):
            return undecided(case, Cause.UNSUPPORTED, stage="constraints", evidence=f"no rule for {', '.join(unknown)}")
        read: list[dict[str, str | bool]] = []
        for name, arguments in constraints:
            try:
                both = {reading: follows(answer, name, arguments, reading) for reading in ("strict", "loose")}
            except CannotTellError as error:
                return undecided(case, Cause.UNSUPPORTED, stage="constraints", evidence=f"{name}: {error}")
            read.append({"id": name, **both})
        score = sum(bool(one[self._row.reading]) for one in read) / len(read)
        return decided(case, score, stage=self._row.reading, evidence=json.dumps(read))


def parse_constraints(text: str | None) -> list[tuple[str, dict[str, object]]] | str:
    """(id, arguments) pairs from the data dictionary's JSON, or a sentence that says what is wrong."""
    if text is None:
        return "the query has no constraints"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"constraints are not JSON: {error}"
    if not isinstance(found, list) or not found:
        return "constraints are not a list with members"
    pairs = []
    for item in found:
        if not isinstance(item, dict) or not isinstance(item.get("id"), str):
            return f"a constraint is not a record with an id: {str(item)[:200]}"
        arguments = item.get("kwargs") or {}
        if not isinstance(arguments, dict):
            return f"kwargs of {item['id']} are not a record"
        pairs.append((item["id"], {name: value for name, value in arguments.items() if value is not None}))
    return pairs


def _rule_name(name: str) -> str:
    return name.removeprefix("en:")
