"""Responses that exist already, found for the requests of a distiller whose engine is `imported`.

A request carries a query's turns and a response id; stored responses are joined to it by the question's normalized
text and their pass, never by where they stand in the file. Stored responses without a query stay countable.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.queries.identity import normalized_text, query_id
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest, response_id
from amr_pipeline.sources.records import Record, UnreadableRowError, clean_text, messages_of, read_records, value_at
from amr_pipeline.studies.study import Distiller, QueryColumns, ResponseColumns

ENGINE = "imported"

Stored = tuple[str, str]
"""Text and finish reason of one response."""


@dataclass(kw_only=True)
class StoredResponses:
    """What a distiller's file holds.

    Attributes:
        by_question: normalized question text to pass index to (text, finish reason).
        leftovers: stored records that are no response, counted by reason.
    """

    by_question: dict[str, dict[int, Stored]] = field(default_factory=dict)
    leftovers: Counter[str] = field(default_factory=Counter)

    @property
    def num_responses(self) -> int:
        """Responses in the file, whether or not a query asks for them."""
        return sum(map(len, self.by_question.values()))


@lru_cache(maxsize=8)
def stored_responses(row: Distiller) -> StoredResponses:
    """Every response of a distiller's file, by question.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the row names no file or no columns.
    """
    if row.reads is None or row.responses_at is None:
        raise ValueError(f"distiller {row.name!r} is imported and needs reads= and responses_at=")
    stored, columns = StoredResponses(), row.responses_at
    records: dict[str, list[_Passes]] = {}
    for raw in read_records(row.reads):
        if raw.record is None:
            stored.leftovers[raw.reason] += 1
        elif all(str(value_at(raw.record, name)) == wanted for name, wanted in columns.where):
            _take(records, stored.leftovers, raw.record, columns)
    for question, found in records.items():
        is_given = columns.pass_index is not None
        stored.by_question[question] = _as_given(found, stored.leftovers) if is_given else _by_content(found)
    return stored


_Passes = list[tuple[object, Stored | None]]
"""What one record holds: per response the pass index it gives, and the response or None where the text is null."""


def _take(records: dict[str, list[_Passes]], leftovers: Counter[str], record: Record, columns: ResponseColumns) -> None:
    try:
        question = messages_of(
            record,
            QueryColumns(
                question=columns.question, messages=columns.messages, question_pattern=columns.question_pattern
            ),
        )
    except UnreadableRowError as error:
        leftovers[str(error)] += 1
        return
    texts = _as_list(value_at(record, columns.response))
    indexes = _as_list(value_at(record, columns.pass_index))
    finish_reason = _finish_reason(value_at(record, columns.finish_reason))
    leftovers.update("no response text" for text in texts if text is None)
    passes: _Passes = [
        (
            indexes[place] if place < len(indexes) else None,
            None if text is None else (_whole(clean_text(text), record, columns), finish_reason),
        )
        for place, text in enumerate(texts)
    ]
    records.setdefault(normalized_text(question), []).append(passes)


def _as_list(found: object) -> list[object]:
    return found if isinstance(found, list) else [found]


def _by_content(records: list[_Passes]) -> dict[int, Stored]:
    """Passes numbered through the records in the order of a hash of what each holds, so that lines may be shuffled."""
    ordered = sorted(records, key=lambda passes: fingerprint([response for _, response in passes]))
    numbered = enumerate(response for passes in ordered for _, response in passes)
    return {index: response for index, response in numbered if response is not None}


def _as_given(records: list[_Passes], leftovers: Counter[str]) -> dict[int, Stored]:
    """Passes under the index that their record gives; of several that claim one, always the same is taken."""
    found: dict[int, Stored] = {}
    claims = [claim for passes in records for claim in passes if claim[1] is not None]
    for index, response in sorted(claims, key=lambda claim: fingerprint(claim[1])):
        assert response is not None, "left out above"
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            leftovers["no pass index"] += 1
        elif index in found:
            leftovers["pass index given twice"] += 1
        else:
            found[index] = response
    return found


def _whole(text: str, record: Record, columns: ResponseColumns) -> str:
    before = value_at(record, columns.prefix_column)
    text = f"{columns.prefix}{clean_text(before) if before is not None else ''}{text}{columns.suffix}"
    return f"```python\n{text}\n```" if columns.fenced else text


def _finish_reason(found: object) -> str:
    """A stored reason in this project's words; without one a response counts as finished."""
    return {"length": "length", "max_tokens": "length", "error": "error"}.get(str(found), "stop")


def imported_responses(row: Distiller, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedResponse]:
    """The stored response of every request that has one (`responses.generation.Generate`, but for the missing ones).

    A request whose pass is not in the file gets nothing and stays owed.
    """
    stored = stored_responses(row)
    for request in requests:
        question = normalized_text([{"role": role, "content": content} for role, content in request.messages])
        index = _pass_index(row, request)
        found = None if index is None else stored.by_question.get(question, {}).get(index)
        if found is not None:
            text, finish_reason = found
            yield GeneratedResponse(
                response_id=request.response_id,
                text=text,
                finish_reason=finish_reason,
                prompt_tokens=None,
                response_tokens=len(text.split()),
                engine=ENGINE,
            )


def _pass_index(row: Distiller, request: GenerationRequest) -> int | None:
    """Which pass a request is: the one whose id it has."""
    identity = query_id([{"role": role, "content": content} for role, content in request.messages])
    fingerprint = row.distiller_fingerprint
    ids = (response_id(identity, fingerprint, index) for index in range(row.most_passes))
    return next((index for index, candidate in enumerate(ids) if candidate == request.response_id), None)
