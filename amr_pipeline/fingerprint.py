"""A stable identity for anything that decides something.

Two rows with equal fields have equal fingerprints on every machine and in every process; a value without a
stable identity (an object's address, a set's order, a NaN) raises instead of being hashed.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

FINGERPRINT_LENGTH = 16
"""Hex digits kept of the sha256: 64 bits, enough for rows and code; content ids keep 128 (`content_id`)."""

NOT_IDENTITY = {"identity": False}
"""Field metadata for what changes how something runs but not what it produces (parallel sizes, notes)."""

IDENTITY_WHEN_SET = {"identity": "when set"}
"""Field metadata for a field that a row type got later: None adds nothing, so that rows keep the identity they had."""


_ID_JSON = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))
"""Made once: `json.dumps` with settings makes one per call, which was half of what an id cost."""


class UnstableIdentityError(TypeError):
    """A value was offered for hashing that has no identity across processes."""


def canonical(value: object) -> object:
    """`value` as JSON-ready plain data, with every dataclass named by its type.

    Fields whose metadata is `NOT_IDENTITY` are left out, and those of `IDENTITY_WHEN_SET` while they are None.

    Raises:
        UnstableIdentityError: the value, or something inside it, is not None, bool, int, finite float, str, bytes,
            an Enum, a list, a tuple, a mapping with string keys, or a dataclass of those.
    """
    if isinstance(value, Enum):
        return canonical(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnstableIdentityError(f"{value!r} has no stable identity; use None or a finite number")
        return value
    if isinstance(value, bytes):
        return {"__bytes__": hashlib.sha256(value).hexdigest()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise UnstableIdentityError("a mapping needs string keys to have a stable identity")
        return {str(key): canonical(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: canonical(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if _is_identity(field, getattr(value, field.name))
        }
        return {"__row__": type(value).__name__, **fields}
    raise UnstableIdentityError(
        f"{type(value).__name__} has no stable identity; wanted plain data or a frozen dataclass"
    )


def _is_identity(field: "dataclasses.Field[object]", value: object) -> bool:
    identity = field.metadata.get("identity", True)
    return value is not None if identity == "when set" else bool(identity)


def canonical_json(value: object) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII.

    Raises:
        UnstableIdentityError: as `canonical`.
    """
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def fingerprint(*values: object) -> str:
    """Short sha256 (16 hex digits) of rows or plain values, in the order given.

    Raises:
        UnstableIdentityError: as `canonical`.
    """
    return hashlib.sha256(canonical_json(list(values)).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def content_id(*parts: str | int) -> str:
    """128-bit hex id of a tuple of strings and integers; used for `query_id` and `response_id`.

    At 40 million ids the chance of one collision is about 2e-24, so ids may be compared instead of content.
    """
    return hashlib.sha256(_ID_JSON.encode(parts).encode()).hexdigest()[:32]


def files_digest(paths: list[Path]) -> str:
    """`sha256:` digest of several files' names and bytes, independent of where their folder is.

    The revision of a local model, and the code fingerprint of a chapter.

    Raises:
        FileNotFoundError: one of them is missing.
    """
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda item: item.name):
        with path.open("rb") as file:  # weights may exceed the memory
            total.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{total.hexdigest()[:32]}"
