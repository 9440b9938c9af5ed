from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.expressions import NotAnExpression, has_call, parse_expression, symbols


def number(value: object) -> tuple:
    return ("number", Fraction(value))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("12", number(12)), (".5", number("1/2")), ("1.5e3", number(1500)), ("0.1\\overline{6}", number("1/6")),
        ("1011_2", number(11)), ("-x", ("negate", ("symbol", "x"))), ("x_{12}", ("symbol", "x_12")), ("y'", ("symbol", "y'")),
        ("AB", ("symbol", "AB")), ("\\frac12", ("divide", number(1), number(2))), ("2\\frac{1}{2}", ("add", number(2), ("divide", number(1), number(2)))),
        ("5!", ("factorial", number(5))), ("\\log_2 8", ("divide", ("call", "ln", number(8)), ("call", "ln", number(2)))),
        ("\\sin 2x", ("call", "sin", ("multiply", number(2), ("symbol", "x")))), ("2^{-3}", ("power", number(2), ("negate", number(3)))),
        ("-2^2", ("negate", ("power", number(2), number(2)))), ("2^3^2", ("power", number(2), ("power", number(3), number(2)))),
        ("|x|", ("call", "abs", ("symbol", "x"))), ("3π", ("multiply", number(3), ("symbol", "pi"))),
    ],
)  # fmt: skip
def test_notations(text: str, tree: tuple):
    assert parse_expression(text) == tree


@pytest.mark.parametrize(
    "text",
    ["", "1/2x", "\\sin x (x+1)", "\\sin^{-1} x", "cat", "2 3", "f(x)", "x)", "(x", "90^{\\circ}", "12_2", "12_x", "5!!", "吨", "\\sum x", "1,2"],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_or_none_is_refused(text: str):
    with pytest.raises(NotAnExpression):
        parse_expression(text)


@pytest.mark.parametrize(
    "text", ["(" * 200 + "1" + ")" * 200, "2^" * 290 + "2", "\\frac" * 110 + "12", "√" * 500 + "2", "1/" * 290 + "1", "x " * 290, "-" * 590 + "1"]
)  # fmt: skip
def test_deep_texts_end_without_running_out_of_stack(text: str):
    try:
        parse_expression(text)
    except NotAnExpression:
        return


@given(st.text(alphabet="0123456789xyab+-*/^()[]{}|!_'. \\fracsqtpi,", max_size=40))
def test_any_text_is_read_or_refused(text: str):
    try:
        tree = parse_expression(text)
    except NotAnExpression:
        return
    assert isinstance(symbols(tree), frozenset)


def test_letters_and_functions_of_an_expression():
    tree = parse_expression("x_1 e^{i\\pi} + \\log(y)")
    assert symbols(tree) == {"x_1", "y"}
    assert has_call(tree, "log")
    assert not has_call(tree, "sin")
