"""What the files that a study names hold, as a digest in its rows.

A path says where a file is, not what is in it. With the digest in the row, an edited file is another source: its
partitions are owed, and corrected responses have ids of their own.

Belongs here: identity of files. Does not belong here: reading records (`sources.records`).
"""

import hashlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.studies.study import Benchmark, Distiller, JsonLines, Parquet, Source, Study

Reading = TypeVar("Reading", Source, Benchmark, Distiller)


def content_digest(path: str) -> str:
    """Identity of what is at a local path, address or glob: of the bytes of local files, of the entity tags elsewhere.

    Local files are read once per process and state; an object store is only asked.

    Raises:
        FileNotFoundError: nothing is there.
    """
    files, names = files_at(path)
    if isinstance(files, LocalFileSystem):
        return f"sha256:{fingerprint([_local_sha256(name, _state(name)) for name in sorted(names)])}"
    found = [files.info(name) for name in sorted(names)]
    return f"etag:{fingerprint([str(info.get('ETag') or info.get('etag') or sorted(info.items())) for info in found])}"


def files_at(path: str) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    """(file system, files) at a local path, address, folder or glob.

    Raises:
        FileNotFoundError: nothing is there.
    """
    files, place = fsspec.core.url_to_fs(path)
    if any(sign in place for sign in "*?["):
        names = files.glob(place)
    else:
        names = files.find(place) if files.info(place)["type"] == "directory" else [place]
    if not names:
        raise FileNotFoundError(f"there is no file at {path}")
    return files, [str(name) for name in names]


def _state(name: str) -> tuple[int, int, int]:
    found = Path(name).stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=4096)
def _local_sha256(name: str, _: tuple[int, int, int]) -> str:
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_digests(study: Study) -> Study:
    """The study with the digest of every file that a row reads; files that are not there stay without one.

    A digest that the study's author wrote stays: reading refuses a file that differs (`sources.records`).
    """
    return replace(
        study,
        sources=tuple(map(_with_digest, study.sources)),
        benchmarks=tuple(map(_with_digest, study.benchmarks)),
        distillers=tuple(map(_with_digest, study.distillers)),
    )


def _with_digest(row: Reading) -> Reading:
    reads = row.reads
    if not isinstance(reads, JsonLines | Parquet) or reads.digest is not None:
        return row
    try:
        return replace(row, reads=replace(reads, digest=content_digest(reads.path)))
    except FileNotFoundError:
        return row


def require_same_content(reads: JsonLines | Parquet) -> None:
    """Refuse files that are not those whose digest the row carries.

    Raises:
        ValueError: they differ; rows read from them would be recorded as something they are not.
        FileNotFoundError: nothing is there.
    """
    if reads.digest is not None and (found := content_digest(reads.path)) != reads.digest:
        raise ValueError(
            f"{reads.path} holds {found}, the study says {reads.digest}; it changed after the study was loaded (run "
            "again), or its row names another version"
        )
