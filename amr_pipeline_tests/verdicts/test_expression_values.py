import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.expression_values import NoValue, exact_value, expressions_agree, value_of, values_agree
from amr_pipeline.verdicts.expressions import parse_expression


def agree(left: str, right: str, tolerance: float = 0.0) -> bool | None:
    return expressions_agree(parse_expression(left), parse_expression(right), tolerance)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("\\frac{x+2}{7}", "\\frac{x}{7}+\\frac{2}{7}"), ("(r+5)(r+5)", "r^2+10r+25"), ("2\\sin x\\cos x", "\\sin 2x"),
        ("3\\sqrt{13}", "\\sqrt{117}"), ("\\sqrt[3]{-8}", "-2"), ("e^{i\\pi}", "-1"), ("\\binom{5}{2}", "10"), ("\\log 100", "2"),
        ("\\frac{1}{\\sqrt2}", "\\frac{\\sqrt2}{2}"), ("xy", "yx"), ("\\cos\\frac{\\pi}{3}", "1/2"), ("\\lfloor 3.7\\rfloor", "3"),
    ],
)  # fmt: skip
def test_equal_expressions(left: str, right: str):
    assert agree(left, right) is True
    assert agree(right, left) is True


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1/2004!", "1/2006!"), ("2^{-99}", "2^{-98}"), ("1e-7", "2e-7"), ("x^2", "x^3"), ("AB", "BA"), ("y", "y'"), ("x", "x+10^{-5}"),
        ("\\sqrt{34}+3\\sqrt{10}", "28"), ("x+2n+1", "x+1"),
    ],
)  # fmt: skip
def test_different_expressions(left: str, right: str):
    assert agree(left, right) is False
    assert agree(right, left) is False


@pytest.mark.parametrize(
    ("left", "right"),
    [("\\sqrt{x^2}", "x"), ("\\ln(xy)", "\\ln x+\\ln y"), ("\\sqrt2-\\sqrt2", "0"), ("9^{9^{9^9}}", "1"), ("x!", "x")],
)
def test_what_rounding_or_sign_could_decide_is_left_open(left: str, right: str):
    assert agree(left, right) is None


def test_decimals_have_a_tolerance_relative_to_the_reference():
    assert agree("\\frac{1}{3}", "0.333333333", 1e-6) is True
    assert agree("\\frac{1}{3}", "0.3333", 1e-6) is False
    assert values_agree(Fraction(0), Fraction(1, 10**9), 1e-6) is False


@given(
    st.fractions(min_value=-99, max_value=99, max_denominator=99),
    st.fractions(min_value=-99, max_value=99, max_denominator=99),
)
def test_rational_arithmetic_is_exact(a: Fraction, b: Fraction):
    left = f"\\frac{{{a.numerator}}}{{{a.denominator}}}+({b.numerator}/{b.denominator})"
    assert exact_value(parse_expression(left)) == a + b
    assert agree(left, f"{(a + b).numerator}/{(a + b).denominator}") is True
    assert agree(left, f"{(a + b).numerator}/{(a + b).denominator}+10^{{-30}}") is False


def test_values_and_their_absence():
    assert value_of(parse_expression("2x"), {"x": 1.5}) == 3.0
    assert value_of(parse_expression("\\pi")) == math.pi
    assert exact_value(parse_expression("\\sqrt{\\frac{9}{4}}")) == Fraction(3, 2)
    assert exact_value(parse_expression("\\sqrt2")) is None
    for undefined in ("x", "1/0", "\\tan(\\pi/2)", "(-3)!", "2^{10^9}", "\\ln 0"):
        with pytest.raises(NoValue):
            value_of(parse_expression(undefined))
