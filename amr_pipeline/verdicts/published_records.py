"""Records in the published data set's field names, as cases to judge; whatever a line holds, it ends as a verdict.

Fields: `id`, `category` (math, code, science, instruction follow, other), `question`, `answer`, `ground_truth`,
`test_case`, `instruction_constrain`, `finish_reason`. JSON inside a field may be text or already parsed.

Belongs here: reading one line. Does not belong here: files, judging.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from amr_pipeline.categories import from_published_name
from amr_pipeline.verdicts.verifier import Case

LONGEST_LINE = 16 * 2**20
"""Characters; a longer line is not parsed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRecord:
    """One line: its id as given (None when unknown), and a case, or why there is none."""

    record_id: object
    case: Case | None
    problem: str = ""


def parse_line(line: str, number: int) -> PublishedRecord:
    """One line as a case whose `response_id` is its line number, so that equal ids stay apart."""
    if len(line) > LONGEST_LINE:
        return PublishedRecord(
            record_id=None, case=None, problem=f"a line of {len(line):,} characters; the limit is {LONGEST_LINE:,}"
        )
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return PublishedRecord(record_id=None, case=None, problem=f"not JSON: {error}"[:500])
    if not isinstance(record, dict):
        return PublishedRecord(record_id=None, case=None, problem=f"not a record but {type(record).__name__}")
    record_id = record.get("id")
    if not isinstance(record_id, str | int | float | type(None)) or (
        isinstance(record_id, float) and not math.isfinite(record_id)
    ):
        record_id = None
    try:
        return PublishedRecord(record_id=record_id, case=_case(record, str(number)))
    except ValueError as error:
        return PublishedRecord(record_id=record_id, case=None, problem=str(error)[:500])
    except RecursionError:  # a field that parsed is nested too deeply to be written out again
        return PublishedRecord(record_id=record_id, case=None, problem="a field is nested too deeply")


def _case(record: Mapping[str, object], response_id: str) -> Case:
    category = record.get("category")
    if not isinstance(category, str):
        raise ValueError(f"category is {category!r}; wanted math, code, science, instruction follow or other")
    answer = record.get("answer")
    if not isinstance(answer, str):
        raise ValueError(f"answer is {type(answer).__name__}; wanted text")
    question = record.get("question")
    finish_reason = record.get("finish_reason")
    truth = record.get("ground_truth")
    return Case(
        response_id=response_id,
        category=from_published_name(category),
        messages=(("user", question if isinstance(question, str) else ""),),
        text=clean(answer),
        finish_reason=finish_reason if finish_reason in ("stop", "length", "looping", "error") else "stop",
        reference=clean(str(truth))
        if isinstance(truth, str | int) or (isinstance(truth, float) and math.isfinite(truth))
        else None,
        test_cases=_tests(record.get("test_case"), record.get("language")),
        constraints=constraints_text(record.get("instruction_constrain")),
    )


def clean(text: str) -> str:
    """A text that can be written out: lone surrogates replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _tests(value: object, language: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, dict) and isinstance(language, str):
        value = {"language": language, **value}
    return clean(value) if isinstance(value, str) else json.dumps(value)


def constraints_text(value: object) -> str | None:
    """The data dictionary's list of {id, kwargs} from the shapes that public files use.

    `{"instruction_id_list": [...], "kwargs": [...]}`, a list of {id, kwargs} or {instruction_id, kwargs}, a list of
    ids, or any of these as JSON text. Text that is none of them is kept, and the verifier calls it malformed.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return clean(value)
        return constraints_text(parsed) if not isinstance(parsed, str) else clean(value)
    if isinstance(value, dict):
        ids = value.get("instruction_id_list") or value.get("instruction_id") or value.get("id")
        ids = [ids] if isinstance(ids, str) else ids
        if not isinstance(ids, list):
            return json.dumps(value)
        kwargs = value.get("kwargs")
        kwargs = kwargs if isinstance(kwargs, list) else [kwargs]
        kwargs = [*kwargs, *([None] * len(ids))]
        return json.dumps([{"id": name, "kwargs": detail or {}} for name, detail in zip(ids, kwargs, strict=False)])
    if isinstance(value, list):
        return json.dumps([_constraint(item) for item in value])
    return json.dumps(value)


def _constraint(item: object) -> object:
    if isinstance(item, str):
        return {"id": item, "kwargs": {}}
    if isinstance(item, dict):
        return {"id": item.get("id") or item.get("instruction_id"), "kwargs": item.get("kwargs") or {}}
    return item
