import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.answer_forms import Interval, Region, Relation
from amr_pipeline.verdicts.answer_reading import form_of
from amr_pipeline.verdicts.answer_regions import all_unequal, both_hold, inequality, interval, line_without
from amr_pipeline.verdicts.typed_answers import compare_typed


def region(text: str) -> Region:
    found = form_of(text)
    assert isinstance(found, Region), found
    return found


@given(st.integers(-99, 99), st.integers(1, 99), st.sampled_from(["<", "\\le", ">", "\\ge"]))
def test_a_distance_is_an_interval_around_its_centre_or_what_lies_outside(centre: int, radius: int, sign: str):
    absolute = f"|x {'-' if centre >= 0 else '+'} {abs(centre)}| {sign} {radius}"
    low, high = centre - radius, centre + radius
    opening, closing = ("[", "]") if sign in ("\\le", "\\ge") else ("(", ")")
    inside = f"{opening}{low}, {high}{closing}"
    left, right = ("]", "[") if sign == "\\ge" else (")", "(")
    outside = f"(-\\infty, {low}{left} \\cup {right}{high}, \\infty)"
    meant, other = (inside, outside) if sign in ("<", "\\le") else (outside, inside)
    assert compare_typed(meant, absolute, 1e-9) is True
    assert compare_typed(other, absolute, 1e-9) is not True


@pytest.mark.parametrize("text", ["|x|<0", "|x|<-1", "|x|<a", "|x y|<1"])
def test_a_distance_needs_a_positive_bound_and_one_letter(text: str):
    assert not (isinstance(form_of(text), Region) and len(region(text).intervals) > 1)


def test_the_line_without_points():
    without = line_without("(-\\infty,\\infty) \\setminus \\{2, 1\\}")
    assert without is not None
    assert without.intervals == region("x \\ne 1, x \\ne 2").intervals
    assert len(region("x \\ne 1, x \\ne 2").intervals) == 3
    assert line_without("(-\\infty,\\infty) \\setminus \\{a\\}") is None
    assert isinstance(inequality(["x", "y"], ["\\ne"]), Relation)
    assert all_unequal([region("x \\ne 1"), region("y \\ne 2")]) is None
    assert all_unequal([]) is None


def test_conditions_hold_together_where_they_overlap():
    together = both_hold([region("x > 0"), region("x \\le 2")], may_be_either=False)
    assert together is not None
    assert together.intervals == region("0 < x \\le 2").intervals
    assert both_hold([region("x > 0"), region("x \\le 2")], may_be_either=True) is None
    assert both_hold([region("x < 0"), region("x > 2")], may_be_either=False) is None
    assert both_hold([region("x > 0"), region("y < 2")], may_be_either=False) is None


def test_an_interval_has_two_ends_that_can_be_read():
    assert interval(["0", "\\infty"], "[", ")") == Region((Interval(("number", 0), True, None, False),))
    assert interval(["0"], "[", ")") is None
    assert interval(["0", "cat"], "[", ")") is None
