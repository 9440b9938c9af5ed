import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.answer_forms import (
    Choice,
    Contradiction,
    Form,
    Many,
    Matrix,
    Named,
    Opaque,
    Quantity,
    Ratio,
    Region,
    Relation,
    Words,
)
from amr_pipeline.verdicts.answer_reading import DEEPEST_NESTING, form_of


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("12", Quantity), ("5 \\text{ cm}", Quantity), ("\\text{five}", Quantity), ("2 1/2", Quantity), ("Evelyn", Words), ("B", Choice), ("(D) Alina", Choice),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", Matrix), ("[0,1)", Region), ("0<x\\le 2", Region), ("x\\in[1,2]", Region), ("\\emptyset", Region),
        ("(-\\infty,1)\\cup(2,\\infty)", Region), ("x=3", Named), ("f(x)=x", Named), ("2x+4y=3", Relation), ("x\\ne 5", Region), ("2x\\ne y", Named), ("7:32", Ratio), ("3=7", Contradiction),
        ("x=3=7", Contradiction), ("\\sum_{k=0}^{n} k", Opaque), ("{x | x > 2}", Opaque),
    ],
)  # fmt: skip
def test_kinds(answer: str, kind: type):
    found = form_of(answer)
    assert isinstance(found, kind) or (kind is Named and isinstance(found, Relation)), found


@pytest.mark.parametrize(
    ("answer", "kind", "count"),
    [
        ("1, 2 \\text{ and } 3", "list", 3), ("(1,2)", "tuple", 2), ("[1,2]", "square", 2), ("\\{1,2\\}", "set", 2), ("\\langle 1,2,3\\rangle", "vector", 3),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "vector", 2), ("3\\pm\\sqrt2", "list", 2), ("(1;2;3)", "tuple", 3), ("x=1, 2, 3", "list", 3), ("(11,7)or(7,11)", "list", 2),
    ],
)  # fmt: skip
def test_several(answer: str, kind: str, count: int):
    found = form_of(answer)
    assert isinstance(found, Many)
    assert (found.kind, len(found.items)) == (kind, count)


def test_an_equation_that_approximates_keeps_the_exact_value():
    named = form_of("x = \\frac{1}{3} \\approx 0.33")
    assert isinstance(named, Named)
    assert named.value == form_of("\\frac{1}{3}")


@given(st.text(max_size=60))
def test_any_text_has_a_form(text: str):
    found: Form = form_of(text)
    assert found is not None


def test_deep_brackets_are_not_read():
    assert isinstance(form_of("(" * (DEEPEST_NESTING + 1) + "1" + ")" * (DEEPEST_NESTING + 1)), Opaque)
