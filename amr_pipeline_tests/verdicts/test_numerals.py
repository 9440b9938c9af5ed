from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.numerals import NUMBER_WORDS, numeral, repeating_decimal


@given(st.integers(0, 10**9), st.integers(2, 16))
def test_a_numeral_is_what_its_digits_say(value: int, base: int):
    digits, rest = "", value
    while rest or not digits:
        digits, rest = "0123456789ABCDEF"[rest % base] + digits, rest // base
    assert numeral(digits, base) == numeral(digits.lower(), base) == value


@pytest.mark.parametrize(
    ("digits", "base"),
    [("12", 2), ("9", 9), ("G", 16), ("12", 17), ("12", 1), ("12", Fraction(5, 2)), ("", 10), ("1.5", 10), ("²", 10)],
)
def test_what_is_no_numeral_has_no_value(digits: str, base: int):
    assert numeral(digits, base) is None


def test_repeating_decimals_are_fractions():
    assert repeating_decimal("0.\\overline{3}") == Fraction(1, 3)
    assert repeating_decimal("0.1\\overline{6}") == Fraction(1, 6)
    assert repeating_decimal("2.\\overline{142857}") == Fraction(15, 7)


def test_numbers_have_names():
    assert (NUMBER_WORDS["zero"], NUMBER_WORDS["twelve"], NUMBER_WORDS["ninety"]) == (0, 12, 90)
