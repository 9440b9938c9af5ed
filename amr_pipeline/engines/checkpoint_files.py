"""Checkpoints in storage: a trained model's files under a name that is their content, fetched and checked before use.

    {root}/checkpoint_files/{recipe}/{digest}/...      settings, tokenizer and safetensors; nothing that could be code

Nobody is told of them before the commit of the table `checkpoints` names them; a killed upload leaves files that the
next one writes again. A folder serves as it is where storage is one; from an object store a copy appears whole, under
a cache, after its digest was found to be the table's.

Belongs here: a checkpoint between a folder and storage. Does not belong here: training, and what it resumes from.
"""

import shutil
import uuid
from pathlib import Path

from amr_pipeline.engines.model_folders import DIGESTED, WrongModelError, folder_digest
from amr_pipeline.engines.storage import Storage

FOLDER = "checkpoint_files"


class DamagedCheckpoint(OSError):
    """A checkpoint's files are not what its row says."""


def keep(files: Storage, recipe: str, folder: Path, digest: str) -> str:
    """Put an exported model into storage; its address relative to the root. Doing it again is harmless.

    Raises:
        WrongModelError: the folder is not the one that was exported.
    """
    found = folder_digest(folder)
    if found != digest:
        raise WrongModelError(
            f"{folder} has digest {found}, its training wrote {digest}; materialize checkpoints again"
        )
    address = f"{FOLDER}/{recipe}/{_name(digest)}"
    for path in sorted({path for pattern in DIGESTED for path in folder.glob(pattern)}):
        files.upload(f"{address}/{path.name}", path)
    return address


def fetch(files: Storage, address: str, digest: str, cache: Path) -> Path:
    """A local folder with a checkpoint: storage's own, or a copy under `cache` that is made once.

    Raises:
        DamagedCheckpoint: files are missing or altered; nothing appears under `cache`.
    """
    own = files.local(address)
    if own is not None:
        _require(own, address, digest)
        return own
    place = cache / _name(digest)
    if not place.exists():
        unfinished = cache / f".unfinished-{uuid.uuid4().hex}"
        unfinished.mkdir(parents=True)
        try:
            for name in files.names(address):
                files.download(f"{address}/{name}", unfinished / name)
            _require(unfinished, address, digest)
            _appear(unfinished, place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    _require(place, address, digest)
    return place


def _appear(unfinished: Path, place: Path) -> None:
    """Rename, unless another process was faster: equal names hold equal content."""
    try:
        unfinished.rename(place)
    except OSError:
        if not place.exists():
            raise


def _require(folder: Path, address: str, digest: str) -> None:
    try:
        found = folder_digest(folder)
    except WrongModelError:
        found = "no files"
    if found != digest:
        raise DamagedCheckpoint(
            f"checkpoint {address} is not the one in the table: found {found} in {folder}, wanted {digest}; restore "
            "its files, or delete the newest commit of its partition of `checkpoints` and materialize that again"
        )


def _name(digest: str) -> str:
    return digest.removeprefix("sha256:")
