from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.typed_answers import LONGEST_ANSWER, compare_typed, contradicts_itself

EQUAL = [
    ("18", "18"), ("18", "$18.00"), ("1234", "1,234"), ("10{,}000", "10000"), ("0.5", "1/2"), ("\\frac{3}{4}", "0.75"), ("\\dfrac12", "\\frac{1}{2}"),
    ("1\\frac{1}{2}", "3/2"), ("5/2", "2 1/2"), ("3.0e2", "300"), ("2\\times10^3", "2000"), ("100", "100.0000001"), ("0.333333333", "1/3"), ("0.\\overline{3}", "1/3"),
    ("1\\,000", "1000"), ("1000.99", "1000,99"), ("1,22", "1.22"), ("1011_2", "11"), ("1011_2", "1011"), ("185", "185\\"), ("5", "\\text{five}"),
    # units and percents
    ("100 cm", "1 m"), ("90^\\circ", "\\frac{\\pi}{2}"), ("\\frac{\\pi}{2}", "90^\\circ"), ("30", "30^\\circ"), ("5 \\text{ cm}", "5"), ("5 dollars", "500 cents"),
    ("60 mph", "60 miles per hour"), ("12 cm^2", "12 \\text{ square cm}"), ("17\\text{ apples}", "17"), ("50\\%", "50"), ("50\\%", "0.5"), ("0.5", "50\\%"), ("28\\%", "28 pct"),
    # options and words
    ("B", "(B)"), ("C", "c"), ("(D) Alina", "D"), ("C Cecile", "C"), ("hello world", "Hello, world!"), ("simple test", "A simple test."), ("\\text{Evelyn}", "Evelyn"),
    # several
    ("(1,2)", "(1, 2)"), ("(1,\\frac{9}{2})", "(1,4.5)"), ("\\{1,2\\}", "\\{2,1\\}"), ("2,3", "3,2"), ("1,2,3", "\\{1,2,3\\}"), ("1", "\\{1\\}"), ("(0;0;6)", "(0,0,6)"),
    ("\\langle 1,2\\rangle", "(1,2)"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}"), ("3 \\pm 2\\sqrt2", "3-2\\sqrt2, 3+2\\sqrt2"),
    ("19, 46, and 82", "19, 46, \\text{ and } 82"), ("(11,7)or(7,11)", "(7,11),\\ (11,7)"), ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix}1&2\\\\3&\\frac{8}{2}\\end{pmatrix}"),
    # regions
    ("[0,1)", "0\\le x<1"), ("0\\le x<1", "[0,1)"), ("(-\\infty,1)\\cup(2,\\infty)", "x<1 \\text{ or } x>2"), ("0<f(x)<1", "(0,1)"), ("x \\in [-2,7]", "-2 \\le x \\le 7"),
    ("x \\ge 5", "5 \\le x"), ("\\emptyset", "\\text{no solution}"), ("(0,1]\\cup(1,2)", "(0,2)"),
    # names and relations
    ("11", "x=11"), ("(p,q,r)=(3,2,7)", "(3,2,7)"), ("V_{1}:V_{2}=11:21", "11:21"), ("7:32", "14:64"), ("|AB|=1", "1"), ("11", "x\\approx 11"), ("x=1,y=2", "(1,2)"),
    ("2x+4y-3=0", "y=-\\frac{1}{2}x+\\frac{3}{4}"), ("x - (y+2) = 0", "x = y + 2"), ("x \\neq 5", "x != 5"), ("f(y)=y^2", "f(x)=x^2"), ("2x<6+y", "x<3+\\frac{y}{2}"),
    ("x^2+C", "x^2+K"), ("x+1", "1+x"), ("(x+1)^2", "x^2+2x+1"), ("\\frac{1}{\\sqrt2}", "\\frac{\\sqrt{2}}{2}"),
]  # fmt: skip

DIFFERENT = [
    ("18", "17"), ("100", "101"), ("1/3", "0.3333"), ("10/9", "-10/9"), ("2", "2 2/3"), ("2\\frac{2}{3}", "2"), ("1e-7", "2e-7"), ("2^{-99}", "2^{-98}"), ("1/2004!", "1/2006!"),
    ("5 \\text{ cm}", "5 \\text{ m}"), ("5 \\text{ cm}", "5 \\text{ kg}"), ("50", "0.5"), ("50", "0.5\\%"), ("B", "C"), ("B", "5"), ("Evelyn", "Bob"), ("Evelyn", "5"), ("AB", "BA"), ("y", "y'"),
    ("(1,2)", "(2,1)"), ("(1,2)", "\\{1,2\\}"), ("(1,2)", "[1,2]"), ("(1,2)", "(1,2,3)"), ("\\sqrt{67},-\\sqrt{85}", "\\sqrt{67}"), ("1,2", "1,2,3"), ("1,1,2", "1,2,2"),
    ("[0,9)", "[0,1)"), ("[0,1]", "[0,1)"), ("x<1", "x>-1"), ("x \\ge 5", "x \\le 5"), ("\\emptyset", "x<1"), ("3x-y+13=0", "3x+4y+14=0"), ("7", "3=7"), ("7", "x=3=7"), ("x=11", "x=5+5+1=7=11"),
    ("12:00", "1:00"), ("7:32", "32:7"), ("\\begin{pmatrix}1&2\\\\3&5\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"), ("2x<6", "2x>6"), ("E", "\\mathrm{E}*2"), ("18", ""),
    ("f(y)=y^2", "f(x)=x^3"),
]  # fmt: skip

NOT_SETTLED = [
    ("\\sum_{k=1}^3 k", "6"),
    ("5 m", "5m"),
    ("", ""),
    ("x<1", "y<1"),
    ("a" * (LONGEST_ANSWER + 1), "a"),
    ("a+3z=0", "0"),
]


@pytest.mark.parametrize(("reference", "answer"), EQUAL)
def test_equal_answers(reference: str, answer: str):
    assert compare_typed(reference, answer, 1e-6) is True


@pytest.mark.parametrize(("reference", "answer"), DIFFERENT)
def test_different_answers(reference: str, answer: str):
    assert compare_typed(reference, answer, 1e-6) is False


@pytest.mark.parametrize(("reference", "answer"), NOT_SETTLED)
def test_answers_that_types_do_not_settle(reference: str, answer: str):
    assert compare_typed(reference, answer, 1e-6) is None


@given(st.fractions(max_denominator=999))
def test_fractions_survive_every_spelling(value: Fraction):
    sign, top, bottom = "-" if value < 0 else "", abs(value.numerator), value.denominator
    spellings = (
        f"{sign}{top}/{bottom}",
        f"{sign}\\frac{{{top}}}{{{bottom}}}",
        f"$ {sign}\\dfrac{{{top}}}{{{bottom}}} $",
    )
    for one in spellings:
        for other in spellings:
            assert compare_typed(one, other, 0.0) is True
            assert compare_typed(one, f"{other}+10^{{-20}}".replace("$", ""), 0.0) is False


def test_references_that_contradict_themselves():
    assert contradicts_itself("x = 3 = 17")
    assert not contradicts_itself("x = 2 + 1 = 3")
    assert not contradicts_itself("x = \\frac{1}{3} \\approx 0.33")
    assert not contradicts_itself("=" * 100_000)


ANSWERS = st.text(alphabet="0123456789xyABab+-*/^()[]{},;:=<> .%\\fracsqtpimod$'|", max_size=50)


@given(ANSWERS, ANSWERS)
def test_any_two_texts_are_compared(left: str, right: str):
    assert compare_typed(left, right, 1e-6) in (True, False, None)


@given(ANSWERS)
def test_an_answer_is_itself(text: str):
    assert compare_typed(text, text, 0.0) is not False or "=" in text
