"""A file is what it holds, wherever it is and whenever it was touched."""

import os
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from amr_pipeline.studies.file_contents import content_digest, require_same_content, with_digests
from amr_pipeline.studies.study import JsonLines, Parquet
from amr_pipeline_tests.studies.small import SOURCE, small_study


def test_only_what_a_file_holds_counts(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text("1")
    one = content_digest(str(path))
    os.utime(path, (1, 1))
    assert content_digest(str(path)) == content_digest(f"file://{path}") == one
    path.write_text("22")
    assert content_digest(str(path)) != one
    path.write_text("1")
    assert content_digest(str(path)) == one


def test_every_file_of_a_glob_and_of_a_folder_counts(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.parquet").write_text(name)
    for place in (str(tmp_path), f"{tmp_path}/*.parquet"):
        before = content_digest(place)
        (tmp_path / "b.parquet").write_text(place)
        assert content_digest(place) != before
    with pytest.raises(FileNotFoundError):
        content_digest(f"{tmp_path}/*.jsonl")


def test_elsewhere_the_store_says_what_it_holds():
    files = fsspec.filesystem("memory")
    files.pipe_file("/contents/a", b"1")
    one = content_digest("memory://contents/a")
    assert one.startswith("etag:")
    assert content_digest("memory://contents/a") == one
    files.pipe_file("/contents/a", b"22")
    assert content_digest("memory://contents/a") != one


def test_a_study_carries_digests_where_there_are_files_and_reading_holds_it_to_them(tmp_path: Path):
    path = tmp_path / "numbers.jsonl"
    path.write_text("{}\n")
    there, absent = JsonLines(path=str(path)), Parquet(path=str(tmp_path / "absent.parquet"))
    sources = (replace(SOURCE, reads=there), replace(SOURCE, name="absent", reads=absent))
    (found, missing) = (row.reads for row in with_digests(small_study(sources=sources)).sources)
    assert found == replace(there, digest=content_digest(str(path)))
    assert missing == absent
    require_same_content(found)
    path.write_text("{}\n{}\n")
    with pytest.raises(ValueError, match="changed after the study was loaded"):
        require_same_content(found)
    written = replace(SOURCE, reads=replace(there, digest="sha256:pinned"))
    assert with_digests(small_study(sources=(written,))).sources == (written,)
