"""Records of any layout to rows of `raw_queries`.

A record that cannot be mapped becomes a row of `unreadable_rows` with its reason and what was found, and the next
one is read; a file that cannot be opened raises. Nothing is executed, and no line is trusted to be what it claims.

Belongs here: reading files and mapping columns. Does not belong here: judging whether a query is good (`queries`).
"""

import gzip
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, cast

import fsspec
import polars as pl

from amr_pipeline import tables
from amr_pipeline.categories import Category, from_published_name
from amr_pipeline.sources import generated_parts
from amr_pipeline.studies.file_contents import Options, files_at, options_for, require_same_content
from amr_pipeline.studies.study import Benchmark, Generated, HubDataset, JsonLines, Parquet, QueryColumns, Reads, Source

LONGEST_LINE_BYTES = 32 * 2**20
"""A longer line is a row that cannot be read; memory stays bounded."""

READ_BYTES = 2**20
"""Bytes of a file that lines are found in at a time."""

LARGEST_DOCUMENT_BYTES = 2**30
"""A JSON document that is one list is parsed whole; lines and Parquet are not, and have no such limit."""

FREE_BYTES, HIGHEST_EXPANSION = 256 * 2**20, 200
"""What compressed files may come to: as many bytes of records, and beyond them as many for each byte of the file.

# ours: text compresses to a tenth; a run of equal bytes to a thousandth with gzip, to a millionth in Parquet.
"""

LONGEST_EVIDENCE = 2_000

Record = Mapping[str, object]
ReadHub = Callable[[HubDataset], Iterator[Record]]
"""Reads a hub data set's rows (`engines.hub`)."""


class OversizedSourceError(ValueError):
    """A file that is, or comes to, more than a source may; nothing of it is stored."""


class UnreadableRowError(ValueError):
    """A record cannot be mapped; the message is the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Raw:
    """One record as found: where it stands, and the record or why there is none."""

    place: str
    record: Record | None
    reason: str = ""
    found: str = ""


def read_records(reads: Reads, read_hub: ReadHub | None = None, options: Options | None = None) -> Iterator[Raw]:
    """Every record of a source in its order, unreadable ones included.

    Args:
        reads: what is read.
        read_hub: reads data sets of the hub; None: they are refused.
        options: what fsspec needs to reach the deployment's object store, for files on `s3://`.

    Raises:
        FileNotFoundError: the file is not there.
        UnreachedFilesError: the store that holds it is not reached, or refuses.
        OversizedSourceError: compressed files come to far more than their size, or a document is too large.
        ValueError: a file does not hold what its row's digest says, or a hub data set is asked for and `read_hub` is
            not given.
    """
    if isinstance(reads, JsonLines | Parquet):
        require_same_content(reads, options)
    if isinstance(reads, Generated):
        for record in generated_parts.records(reads.part, reads.num_rows, reads.seed):
            yield Raw(place=str(record["id"]), record=record)
    elif isinstance(reads, JsonLines):
        yield from (_json_document if reads.records_at is not None else _json_lines)(reads, options)
    elif isinstance(reads, Parquet):
        yield from _parquet(reads, options)
    elif read_hub is None:
        raise ValueError(
            f"{reads.repository} is on the hub, and this deployment cannot reach it; download it and name its files"
        )
    else:
        yield from (Raw(place=str(index), record=record) for index, record in enumerate(read_hub(reads)))


def _json_lines(reads: JsonLines, options: Options | None) -> Iterator[Raw]:
    files = fsspec.open_files(reads.path, "rb", **options_for(reads.path, options))
    if not files:
        raise FileNotFoundError(f"there is no file at {reads.path}")
    for file in files:
        within = f"{file.path.rsplit('/', 1)[-1]} " if len(files) > 1 else ""
        with cast("AbstractContextManager[IO[bytes]]", file) as opened:
            if file.path.endswith(".gz"):
                size = _Size(file.path, file.fs.size(file.path) or 0)
                with cast("IO[bytes]", gzip.open(opened, "rb")) as lines:
                    yield from _lines(lines, within=within, taken=size.add)
            else:
                # A file of an object store reads no line up to a length.
                with io.BufferedReader(cast("io.RawIOBase", opened), READ_BYTES) as lines:
                    yield from _lines(cast("IO[bytes]", lines), within=within)


class _Size:
    """How much a file's records have come to."""

    def __init__(self, path: str, stored: int) -> None:
        self._path, self._stored, self._expanded = path, stored, 0

    def add(self, num_bytes: int) -> None:
        """Count bytes of records.

        Raises:
            OversizedSourceError: they are more than the file may come to.
        """
        self._expanded += num_bytes
        if self._expanded > FREE_BYTES + HIGHEST_EXPANSION * self._stored:
            raise OversizedSourceError(
                f"{self._path} has {self._stored:,} bytes and comes to more than {self._expanded:,}; a file may come "
                f"to {HIGHEST_EXPANSION} times its size. If it is meant, store it uncompressed"
            )


def _lines(lines: IO[bytes], *, within: str, taken: Callable[[int], None] = lambda _: None) -> Iterator[Raw]:
    index = 0
    while line := lines.readline(LONGEST_LINE_BYTES + 1):
        place = f"{within}line {index + 1}"
        index += 1
        taken(len(line))
        if len(line) > LONGEST_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = lines.readline(LONGEST_LINE_BYTES)
                taken(len(line))
            yield Raw(place=place, record=None, reason="malformed", found=f"a line over {LONGEST_LINE_BYTES:,} bytes")
        elif line.strip():
            yield _parsed(place, line)


def _opened(path: str, options: Options | None) -> AbstractContextManager[IO[bytes]]:
    """A file as bytes."""
    return cast("AbstractContextManager[IO[bytes]]", fsspec.open(path, "rb", **options_for(path, options)))


def _parsed(place: str, line: bytes) -> Raw:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Raw(place=place, record=None, reason="malformed", found=f"{error}: {line[:500]!r}")
    if not isinstance(record, dict):
        return Raw(place=place, record=None, reason="malformed", found=f"not a record: {line[:500]!r}")
    return Raw(place=place, record=record)


def _json_document(reads: JsonLines, options: Options | None) -> Iterator[Raw]:
    with _opened(reads.path, options) as opened:
        content = opened.read(LARGEST_DOCUMENT_BYTES + 1)
    if len(content) > LARGEST_DOCUMENT_BYTES:
        raise OversizedSourceError(
            f"{reads.path} is one JSON document of more than {LARGEST_DOCUMENT_BYTES:,} bytes, which is parsed whole; "
            "store its records as lines"
        )
    document = json.loads(content)
    for index, record in enumerate(document[reads.records_at]):
        place = f"{reads.records_at} {index}"
        if isinstance(record, dict):
            yield Raw(place=place, record=record)
        else:
            yield Raw(place=place, record=None, reason="malformed", found=f"not a record: {str(record)[:500]}")


def _parquet(reads: Parquet, options: Options | None) -> Iterator[Raw]:
    index, (files, names) = 0, files_at(reads.path, options)
    size = _Size(reads.path, sum(files.size(name) or 0 for name in names))
    for batch in pl.scan_parquet(reads.path, storage_options=_for_polars(reads.path, options)).collect_batches():
        for record in batch.iter_rows(named=True):
            size.add(_num_bytes(record))
            yield Raw(place=f"row {index}", record=record)
            index += 1


def _for_polars(path: str, options: Options | None) -> dict[str, str] | None:
    """Options of an S3 store in polars' words instead of fsspec's; the usual AWS variables say what these do not."""
    given = options_for(path, options)
    names = {"endpoint_url": "aws_endpoint_url", "key": "aws_access_key_id", "secret": "aws_secret_access_key"}
    told = {names[name]: str(value) for name, value in given.items() if name in names}
    if told.get("aws_endpoint_url", "").startswith("http://"):
        told["aws_allow_http"] = "true"
    return told or None


def _num_bytes(value: object) -> int:
    """About what a value takes as JSON; texts count as their characters."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(8 + _num_bytes(part) for part in value.values())
    return sum(map(_num_bytes, value)) if isinstance(value, list) else 8


# -------------------------------------------------------------------------------------------------- mapping of columns


def value_at(record: Record, path: str | None) -> object:
    """The value at a dotted path, or None where any step is missing; a key that holds dots is found whole."""
    if path is None:
        return None
    if path in record:
        return record[path]
    value: object = record
    for step in path.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def clean_text(value: object) -> str:
    """A text that every table can hold: lone surrogates and NULs replaced by U+FFFD."""
    return str(value).encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def messages_of(record: Record, columns: QueryColumns) -> list[dict[str, str]]:
    """The turns of a record.

    Raises:
        UnreadableRowError: there is no question, or a turn is not {role, content}.
    """
    if columns.messages is not None:
        turns = value_at(record, columns.messages)
        if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
            raise UnreadableRowError("no question")
        if not all(isinstance(turn, Mapping) and "role" in turn and "content" in turn for turn in turns):
            raise UnreadableRowError("malformed")
        return [{"role": clean_text(turn["role"]), "content": clean_text(turn["content"])} for turn in turns]
    question = value_at(record, columns.question)
    if not isinstance(question, str):
        raise UnreadableRowError("no question")
    return [{"role": "user", "content": clean_text(first_group(columns.question_pattern, question) or "")}]


def first_group(pattern: str | None, text: str) -> str | None:
    """The first group of the pattern's last match in `text`, all of `text` without a pattern, None without a match."""
    if pattern is None:
        return text
    found = list(re.finditer(pattern, text, re.DOTALL))
    return found[-1].group(1) if found else None


def _json_text(value: object) -> str | None:
    if value is None or value == "":
        return None
    return clean_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True))


def _tests_of(record: Record, columns: QueryColumns) -> str | None:
    program = value_at(record, columns.test_program)
    if program is not None:
        name = value_at(record, columns.entry_point)
        return _json_text({"call_type": "program", "fn_name": name, "program": program})
    return _json_text(value_at(record, columns.test_cases))


def _constraints_of(record: Record, columns: QueryColumns) -> str | None:
    ids, kwargs = value_at(record, columns.constraint_ids), value_at(record, columns.constraint_kwargs)
    if isinstance(ids, list):
        details = kwargs if isinstance(kwargs, list) and len(kwargs) == len(ids) else [{}] * len(ids)
        # Public copies prefix the language (`en:`) and fill unused arguments with null.
        return _json_text(
            [
                {
                    "id": str(name).removeprefix("en:"),
                    "kwargs": {key: value for key, value in (detail or {}).items() if value is not None},
                }
                for name, detail in zip(ids, details, strict=True)
            ]
        )
    return _json_text(value_at(record, columns.constraints))


def _category_of(record: Record, row: Source | Benchmark) -> Category:
    if row.category is not None:
        return row.category
    found = value_at(record, row.columns.category)
    try:
        return from_published_name(str(found))
    except ValueError as error:
        raise UnreadableRowError(f"unknown category: {error}") from error


def query_row(raw: Raw, row: Source | Benchmark) -> dict[str, object]:
    """One record as a `raw_queries` row without its identity (the source's name under `source`).

    Raises:
        UnreadableRowError: it cannot be mapped; the message is the reason.
    """
    if raw.record is None:
        raise UnreadableRowError(raw.reason)
    for column, value in getattr(row, "drop", ()):
        if str(value_at(raw.record, column)) == value:
            raise UnreadableRowError("left out by the source row")
    reference = value_at(raw.record, row.columns.reference)
    return {
        "source": row.name,
        "source_row": raw.place,
        "category": str(_category_of(raw.record, row)),
        "messages": messages_of(raw.record, row.columns),
        "reference": None if reference is None else first_group(row.columns.reference_pattern, clean_text(reference)),
        "test_cases": _tests_of(raw.record, row.columns),
        "constraints": _constraints_of(raw.record, row.columns),
        "licence": row.licence,
    }


def read_queries(
    row: Source | Benchmark, read_hub: ReadHub | None = None, options: Options | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(`raw_queries` rows, `unreadable_rows` rows) of one source or benchmark; together every record once.

    The first frame lacks `query_id` and `shard`, which `queries.identity.identified` adds. `options` are those of
    `read_records`.
    """
    rows: list[dict[str, object]] = []
    unreadable: list[dict[str, object]] = []
    for raw in read_records(row.reads, read_hub, options):
        try:
            rows.append(query_row(raw, row))
        except UnreadableRowError as error:
            found = raw.found or json.dumps(raw.record, default=str, ensure_ascii=True)
            unreadable.append(
                {
                    "source": row.name,
                    "source_row": raw.place,
                    "reason": str(error)[:200],
                    "evidence": found[:LONGEST_EVIDENCE],
                }
            )
    schema = {name: kind for name, kind in tables.RAW_QUERIES.schema.items() if name not in ("query_id", "shard")}
    return pl.DataFrame(rows, schema=schema), pl.DataFrame(unreadable, schema=tables.UNREADABLE_ROWS.schema)


def read_benchmark(row: Benchmark, read_hub: ReadHub | None = None, options: Options | None = None) -> pl.DataFrame:
    """Rows of one benchmark as `read_queries` gives them.

    Raises:
        ValueError: a problem cannot be read, because a benchmark with holes measures something else.
    """
    rows, unreadable = read_queries(row, read_hub, options)
    if not unreadable.is_empty():
        first = unreadable.row(0, named=True)
        raise ValueError(
            f"benchmark {row.name}: {unreadable.height} problems unreadable; {first['source_row']}: {first['reason']}"
        )
    return rows
