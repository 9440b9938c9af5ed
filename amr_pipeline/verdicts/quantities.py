"""Units behind numbers: which measure the same thing, and by what factor.

Source of the policy: reliability measurements B5 (`5 cm` is not `5 m`, `100 cm` is `1 m`, `90°` is pi/2).
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

Unit: TypeAlias = tuple[Fraction, tuple[tuple[str, int], ...]]
"""Factor to the base unit of its dimension, and the dimension as sorted (name, exponent) pairs."""

_TABLE: dict[str, tuple[str, str]] = {
    # dimension, factor: names
    "nm nanometer nanometre": ("length", "1/1000000000"),
    "mm millimeter millimetre": ("length", "1/1000"),
    "cm centimeter centimetre": ("length", "1/100"),
    "dm decimeter decimetre": ("length", "1/10"),
    "m meter metre": ("length", "1"),
    "km kilometer kilometre": ("length", "1000"),
    "in inch inche": ("length", "127/5000"),
    "ft foot feet": ("length", "381/1250"),
    "yd yard": ("length", "1143/1250"),
    "mi mile": ("length", "201168/125"),
    "mg milligram": ("mass", "1/1000"),
    "g gram": ("mass", "1"),
    "kg kilogram": ("mass", "1000"),
    "oz ounce": ("mass", "28349523125/1000000000"),
    "lb pound": ("mass", "45359237/100000"),
    "tonne": ("mass", "1000000"),
    "ms millisecond": ("time", "1/1000"),
    "s sec second": ("time", "1"),
    "min minute": ("time", "60"),
    "h hr hour": ("time", "3600"),
    "day": ("time", "86400"),
    "week": ("time", "604800"),
    "ml milliliter millilitre": ("volume", "1/1000"),
    "l liter litre": ("volume", "1"),
    "cent ¢": ("money", "1/100"),
    "dollar usd": ("money", "1"),
    "percent pct %": ("percent", "1"),
    "degree deg ^\\circ": ("degree", "1"),
    "rad radian": ("radian", "1"),
}
_UNITS: dict[str, Unit] = {
    name: (Fraction(factor), ((dimension, 1),))
    for names, (dimension, factor) in _TABLE.items()
    for name in names.split()
}
_COMPOUND = {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour"}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_FACTOR = re.compile(r"([A-Za-z%¢]+|\^\\circ)\.?(?:\^?\{?(-?\d)\}?|([²³]))?")

PERCENT: Unit = _UNITS["percent"]
DEGREE: Unit = _UNITS["degree"]
RADIAN: Unit = _UNITS["radian"]


@lru_cache(maxsize=1024)
def unit_of(text: str) -> Unit | None:
    """The unit that a text names, None when it is not of the table (`apples`).

    `cm^2`, `square cm`, `km/h`, `miles per hour` and plurals are understood.
    """
    words = (
        _COMPOUND.get(text.strip().lower(), text.strip()).replace(" per ", "/").replace("\\cdot", " ").replace("*", " ")
    )
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
