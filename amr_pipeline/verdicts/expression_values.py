"""What expressions are worth, and whether two of them are equal.

Numbers are exact fractions as long as they can be, double precision beyond. Expressions with letters are compared at
a few fixed points: two elementary expressions that agree at generic points are equal, and two that differ at one are
not. Where rounding could decide, nothing is decided and slower algebra is asked.
"""

import cmath
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

from amr_pipeline.verdicts.expressions import Node, has_call, symbols

Value: TypeAlias = Fraction | float | complex

LARGEST_BITS = 200_000
"""Exact numbers beyond this size are not worked out."""

LARGEST_FACTORIAL = 5_000

SURELY_EQUAL = 1e-12
"""Relative difference below which inexact values of unlike form are equal."""

SURELY_DIFFERENT = 1e-6
"""Relative difference above which they differ; between the two, double precision does not say."""

_USUALLY_WHOLE = frozenset({"n", "k", "m"})

_SMALL = 1e-9
"""Inexact values below this may be what rounding left of zero."""


class NoValue(ArithmeticError):
    """The expression has no value here, or none that can be worked out cheaply."""


def value_of(node: Node, at: Mapping[str, Value] | None = None) -> Value:
    """The value of an expression with its letters as given; exact where possible.

    Raises:
        NoValue: it is undefined there, too large to work out, or has letters without a value.
    """
    try:
        return _value(node, at or {})
    except (ZeroDivisionError, OverflowError, ValueError) as error:
        raise NoValue(str(error)) from error


def exact_value(node: Node) -> Fraction | None:
    """The value as a fraction, or None where it is not rational or not worked out exactly."""
    try:
        found = value_of(node)
    except NoValue:
        return None
    return found if isinstance(found, Fraction) else None


def real_value(node: Node) -> float | None:
    """The value as a number on the line, or None where it has none or is not worked out."""
    try:
        found = value_of(node)
        return None if isinstance(found, complex) else float(found)
    except (NoValue, OverflowError):
        return None


def expressions_agree(left: Node, right: Node, relative_tolerance: float = 0.0) -> bool | None:
    """Whether two expressions are equal for all values of their letters, or None where that is not sure.

    Args:
        left: what is right.
        right: what is compared with it.
        relative_tolerance: how far values may differ, for answers written as decimals.
    """
    if left == right:
        return True
    letters = symbols(left) | symbols(right)
    if not letters:
        return _readings_agree(left, right, {}, relative_tolerance)
    if symbols(left) != symbols(right):
        return _without_some_letters(left, right, relative_tolerance)
    positive = [_readings_agree(left, right, _point(letters, number), relative_tolerance) for number in (0, 1)]
    if False in positive:
        return False
    negative = _readings_agree(left, right, _point(letters, 2), relative_tolerance)
    if negative is None and (whole := letters & _USUALLY_WHOLE):
        # (-1)^n has values at whole numbers only, and they are what is meant.
        at_whole = [
            _readings_agree(left, right, {**_point(letters, 2), **_whole_point(whole, number)}, relative_tolerance)
            for number in (2, 5, 6)
        ]
        return True if at_whole == [True] * 3 and positive == [True, True] else None
    # Agreement at positive points alone is log(xy) = log x + log y, or sqrt(x^2) = x: for algebra to say.
    return True if positive == [True, True] and negative is True else None


def _without_some_letters(left: Node, right: Node, tolerance: float) -> bool | None:
    """Unlike letters: equal only where the extra ones cancel; different names are for algebra or people."""
    letters = symbols(left) | symbols(right)
    found = [_readings_agree(left, right, _point(letters, number), tolerance) for number in (0, 1, 2)]
    return True if found == [True] * 3 else False if False in found else None


def _readings_agree(left: Node, right: Node, at: Mapping[str, Value], tolerance: float) -> bool | None:
    r"""Agreement at a point, in any reading that both expressions may have alike.

    A bare `\log` may be natural or decimal, a broken power of a negative number its real root.
    """
    found = _agree_at(left, right, at, tolerance)
    if found is None and _agree_at(_real_roots(left), _real_roots(right), at, tolerance):
        return True
    if found is not True and (has_call(left, "log") or has_call(right, "log")):
        decimal = _agree_at(_decimal_logs(left), _decimal_logs(right), at, tolerance)
        return True if decimal is True else None if None in (found, decimal) else False
    return found


def _agree_at(left: Node, right: Node, at: Mapping[str, Value], tolerance: float) -> bool | None:
    try:
        return values_agree(value_of(left, at), value_of(right, at), tolerance)
    except NoValue:
        return None


def values_agree(one: Value, other: Value, relative_tolerance: float = 0.0) -> bool | None:
    """Whether two values are equal; None where double precision cannot tell.

    Infinite and undefined values do not come here. The tolerance is relative to `one`.
    """
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other or abs(one - other) <= Fraction(relative_tolerance) * abs(one)
    try:
        a, b = complex(one), complex(other)
    except OverflowError:
        return None
    difference, size = abs(a - b), max(abs(a), abs(b))
    if not math.isfinite(difference):
        return None
    if size < _SMALL:
        return None
    if difference <= SURELY_EQUAL * size or difference <= relative_tolerance * abs(a):
        return True
    return False if difference > SURELY_DIFFERENT * size and difference > _SMALL else None


@lru_cache(maxsize=256)
def _point(letters: frozenset[str], number: int) -> Mapping[str, Value]:
    """Fixed generic values: above one, between zero and one, negative; names decide, so order does not matter."""
    place = {name: sum(ord(letter) * 31**index for index, letter in enumerate(name)) for name in letters}
    spread = {name: math.modf((seed * 0.618033988749895) + 0.137 * number)[0] for name, seed in place.items()}
    if number == 0:
        return {name: 1.1 + 1.7 * share for name, share in spread.items()}
    if number == 1:
        return {name: 0.15 + 0.7 * share for name, share in spread.items()}
    return {name: -0.4 - 1.3 * share for name, share in spread.items()}


def _whole_point(letters: frozenset[str], lowest: int) -> Mapping[str, Value]:
    return {name: Fraction(lowest + 2 * place) for place, name in enumerate(sorted(letters))}


def _decimal_logs(node: Node) -> Node:
    if node[0] == "call" and node[1] == "log":
        return ("call", "lg", _decimal_logs(node[2]))
    return tuple(_decimal_logs(part) if isinstance(part, tuple) else part for part in node)


def _real_roots(node: Node) -> Node:
    """Powers with an odd denominator as powers of real roots."""
    if node[0] == "power" and (exponent := exact_value(node[2])) is not None and exponent.denominator % 2 == 1:
        root = ("root", _real_roots(node[1]), ("number", Fraction(exponent.denominator)))
        return ("power", root, ("number", Fraction(exponent.numerator))) if exponent.denominator > 1 else node
    return tuple(_real_roots(part) if isinstance(part, tuple) else part for part in node)


# --------------------------------------------------------------------------------------------------- the evaluator


def _value(node: Node, at: Mapping[str, Value]) -> Value:
    kind = node[0]
    if kind == "number":
        return node[1]
    if kind == "symbol":
        return _letter(node[1], at)
    if kind == "call":
        return _call(node[1], _value(node[2], at))
    return _OPERATIONS[kind](*(_value(part, at) for part in node[1:]))


def _letter(name: str, at: Mapping[str, Value]) -> Value:
    if name == "pi":
        return math.pi
    if name == "e" and "e" not in at:
        return math.e
    if name == "i" and "i" not in at:
        return 1j
    if name not in at:
        raise NoValue(f"{name} has no value")
    return at[name]


def _mixed(exact: Callable[[Fraction, Fraction], Fraction], inexact: Callable[[complex, complex], complex]):
    """An operation that stays exact on fractions of bearable size."""

    def operation(*values: Value) -> Value:
        result = values[0]
        for value in values[1:]:
            if isinstance(result, Fraction) and isinstance(value, Fraction):
                result = _bounded(exact(result, value))
            else:
                result = inexact(_inexact(result), _inexact(value))
        return result

    return operation


def _inexact(value: Value) -> complex:
    return value if isinstance(value, float | complex) else float(value)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > LARGEST_BITS:
        raise NoValue("too large")
    return value


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _whole_power(base, exponent.numerator)
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if base >= 0 and exponent.denominator <= 12:
            return _whole_power(_root(base, Fraction(exponent.denominator)), exponent.numerator)
        if base < 0:
            raise NoValue("a broken power of a negative number can be read in two ways")
    base, exponent = _inexact(base), _inexact(exponent)
    if isinstance(base, float) and base < 0:
        raise NoValue("a broken power of a negative number can be read in two ways")
    return base**exponent


def _whole_power(base: Value, exponent: int) -> Value:
    if not isinstance(base, Fraction):
        return base**exponent
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size * abs(exponent) > LARGEST_BITS:
        raise NoValue("too large")
    return base**exponent


def _root(radicand: Value, order: Value) -> Value:
    if not isinstance(order, Fraction) or order.denominator != 1 or not 2 <= order <= 60:
        raise NoValue("a root of this order")
    degree = order.numerator
    if isinstance(radicand, Fraction):
        top, bottom = _exact_root(abs(radicand.numerator), degree), _exact_root(radicand.denominator, degree)
        negative = radicand < 0
        if top is not None and bottom is not None and not (negative and degree % 2 == 0):
            return Fraction(-top if negative else top, bottom)
    value = _inexact(radicand)
    if isinstance(value, complex):
        if degree > 2:
            raise NoValue("a higher root of a complex number can be read in two ways")
        return cmath.sqrt(value)
    if value < 0 and degree % 2 == 0:
        return 1j * (-value) ** (1 / degree) if degree == 2 else _refuse("an even root of a negative number")
    return math.copysign(abs(value) ** (1 / degree), value) if degree > 2 else math.sqrt(value)


def _refuse(why: str) -> Value:
    raise NoValue(why)


def _exact_root(value: int, degree: int) -> int | None:
    if value.bit_length() > 1_000:
        return None
    guess = math.isqrt(value) if degree == 2 else round(value ** (1 / degree))
    return guess if guess**degree == value else None


def _binomial(top: Value, bottom: Value) -> Value:
    if not all(isinstance(value, Fraction) and value.denominator == 1 for value in (top, bottom)):
        raise NoValue("a binomial of unlike numbers")
    n, k = int(top.real), int(bottom.real)
    if not 0 <= k <= n <= LARGEST_FACTORIAL:
        raise NoValue("a binomial out of range")
    return Fraction(math.comb(n, k))


def _factorial(value: Value) -> Value:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= LARGEST_FACTORIAL:
        raise NoValue("a factorial out of range")
    return Fraction(math.factorial(value.numerator))


_OPERATIONS: Mapping[str, Callable[..., Value]] = {
    "add": _mixed(lambda a, b: a + b, lambda a, b: a + b),
    "multiply": _mixed(lambda a, b: a * b, lambda a, b: a * b),
    "divide": _mixed(lambda a, b: a / b, lambda a, b: a / b),
    "power": _power,
    "root": _root,
    "negate": lambda value: -value,
    "binomial": _binomial,
    "factorial": _factorial,
}

_COMPLEX: Mapping[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda x: 1 / cmath.tan(x),
    "sec": lambda x: 1 / cmath.cos(x),
    "csc": lambda x: 1 / cmath.sin(x),
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "ln": cmath.log,
    "log": cmath.log,
    "lg": cmath.log10,
    "exp": cmath.exp,
    "sqrt": cmath.sqrt,
}


def _call(name: str, value: Value) -> Value:
    if name == "abs":
        return abs(value)
    if name in ("floor", "ceil"):
        if isinstance(value, complex) and value.imag:
            raise NoValue("a rounded complex number")
        whole = math.floor if name == "floor" else math.ceil
        return Fraction(whole(value.real))
    if name in ("tan", "sec") and abs(cmath.cos(_inexact(value))) < 1e-12:
        raise NoValue("a pole")
    found = _COMPLEX[name](_inexact(value))
    # Real where the argument is real and so is the result, so that later roots and powers stay real.
    return found.real if isinstance(found, complex) and found.imag == 0 else found
