import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from amr_pipeline.categories import Category
from amr_pipeline.sources import records
from amr_pipeline.sources.records import (
    OversizedSourceError,
    UnreadableRowError,
    first_group,
    messages_of,
    read_benchmark,
    read_queries,
    read_records,
    value_at,
)
from amr_pipeline.studies.study import (
    Benchmark,
    Generated,
    HubDataset,
    JsonLines,
    Parquet,
    QueryColumns,
    Reads,
    Sampling,
    Source,
)


def source(
    reads: Reads, columns: QueryColumns | None = None, category: Category | None = Category.MATH, **more: object
) -> Source:
    return Source(
        name="s",
        reads=reads,
        category=category,
        columns=columns or QueryColumns(reference="answer"),
        licence="MIT",
        **more,
    )


def test_hostile_lines_become_reasons_and_nothing_is_lost(tmp_path: Path):
    lines = [
        b'{"question": "1+1?", "answer": "2"}', b'{"question": "trunc', b"[1, 2]", b"null", b'{"answer": "no question"}',
        b'{"question": 5}', b'{"question": "bad \xff\xfe utf8", "answer": "x"}', b'{"question": "lone \\ud800 surrogate"}',
        b"[" * 100_000, b'{"question": "nul \\u0000 inside"}',
    ]  # fmt: skip
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    rows, unreadable = read_queries(source(JsonLines(path=str(path))))
    assert rows.height + unreadable.height == len(lines)
    assert rows["messages"].list.first().struct.field("content").to_list()[0] == "1+1?"
    assert set(unreadable["reason"]) == {"malformed", "no question"}
    assert "\x00" not in "".join(turns[0]["content"] for turns in rows["messages"].to_list())


def test_layouts_read_the_same(tmp_path: Path):
    records = [{"question": "a?", "answer": "1"}, {"question": "b?", "answer": "2"}]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "q.jsonl").write_text(text)
    with gzip.open(tmp_path / "q.jsonl.gz", "wt") as file:
        file.write(text)
    (tmp_path / "q.json").write_text(json.dumps({"samples": records}))
    pl.DataFrame(records).write_parquet(tmp_path / "q.parquet")
    reads: list[Reads] = [
        JsonLines(path=str(tmp_path / "q.jsonl")), JsonLines(path=str(tmp_path / "q.jsonl.gz")),
        JsonLines(path=str(tmp_path / "q.json"), records_at="samples"), Parquet(path=str(tmp_path / "*.parquet")),
    ]  # fmt: skip
    for one in reads:
        assert read_queries(source(one))[0]["reference"].to_list() == ["1", "2"]


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "FREE_BYTES", 2**20)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("content", [b'{"question": "x?"}\n' * 2**20, b"\n" * 2**24, b" " * 2**24])
def test_a_compressed_file_that_comes_to_far_more_than_its_size_is_refused(tmp_path: Path, content: bytes):
    with gzip.open(tmp_path / "q.jsonl.gz", "wb") as file:
        file.write(content)
    size = (tmp_path / "q.jsonl.gz").stat().st_size
    with pytest.raises(
        OversizedSourceError, match=rf"has {size:,} bytes and comes to more than .* store it uncompressed"
    ):
        read_queries(source(JsonLines(path=str(tmp_path / "q.jsonl.gz"))))
    (tmp_path / "q.jsonl").write_bytes(content[: 2**20])
    read_queries(source(JsonLines(path=str(tmp_path / "q.jsonl"))))


@pytest.mark.usefixtures("small_limits")
def test_a_column_of_one_long_text_many_times_over_is_refused(tmp_path: Path):
    pl.DataFrame({"question": ["long " * 2_000] * 10_000}).write_parquet(tmp_path / "q.parquet")
    with pytest.raises(OversizedSourceError, match="comes to more than"):
        read_queries(source(Parquet(path=str(tmp_path / "q.parquet"))))


def test_a_document_too_large_to_parse_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, text = tmp_path / "q.json", json.dumps({"samples": [{"question": "x?", "answer": "1"}] * 4})
    path.write_text(text)
    reads = JsonLines(path=str(path), records_at="samples")
    monkeypatch.setattr(records, "LARGEST_DOCUMENT_BYTES", len(text))
    assert read_queries(source(reads))[0].height == 4
    monkeypatch.setattr(records, "LARGEST_DOCUMENT_BYTES", len(text) - 1)
    with pytest.raises(OversizedSourceError, match="store its records as lines"):
        read_queries(source(reads))


def test_columns_descend_match_and_combine():
    record = {
        "a": {"b": "x"},
        "a.b": "whole",
        "t": "def check(candidate): pass",
        "f": "g",
        "ids": ["en:k"],
        "kw": [{"n": 1, "m": None}],
    }
    assert value_at({"a": {"b": "x"}}, "a.b") == "x"
    assert value_at(record, "a.b") == "whole"
    assert value_at(record, "a.c") is None
    assert first_group(r"A: (\d+)", "A: 1\nA: 2") == "2"
    assert first_group(r"A: (\d+)", "none") is None


def test_tests_and_constraints_are_mapped(tmp_path: Path):
    path = tmp_path / "c.jsonl"
    record = {"q": "?", "t": "def check(c): pass", "f": "g", "ids": ["en:punctuation:no_comma"], "kw": [{"n": None}]}
    path.write_text(json.dumps(record))
    columns = QueryColumns(
        question="q", test_program="t", entry_point="f", constraint_ids="ids", constraint_kwargs="kw"
    )
    (row,) = read_queries(source(JsonLines(path=str(path)), columns))[0].to_dicts()
    assert json.loads(row["test_cases"]) == {"call_type": "program", "fn_name": "g", "program": "def check(c): pass"}
    assert json.loads(row["constraints"]) == [{"id": "punctuation:no_comma", "kwargs": {}}]


def test_rows_left_out_by_the_source_say_so(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "x?", "year": 2024}\n{"question": "y?", "year": 2023}\n')
    rows, unreadable = read_queries(source(JsonLines(path=str(path)), drop=(("year", "2024"),)))
    assert rows.height == 1
    assert unreadable["reason"].to_list() == ["left out by the source row"]


def test_mixed_sources_name_their_category_and_unknown_ones_are_rejected(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"question": "x?", "category": "instruction follow"}\n{"question": "y?", "category": "poetry"}\n')
    rows, unreadable = read_queries(source(JsonLines(path=str(path)), QueryColumns(category="category"), category=None))
    assert rows["category"].to_list() == ["instruction_following"]
    assert unreadable["reason"][0].startswith("unknown category")


def test_turns_must_be_records_with_role_and_content():
    with pytest.raises(UnreadableRowError):
        messages_of({"m": ["hi"]}, QueryColumns(messages="m"))
    with pytest.raises(UnreadableRowError):
        messages_of({"m": []}, QueryColumns(messages="m"))


def test_a_benchmark_with_holes_is_refused_and_a_hub_needs_a_reader(tmp_path: Path):
    path = tmp_path / "b.jsonl"
    path.write_text('{"question": "x?"}\n{}\n')
    row = Benchmark(
        name="b", reads=JsonLines(path=str(path)), category=Category.MATH, columns=QueryColumns(), num_samples=1,
        sampling=Sampling(temperature=0, top_p=1, max_tokens=1), licence="MIT",
    )  # fmt: skip
    with pytest.raises(ValueError, match="unreadable"):
        read_benchmark(row)
    with pytest.raises(ValueError, match="hub"):
        list(read_records(HubDataset(repository="a/b", revision=None)))


def test_generated_parts_are_sources():
    rows, _ = read_queries(
        source(
            Generated(world="micro", part="math", num_rows=5, seed=1), QueryColumns(question=None, messages="messages")
        )
    )
    assert rows.height == 5


def test_a_glob_reads_every_file_and_says_which(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"question": "' + name + '"}\n')
    read = list(read_records(JsonLines(path=f"{tmp_path}/*.jsonl")))
    assert [(raw.place, raw.record) for raw in read] == [
        ("a.jsonl line 1", {"question": "a"}),
        ("b.jsonl line 1", {"question": "b"}),
    ]
    with pytest.raises(FileNotFoundError):
        list(read_records(JsonLines(path=f"{tmp_path}/*.json")))
