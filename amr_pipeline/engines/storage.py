"""Bytes under one root, on a local folder or an object store, with the two writes that tables need.

An *immutable* write puts a file whose name is its content: writing it twice is harmless. An *exclusive* write
creates a name that must not exist: of two writers exactly one wins. Both are durable when they return.

Belongs here: bytes and names. Does not belong here: what a table, a part or a commit is.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import fsspec

READS_TOGETHER = 64
"""Requests of `read_each` that are under way at a time."""


class Storage(Protocol):
    """Where files are kept; names are relative to the root and use `/`."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises FileNotFoundError."""
        ...

    def put(self, name: str, content: bytes) -> None:
        """Write a file that is visible whole or not at all; replaces."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that must not exist yet; False when it does.

        A store whose reply was lost is asked again, and then finds the bytes of its own first attempt: a file that
        holds exactly `content` counts as written. Writers whose content may coincide put a mark of their own in it.
        """
        ...

    def upload(self, name: str, path: Path) -> None:
        """`put` for a local file of any size."""
        ...

    def download(self, name: str, path: Path) -> None:
        """Copy a file to a local path; raises FileNotFoundError."""
        ...

    def local(self, name: str) -> Path | None:
        """Where it lies on this machine, None where it does not."""
        ...

    def names(self, folder: str) -> dict[str, float]:
        """Files directly in a folder with their age in seconds since the epoch; empty when it does not exist."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder."""
        ...

    def names_below(self, folder: str) -> dict[str, float]:
        """Files anywhere below a folder, by their path from it, with their age in seconds since the epoch."""
        ...

    def read_each(self, names: Sequence[str]) -> list[bytes | None]:
        """The bytes of many files, in order; None for one that is not there."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file; no error when it is gone already."""
        ...


def open_storage(root: str, options: Mapping[str, object] | None = None) -> Storage:
    """Storage at a local path or a URL such as `s3://bucket/prefix`.

    Credentials come from the usual AWS variables; `options` are passed to fsspec and never logged.
    """
    if "://" in root and not root.startswith("file://"):
        return ObjectStorage(root, options or {})
    return LocalStorage(Path(root.removeprefix("file://")))


class LocalStorage:
    """A folder. Temporary files are synced, then renamed (put) or linked (create)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        return (self._root / name).read_bytes()

    def put(self, name: str, content: bytes) -> None:
        """See `Storage.put`."""
        self._replace(name, self._write_temporary(name, lambda file: file.write(content)))

    def upload(self, name: str, path: Path) -> None:
        """See `Storage.upload`."""
        with path.open("rb") as source:
            self._replace(name, self._write_temporary(name, lambda file: shutil.copyfileobj(source, file)))

    def download(self, name: str, path: Path) -> None:
        """See `Storage.download`."""
        shutil.copyfile(self._root / name, path)

    def local(self, name: str) -> Path | None:
        """See `Storage.local`."""
        return self._root / name

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage.create`; a hard link fails when the name exists, which a rename would not."""
        temporary = self._write_temporary(name, lambda file: file.write(content))
        try:
            os.link(temporary, self._root / name)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(temporary.parent)
        return True

    def names(self, folder: str) -> dict[str, float]:
        """See `Storage.names`."""
        try:
            with os.scandir(self._root / folder) as entries:
                listed = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return {}
        found = {}
        for entry in listed:
            # Another writer's temporary file may go between the two calls; it takes no other file with it.
            with suppress(FileNotFoundError):
                found[entry.name] = entry.stat(follow_symlinks=False).st_mtime
        return found

    def folders(self, folder: str) -> list[str]:
        """See `Storage.folders`."""
        place = self._root / folder
        return sorted(entry.name for entry in place.iterdir() if entry.is_dir()) if place.is_dir() else []

    def names_below(self, folder: str) -> dict[str, float]:
        """See `Storage.names_below`."""
        top, found = self._root / folder, dict[str, float]()
        for place, _, _ in os.walk(top):
            below = Path(place).relative_to(top).as_posix()
            listed = self.names(f"{folder}/{below}")
            found.update({name if below == "." else f"{below}/{name}": changed for name, changed in listed.items()})
        return found

    def read_each(self, names: Sequence[str]) -> list[bytes | None]:
        """See `Storage.read_each`."""
        found: list[bytes | None] = []
        for name in names:
            try:
                found.append(self.read(name))
            except FileNotFoundError:
                found.append(None)
        return found

    def remove(self, name: str) -> None:
        """See `Storage.remove`."""
        (self._root / name).unlink(missing_ok=True)

    def _replace(self, name: str, temporary: Path) -> None:
        try:
            os.replace(temporary, self._root / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(temporary.parent)

    def _write_temporary(self, name: str, write: Callable[[BinaryIO], object]) -> Path:
        folder = (self._root / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".unfinished-{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


class ObjectStorage:
    """An object store behind fsspec. One put is atomic there; exclusive means `If-None-Match: *`.

    Its client repeats a request whose reply was lost, and the repetition is refused because the first one arrived.
    """

    def __init__(self, root: str, options: Mapping[str, object]) -> None:
        self._files, self._root = fsspec.core.url_to_fs(root, use_listings_cache=False, **options)

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        return self._files.cat_file(f"{self._root}/{name}")

    def put(self, name: str, content: bytes) -> None:
        """See `Storage.put`."""
        self._files.pipe_file(f"{self._root}/{name}", content)

    def upload(self, name: str, path: Path) -> None:
        """See `Storage.upload`."""
        self._files.put_file(str(path), f"{self._root}/{name}")

    def download(self, name: str, path: Path) -> None:
        """See `Storage.download`."""
        self._files.get_file(f"{self._root}/{name}", str(path))

    def local(self, name: str) -> Path | None:  # noqa: ARG002 (nothing lies here, whatever its name)
        """See `Storage.local`."""
        return None

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage.create`."""
        try:
            self._files.pipe_file(f"{self._root}/{name}", content, mode="create")
        except FileExistsError:
            return self._holds(name, content)
        except OSError as error:
            # 412: the object exists; 409: another conditional write was under way.
            if any(
                mark in str(error) for mark in ("PreconditionFailed", "pre-condition", "ConditionalRequestConflict")
            ):
                return self._holds(name, content)
            raise
        return True

    def _holds(self, name: str, content: bytes) -> bool:
        try:
            return self.read(name) == content
        except FileNotFoundError:
            return False

    def names(self, folder: str) -> dict[str, float]:
        """See `Storage.names`."""
        try:
            listed = self._files.ls(f"{self._root}/{folder}", detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        return {
            entry["name"].rsplit("/", 1)[-1]: entry["LastModified"].timestamp() if entry.get("LastModified") else 0.0
            for entry in listed
            if entry["type"] == "file"
        }

    def folders(self, folder: str) -> list[str]:
        """See `Storage.folders`."""
        try:
            listed = self._files.ls(f"{self._root}/{folder}", detail=True, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in listed if entry["type"] == "directory")

    def names_below(self, folder: str) -> dict[str, float]:
        """See `Storage.names_below`; a thousand names take one request."""
        top = f"{self._root}/{folder}"
        try:
            listed = self._files.find(top, detail=True)
        except FileNotFoundError:
            return {}
        # What is listed is named without the protocol, as the root is after `url_to_fs`.
        return {
            name[len(top) + 1 :]: entry["LastModified"].timestamp() if entry.get("LastModified") else 0.0
            for name, entry in listed.items()
        }

    def read_each(self, names: Sequence[str]) -> list[bytes | None]:
        """See `Storage.read_each`; requests are under way together."""
        if not names:
            return []
        paths = [f"{self._root}/{name}" for name in names]
        found = self._files.cat(paths, on_error="return", batch_size=READS_TOGETHER)
        return [_bytes_or_none(found[path]) for path in paths]

    def remove(self, name: str) -> None:
        """See `Storage.remove`."""
        try:
            self._files.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return


def _bytes_or_none(found: bytes | BaseException) -> bytes | None:
    if isinstance(found, FileNotFoundError):
        return None
    if isinstance(found, BaseException):
        raise found
    return found


def _sync_folder(folder: Path) -> None:
    """Make a rename or link in `folder` survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
