"""Frames and values as they cross the wall of a box: exact builtin values as tagged JSON, after a four-byte length.

Loaded inside boxes as text, so it imports the standard library only.
"""

import json
import os
import struct
from collections.abc import Callable
from typing import Any


def encode(value: Any, depth: int = 0) -> object:
    """Exact builtin values as tagged JSON; anything else is opaque, so no subclass can pretend to be one."""
    kind = type(value)
    if depth > 50:
        return {"t": "opaque", "v": "deep"}
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if abs(value) < 2**53 else {"t": "int", "v": hex(value)}
    if kind is float:
        return {"t": "float", "v": repr(value)}
    if kind in (list, tuple, set, frozenset):
        items = [encode(item, depth + 1) for item in value]
        return items if kind is list else {"t": kind.__name__, "v": items}
    if kind is dict:
        return {"t": "dict", "v": [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in value.items()]}
    if kind in (bytes, complex):
        return {"t": kind.__name__, "v": value.hex() if kind is bytes else [repr(value.real), repr(value.imag)]}
    return {"t": "opaque", "v": kind.__name__[:100]}


def decode(value: object) -> object:
    """The exact builtin value of tagged JSON."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind: str = value["t"]
    inside: Any = value["v"]
    if kind == "dict":
        return {decode(key): decode(item) for key, item in inside}
    if kind == "complex":
        return complex(float(inside[0]), float(inside[1]))
    simple: dict[str, Callable[[Any], object]] = {
        "int": lambda text: int(text, 16),
        "float": float,
        "bytes": bytes.fromhex,
    }
    if kind in simple:
        return simple[kind](inside)
    many: dict[str, Callable[[Any], object]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
    if kind in many:
        return many[kind](decode(item) for item in inside)
    return object()  # opaque: equal to nothing


def read_exactly(descriptor: int, size: int) -> bytes | None:
    """`size` bytes, or None at the end of the stream."""
    parts = b""
    while len(parts) < size:
        part = os.read(descriptor, size - len(parts))
        if not part:
            return None
        parts += part
    return parts


def read_frame(descriptor: int, longest: int | None = None) -> Any:
    """One frame, or None at the end of the stream.

    Raises:
        ValueError: it is longer than `longest` bytes, or no JSON.
    """
    head = read_exactly(descriptor, 4)
    size = 0 if head is None else struct.unpack("<I", head)[0]
    if longest is not None and size > longest:
        raise ValueError("a frame over its cap")
    body = None if head is None else read_exactly(descriptor, size)
    return None if body is None else json.loads(body, parse_constant=refuse)


def refuse(name: str) -> object:
    """NaN and its like, which Python's JSON would let through.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is no JSON")


def write_frame(descriptor: int, value: dict[str, Any]) -> None:
    """One frame."""
    body = json.dumps(value).encode()
    body = struct.pack("<I", len(body)) + body
    while body:
        body = body[os.write(descriptor, body) :]
