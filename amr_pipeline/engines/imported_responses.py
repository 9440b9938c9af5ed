"""Responses that exist already, found for the requests of a distiller whose engine is `imported`.

A request carries what a distiller was asked and a response id; stored responses are joined to it by the normalized text
of its query and their pass, never by where they stand in the file. Stored responses without a query stay countable.

A row's system prompt and suffixes say what the model was asked when it wrote: they are in its identity and stand before
its responses when these are scored. A file's questions are the queries, which have neither.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.queries.identity import normalized_text, query_id
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest, response_id
from amr_pipeline.sources.records import Record, UnreadableRowError, clean_text, messages_of, read_records, value_at
from amr_pipeline.studies.study import Distiller, QueryColumns, ResponseColumns

ENGINE = "imported"

Turns = tuple[tuple[str, str], ...]
"""(role, content) of each turn."""

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
def stored_responses(row: Distiller, options: tuple[tuple[str, object], ...] = ()) -> StoredResponses:
    """Every response of a distiller's file, by question.

    Args:
        row: the distiller.
        options: what fsspec needs to reach the deployment's object store, as pairs.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the row names no file or no columns.
    """
    if row.reads is None or row.responses_at is None:
        raise ValueError(f"distiller {row.name!r} is imported and needs reads= and responses_at=")
    stored, columns = StoredResponses(), row.responses_at
    records: dict[str, list[_Passes]] = {}
    for raw in read_records(row.reads, options=dict(options)):
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


def imported_responses(
    row: Distiller, requests: Iterable[GenerationRequest], options: Mapping[str, object] | None = None
) -> Iterator[GeneratedResponse]:
    """The stored response of every request that has one (`responses.generation.Generate`, but for the missing ones).

    A request whose pass is not in the file gets nothing and stays owed. `options` are what fsspec needs to reach the
    deployment's object store.
    """
    stored = stored_responses(row, tuple(sorted((options or {}).items())))
    for request in requests:
        question, index = _asked_for(row, request)
        found = stored.by_question.get(question, {}).get(index)
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


def _asked_for(row: Distiller, request: GenerationRequest) -> tuple[str, int]:
    """Normalized text of a request's query and the pass whose response has its id; -1 where no pass of the row has."""
    fingerprint = row.distiller_fingerprint
    for turns in _undecorated(row, request.messages):
        query = [{"role": role, "content": content} for role, content in turns]
        identity = query_id(query)
        for index in range(row.most_passes):
            if response_id(identity, fingerprint, index) == request.response_id:
                return normalized_text(query), index
    return "", -1


def _undecorated(row: Distiller, turns: Turns) -> Iterator[Turns]:
    """What `prompt_messages` may have been given; a query may itself begin or end with what a row adds."""
    bodies = [turns]
    if row.system_prompt is not None and len(turns) > 1 and turns[0] == ("system", row.system_prompt):
        bodies.append(turns[1:])
    for body in bodies:
        yield body
        *before, (role, content) = body
        for suffix in row.prompt_suffixes:
            ending = f"\n\n{suffix.text}"
            if content.endswith(ending):
                yield (*before, (role, content.removesuffix(ending)))
