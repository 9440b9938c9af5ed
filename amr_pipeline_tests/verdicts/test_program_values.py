import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.program_values import same_output, same_value, tagged, untagged


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        (1, True, False),
        (True, True, True),
        ((1,), [1], False),
        (0.1 + 0.2, 0.3, True),
        (1, 1.0, True),
        ([1, [2.0000000001]], [1, [2]], True),
        ({"a": 1}, {"a": 1}, True),
        (None, 0, False),
        ("a", "a", True),
        ({1, 2}, {2, 1}, True),
    ],
)
def test_values_are_compared_as_what_they_are(answer: object, expected: object, same: bool):
    assert same_value(answer, expected, 1e-6) is same


def test_output_ignores_trailing_space_only():
    assert same_output("1 2 \n3\n\n", "1 2\n3", 1e-6)
    assert same_output("0.30000000001", "0.3", 1e-6)
    assert not same_output("1 2 3", "1 2\n3", 1e-6)
    assert not same_output("10000001", "10000000", 1e-6)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4)
    | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    | st.sets(st.integers(), max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_a_value_survives_the_way_through_the_box(value: object):
    arrived = untagged(json.loads(json.dumps(tagged(value))))
    assert type(arrived) is type(value)
    assert same_value(arrived, value, 0.0)
    assert repr(arrived) == repr(value) or isinstance(value, set | dict | list | tuple)


@given(VALUES, VALUES)
def test_equality_has_no_sides_and_never_raises(left: object, right: object):
    assert same_value(left, right, 1e-6) is same_value(right, left, 1e-6)


@given(st.integers(), st.lists(st.integers(), max_size=3))
def test_kinds_of_values_stay_apart(number: int, items: list[int]):
    assert not same_value(number, bool(number), 1e-6)
    assert not same_value(tuple(items), items, 1e-6)
    assert not same_value(str(number), number, 1e-6)
    assert not same_value(number, number + 1, 1e-6)
