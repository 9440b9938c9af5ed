from fractions import Fraction

from amr_pipeline.verdicts.answer_forms import Interval, Many, Quantity, Region, Words, region_of

ONE, TWO = (Quantity(("number", Fraction(value)), None, False) for value in (1, 2))


def test_pairs_in_brackets_may_be_intervals():
    assert region_of(Many("tuple", (ONE, TWO))) == Region((Interval(ONE.node, False, TWO.node, False),))
    assert region_of(Many("square", (ONE, TWO))) == Region((Interval(ONE.node, True, TWO.node, True),))
    assert region_of(Many("tuple", (ONE, TWO, ONE))) is None
    assert region_of(Many("tuple", (ONE, Words("two")))) is None


def test_sets_are_points_and_lists_of_regions_are_unions():
    assert region_of(Many("set", (ONE,))) == Region((Interval(ONE.node, True, ONE.node, True),))
    low, high = (
        Region((Interval(None, False, ONE.node, False),), "x"),
        Region((Interval(TWO.node, False, None, False),), "x"),
    )
    assert region_of(Many("list", (low, high))) == Region(low.intervals + high.intervals, "x")
    assert region_of(Many("list", (low, ONE))) is None
    assert region_of(ONE) is None
