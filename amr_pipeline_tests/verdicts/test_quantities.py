from fractions import Fraction

import pytest

from amr_pipeline.verdicts.quantities import PERCENT, is_single_letter, unit_of


@pytest.mark.parametrize(
    ("text", "factor", "dimension"),
    [
        ("cm", Fraction(1, 100), (("length", 1),)), ("meters", Fraction(1), (("length", 1),)), ("cm^2", Fraction(1, 10000), (("length", 2),)),
        ("square cm", Fraction(1, 10000), (("length", 2),)), ("m squared", Fraction(1), (("length", 2),)), ("km/h", Fraction(1000, 3600), (("length", 1), ("time", -1))),
        ("miles per hour", Fraction(201168, 125 * 3600), (("length", 1), ("time", -1))), ("cents", Fraction(1, 100), (("money", 1),)),
    ],
)  # fmt: skip
def test_units(text: str, factor: Fraction, dimension: tuple):
    assert unit_of(text) == (factor, dimension)


def test_what_is_no_unit_of_the_table():
    for text in ("apples", "M", "", "square", "cm apples", "/"):
        assert unit_of(text) is None
    assert unit_of("%") == unit_of("percent") == PERCENT


def test_a_letter_alone_may_be_algebra():
    assert is_single_letter("m")
    assert is_single_letter("m^2")
    assert not is_single_letter("cm")
