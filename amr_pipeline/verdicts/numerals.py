r"""Numbers that are not written as plain decimals: in words, in another base, with digits that repeat.

Belongs here: what one numeral is worth. Does not belong here: expressions of several.
"""

import re
from fractions import Fraction

_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_TENS = "thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {
    **{word: number for number, word in enumerate(_TO_TWENTY.split())},
    **{word: 10 * number for number, word in enumerate(_TENS.split(), 3)},
}
"""Whole numbers to twenty and the tens to ninety, by their English names."""

HIGHEST_BASE = 16

_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\{?(\d+)\}?")


def numeral(digits: str, base: Fraction | int) -> Fraction | None:
    """The value of `1011` in base 2 or `1A` in base 16, or None where base or digits are none."""
    if base.denominator != 1 or not 2 <= base <= HIGHEST_BASE or not digits.isalnum() or not digits.isascii():
        return None
    if any(int(digit, 36) >= base for digit in digits):
        return None
    return Fraction(int(digits, int(base)))


def repeating_decimal(text: str) -> Fraction:
    r"""`0.1\overline{6}` as the fraction it is."""
    found = _REPEATING.fullmatch(text)
    assert found is not None, "the reader takes nothing else for one"
    whole, fixed, repeated = found.groups()
    scale = 10 ** len(fixed)
    return (
        Fraction(int(whole or 0))
        + Fraction(int(fixed or 0), scale)
        + Fraction(int(repeated), scale * (10 ** len(repeated) - 1))
    )
