"""What the files that a study names hold, as a digest in its rows.

A path says where a file is, not what is in it. With the digest in the row, an edited file is another source: its
partitions are owed, and corrected responses have ids of their own.

Belongs here: identity of files. Does not belong here: reading records (`sources.records`).
"""

import hashlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.studies.study import Benchmark, Distiller, JsonLines, Parquet, Source, Study

Reading = TypeVar("Reading", Source, Benchmark, Distiller)

Options = Mapping[str, object]
"""What fsspec needs to reach the deployment's object store."""

UNREACHED = "unreached"
"""The digest of files whose store did not let them be looked at when the study was loaded."""

_log = logging.getLogger(__name__)


class UnreachedFilesError(OSError):
    """Nobody knows whether files are those that the study meant, because their store was not reached."""


def content_digest(path: str, options: Options | None = None) -> str:
    """Identity of what is at a local path, address or glob: of the bytes of local files, of the entity tags elsewhere.

    Local files are read once per process and state; an object store is only asked.

    Args:
        path: of one file, a folder or several.
        options: what fsspec needs to reach the deployment's object store; used for `s3://` only.

    Raises:
        FileNotFoundError: nothing is there.
        OSError: the store refuses, or is not reached; its client raises errors of its own, too.
    """
    files, names = files_at(path, options)
    if isinstance(files, LocalFileSystem):
        return f"sha256:{fingerprint([_local_sha256(name, _state(name)) for name in sorted(names)])}"
    found = [files.info(name) for name in sorted(names)]
    return f"etag:{fingerprint([str(info.get('ETag') or info.get('etag') or sorted(info.items())) for info in found])}"


def options_for(path: str, options: Options | None) -> dict[str, Any]:
    """What fsspec is given to open a path: on `s3://` the deployment's options, elsewhere nothing.

    Listings are not kept: a process that lives for days would not see that a file of a folder was replaced.
    """
    return {**(options or {}), "use_listings_cache": False} if urlsplit(path).scheme in ("s3", "s3a") else {}


def files_at(path: str, options: Options | None = None) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    """(file system, files) at a local path, address, folder or glob.

    Raises:
        FileNotFoundError: nothing is there.
    """
    files, place = fsspec.core.url_to_fs(path, **options_for(path, options))
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


def with_digests(study: Study, options: Options | None = None) -> Study:
    """The study with the digest of every file that a row reads; files that are not there stay without one.

    A digest that the study's author wrote stays: reading refuses a file that differs (`sources.records`). A store that
    is not reached costs its own rows only: they carry `UNREACHED`, and reading them raises.
    """
    away: set[str] = set()

    def each(row: Reading) -> Reading:
        return _with_digest(row, options, away)

    return replace(
        study,
        sources=tuple(map(each, study.sources)),
        benchmarks=tuple(map(each, study.benchmarks)),
        distillers=tuple(map(each, study.distillers)),
    )


def _with_digest(row: Reading, options: Options | None, away: set[str]) -> Reading:
    reads = row.reads
    if not isinstance(reads, JsonLines | Parquet) or reads.digest is not None:
        return row
    url = urlsplit(reads.path)
    place = f"{url.scheme}://{url.netloc}"
    if place in away:  # each that is asked takes up to a minute to be given up
        return replace(row, reads=replace(reads, digest=UNREACHED))
    try:
        return replace(row, reads=replace(reads, digest=content_digest(reads.path, options)))
    except FileNotFoundError:
        return row
    except (OSError, *_errors_of_stores()) as error:
        if url.netloc:
            away.add(place)
        _log.warning("%s: what it reads cannot be looked at (%s: %s)", row.name, type(error).__name__, error)
        return replace(row, reads=replace(reads, digest=UNREACHED))


def _errors_of_stores() -> tuple[type[Exception], ...]:
    """What an S3 client raises that is no OSError; nothing where none was loaded."""
    module = sys.modules.get("botocore.exceptions")
    return (module.BotoCoreError, module.ClientError) if module is not None else ()


def require_same_content(reads: JsonLines | Parquet, options: Options | None = None) -> None:
    """Refuse files that are not those whose digest the row carries.

    Raises:
        ValueError: they differ; rows read from them would be recorded as something they are not.
        FileNotFoundError: nothing is there.
        UnreachedFilesError: their store was not reached when the study was loaded, or is not now.
    """
    if reads.digest is None:
        return
    try:
        found = content_digest(reads.path, options)
    except FileNotFoundError:
        raise
    except (OSError, *_errors_of_stores()) as error:
        at = (options or {}).get("endpoint_url") or "the provider"
        where = f" at {at}" if options_for(reads.path, options) else ""
        raise UnreachedFilesError(
            f"{reads.path} cannot be read{where} ({type(error).__name__}: {error}); the address of the deployment's "
            "store is AMR_S3_ENDPOINT, its keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    if reads.digest == UNREACHED:
        raise UnreachedFilesError(
            f"{reads.path} could not be looked at when the study was loaded, but can now: run again"
        )
    if found != reads.digest:
        raise ValueError(
            f"{reads.path} holds {found}, the study says {reads.digest}; it changed after the study was loaded (run "
            "again), or its row names another version"
        )
