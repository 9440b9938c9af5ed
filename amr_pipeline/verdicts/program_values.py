"""Values on their way into a box and out of it, and when two of them are equal.

What comes out is hostile: it is read as exact builtin types, so that every comparison is Python's own, and whatever has
another form is equal to nothing.
"""

import math
from collections.abc import Callable, Iterable


class _Opaque:
    """What no answer can be, equal to nothing."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return False


OPAQUE = _Opaque()


def tagged(value: object) -> object:
    """An argument as the driver decodes it: lists, strings and small numbers plain, everything else tagged."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else {"t": "int", "v": hex(value)}
    if isinstance(value, float):
        return {"t": "float", "v": repr(value)}
    if isinstance(value, list):
        return [tagged(item) for item in value]
    if isinstance(value, tuple | set | frozenset):
        return {"t": type(value).__name__, "v": [tagged(item) for item in value]}
    if isinstance(value, dict):
        return {"t": "dict", "v": [[tagged(key), tagged(item)] for key, item in value.items()]}
    if isinstance(value, bytes):
        return {"t": "bytes", "v": value.hex()}
    raise ValueError(f"{type(value).__name__} cannot be an argument")


def untagged(value: object, depth: int = 0) -> object:
    """The exact builtin value a box reported; an unknown or hostile form is equal to nothing, itself included.

    Plain are null, booleans, texts, lists and integers that JSON keeps; everything else carries its type.
    """
    if depth > 60:
        return OPAQUE
    if isinstance(value, list):
        return [untagged(item, depth + 1) for item in value]
    if value is None or isinstance(value, bool | str | int):
        return value
    if not isinstance(value, dict):
        return OPAQUE
    try:
        return _untagged_record(value, depth)
    except (KeyError, TypeError, ValueError, OverflowError):
        return OPAQUE


def _untagged_record(value: dict[str, object], depth: int) -> object:
    kind, inside = value["t"], value["v"]
    if kind == "int" and isinstance(inside, str) and len(inside) <= 4000:
        return int(inside, 16)
    if kind == "float" and isinstance(inside, str):
        return float(inside)
    if kind == "complex" and isinstance(inside, list) and len(inside) == 2:
        return complex(float(str(inside[0])), float(str(inside[1])))
    if kind == "bytes":
        return bytes.fromhex(str(inside))
    if kind == "dict" and isinstance(inside, list):
        return {untagged(key, depth + 1): untagged(item, depth + 1) for key, item in inside}
    many: dict[object, Callable[[list[object]], object]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
    if kind in many and isinstance(inside, list):
        return many[kind]([untagged(item, depth + 1) for item in inside])
    return OPAQUE


def same_value(answer: object, expected: object, relative_tolerance: float) -> bool:
    """Equality of exact builtin values: bool is no int, a tuple no list, floats within a relative tolerance."""
    if isinstance(answer, bool) or isinstance(expected, bool) or answer is None or expected is None:
        return answer is expected
    if isinstance(answer, int | float) and isinstance(expected, int | float):
        if isinstance(answer, int) and isinstance(expected, int):
            return answer == expected
        return _numbers_close(answer, expected, relative_tolerance)
    if type(answer) is not type(expected):
        return False
    if isinstance(answer, list | tuple) and isinstance(expected, list | tuple):
        return len(answer) == len(expected) and all(
            same_value(left, right, relative_tolerance) for left, right in zip(answer, expected, strict=True)
        )
    if isinstance(answer, dict) and isinstance(expected, dict):
        return _same_members(answer.keys(), expected.keys()) and all(
            same_value(answer[key], expected[key], relative_tolerance) for key in answer
        )
    if isinstance(answer, set | frozenset) and isinstance(expected, set | frozenset):
        return _same_members(answer, expected)
    return answer == expected


def _same_members(answer: Iterable[object], expected: Iterable[object]) -> bool:
    """Equality of what is hashed, where True would pass for 1."""
    return {(_spelled(one), one) for one in answer} == {(_spelled(one), one) for one in expected}


def _spelled(value: object) -> object:
    """Where the booleans in a hashable value are."""
    if isinstance(value, tuple | frozenset):
        return frozenset(map(_spelled, value)) if isinstance(value, frozenset) else tuple(map(_spelled, value))
    return isinstance(value, bool)


def _numbers_close(answer: float, expected: float, relative_tolerance: float) -> bool:
    try:
        return math.isclose(answer, expected, rel_tol=relative_tolerance, abs_tol=relative_tolerance)
    except OverflowError:  # an integer beyond every float is close to none
        return False


def same_output(answer: str, expected: str, relative_tolerance: float) -> bool:
    """Equality of printed text: trailing white space is free, numbers within a relative tolerance."""
    left, right = ([line.rstrip() for line in text.rstrip().splitlines()] for text in (answer, expected))
    if left == right:
        return True
    if [len(line.split()) for line in left] != [len(line.split()) for line in right]:
        return False
    words = zip(" ".join(left).split(), " ".join(right).split(), strict=True)
    return all(one == other or _close(one, other, relative_tolerance) for one, other in words)


def _close(one: str, other: str, relative_tolerance: float) -> bool:
    try:
        a, b = float(one), float(other)
    except ValueError:
        return False
    # Whole numbers are compared as they stand: 1 and 1.0000001 are different answers to an integer question.
    return "." in other and math.isclose(a, b, rel_tol=relative_tolerance, abs_tol=relative_tolerance)
