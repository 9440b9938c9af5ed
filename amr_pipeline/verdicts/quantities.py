"""Units behind numbers: which measure the same thing, and by what factor.

Source of the policy: reliability measurements B5 (`5 cm` is not `5 m`, `100 cm` is `1 m`, `90°` is pi/2).
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

from amr_pipeline.verdicts.expression_values import expressions_agree
from amr_pipeline.verdicts.expressions import Node

Unit: TypeAlias = tuple[Fraction, tuple[tuple[str, int], ...]]
"""Factor to the base unit of its dimension, and the dimension as sorted (name, exponent) pairs."""

_BASE: dict[str, tuple[str, str]] = {
    # names: dimension, factor
    "nm nanometer nanometre": ("length", "1/1000000000"),
    "\\mu.m micrometer micrometre": ("length", "1/1000000"),
    "mm millimeter millimetre": ("length", "1/1000"),
    "cm centimeter centimetre": ("length", "1/100"),
    "dm decimeter decimetre": ("length", "1/10"),
    "m meter metre": ("length", "1"),
    "km kilometer kilometre": ("length", "1000"),
    "in inch inche": ("length", "127/5000"),
    "ft foot feet": ("length", "381/1250"),
    "yd yard": ("length", "1143/1250"),
    "mi mile": ("length", "201168/125"),
    "\\mu.g microgram": ("mass", "1/1000000"),
    "mg milligram": ("mass", "1/1000"),
    "g gram": ("mass", "1"),
    "kg kilogram": ("mass", "1000"),
    "oz ounce": ("mass", "28349523125/1000000000"),
    "lb pound": ("mass", "45359237/100000"),
    "tonne": ("mass", "1000000"),
    "ns nanosecond": ("time", "1/1000000000"),
    "\\mu.s microsecond": ("time", "1/1000000"),
    "ms millisecond": ("time", "1/1000"),
    "s sec second": ("time", "1"),
    "min minute": ("time", "60"),
    "h hr hour": ("time", "3600"),
    "day": ("time", "86400"),
    "week": ("time", "604800"),
    "cent ¢": ("money", "1/100"),
    "dollar usd": ("money", "1"),
    "percent pct %": ("percent", "1"),
    "degree deg ^\\circ": ("degree", "1"),
    "rad radian": ("radian", "1"),
    "A amp ampere": ("current", "1"),
    "K kelvin": ("temperature", "1"),
    "celsius": ("celsius", "1"),
    "fahrenheit": ("fahrenheit", "1"),
    "mol mole": ("substance", "1"),
}
_DERIVED: dict[str, tuple[str, str]] = {
    # names: the base units that it is a product of, factor
    "l liter litre": ("m^3", "1/1000"),
    "ml milliliter millilitre": ("m^3", "1/1000000"),
    "Hz hertz": ("s^-1", "1"),
    "N newton": ("kg m s^-2", "1"),
    "Pa pascal": ("kg m^-1 s^-2", "1"),
    "J joule": ("kg m^2 s^-2", "1"),
    "W watt": ("kg m^2 s^-3", "1"),
    "coulomb": ("A s", "1"),
    "V volt": ("kg m^2 s^-3 A^-1", "1"),
    "\\Omega ohm": ("kg m^2 s^-3 A^-2", "1"),
    "eV": ("kg m^2 s^-2", "801088317/5000000000000000000000000000"),
}
_PREFIXED = "A mol Hz N Pa J W V eV \\Omega"
_PREFIXES = {"n": "1/1000000000", "\\mu.": "1/1000000", "m": "1/1000", "k": "1000", "M": "1000000", "G": "1000000000"}

_UNITS: dict[str, Unit] = {
    name: (Fraction(factor), ((dimension, 1),))
    for names, (dimension, factor) in _BASE.items()
    for name in names.split()
}
_COMPOUND = {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour", "^\\circ C": "celsius", "^\\circ F": "fahrenheit"}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_FACTOR = re.compile(r"((?:\\mu\.)?(?:[A-Za-z%¢]*\\Omega|[A-Za-z%¢]+)|\^\\circ)\.?(?:\^?\{?(-?\d)\}?|([²³]))?")

PERCENT: Unit = _UNITS["percent"]
DEGREE: Unit = _UNITS["degree"]
RADIAN: Unit = _UNITS["radian"]


@lru_cache(maxsize=1024)
def unit_of(text: str) -> Unit | None:
    """The unit that a text names, None when it is not of the table (`apples`).

    `cm^2`, `square cm`, `km/h`, `miles per hour` and plurals are understood.
    """
    words = _COMPOUND.get(text.strip(), _COMPOUND.get(text.strip().lower(), text.strip()))
    words = re.sub(r"(?:\\mu|μ|µ)\s*", r"\\mu.", words.replace("Ω", "\\Omega"))
    words = words.replace(" per ", "/").replace("\\cdot", " ").replace("*", " ")
    total, dimensions = Fraction(1), dict[str, int]()
    for place, part in enumerate(words.split("/")):
        found = _product(part)
        if found is None:
            return None
        sign = -1 if place else 1
        total *= found[0] ** sign
        for name, exponent in found[1]:
            dimensions[name] = dimensions.get(name, 0) + sign * exponent
    return total, tuple(sorted((name, exponent) for name, exponent in dimensions.items() if exponent))


def is_single_letter(text: str) -> bool:
    """Whether a unit could as well be a letter of algebra (`5 m`)."""
    return len(re.sub(r"[^A-Za-z]", "", text)) == 1


def agree_with_units(left: Node, one: Unit, right: Node, other: Unit, tolerance: float) -> bool | None:
    """Whether two figures with units are the same quantity; units of unlike things never are."""
    if {one, other} == {DEGREE, RADIAN}:
        first, second = (node if unit == RADIAN else _in_radians(node) for node, unit in ((left, one), (right, other)))
        return expressions_agree(first, second, tolerance)
    if one[1] != other[1]:
        return False
    return expressions_agree(_scaled(left, one[0]), _scaled(right, other[0]), tolerance)


def agree_without_a_unit(left: Node, right: Node, unit: Unit, is_lefts: bool, tolerance: float) -> bool | None:
    """A figure that disagrees with the bare number may still be the same share (50 % of 0.5) or angle (90° of pi/2)."""
    if unit == PERCENT:
        converted = _scaled(left if is_lefts else right, Fraction(1, 100))
    elif unit == DEGREE:
        converted = _in_radians(left if is_lefts else right)
    else:
        return False
    return expressions_agree(converted, right, tolerance) if is_lefts else expressions_agree(left, converted, tolerance)


def _scaled(node: Node, factor: Fraction | int) -> Node:
    return ("multiply", ("number", Fraction(factor)), node)


def _in_radians(node: Node) -> Node:
    return ("multiply", ("divide", ("symbol", "pi"), ("number", Fraction(180))), node)


def _product(text: str) -> Unit | None:
    total, dimensions, power = Fraction(1), dict[str, int](), 1
    last: Unit | None = None
    for word in text.split():
        if word.lower() in ("squared", "cubed"):
            if last is None:
                return None
            extra = _POWERS[word.lower()] - 1
            total *= last[0] ** extra
            for name, exponent in last[1]:
                dimensions[name] += exponent * extra
            continue
        if word.lower() in _POWERS:
            power = _POWERS[word.lower()]
            continue
        match = _FACTOR.fullmatch(word)
        last = _named(match[1]) if match else None
        if match is None or last is None:
            return None
        exponent = power * (int(match[2]) if match[2] else {"²": 2, "³": 3}.get(match[3] or "", 1))
        total *= last[0] ** exponent
        for name, one in last[1]:
            dimensions[name] = dimensions.get(name, 0) + one * exponent
        power = 1
    return (total, tuple(sorted(dimensions.items()))) if dimensions else None


def _named(word: str) -> Unit | None:
    for name in (word, word.lower(), word.lower().removesuffix("s")):
        # One letter is a unit in its usual case only: `L` and `l`, but not `M` for `m`.
        if name in _UNITS and (len(word) > 1 or word in ("L", name)):
            return _UNITS[name]
    return None


for _names, (_product_of, _factor) in _DERIVED.items():
    _made = _product(_product_of)
    assert _made is not None
    for _name in _names.split():
        _UNITS[_name] = (_made[0] * Fraction(_factor), _made[1])
for _prefix, _factor in _PREFIXES.items():
    for _name in _PREFIXED.split():
        _UNITS[_prefix + _name] = (_UNITS[_name][0] * Fraction(_factor), _UNITS[_name][1])
