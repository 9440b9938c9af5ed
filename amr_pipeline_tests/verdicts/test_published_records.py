import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.published_records import constraints_text, parse_line

ONE = [{"id": "a:b", "kwargs": {"n": 1}}]


@pytest.mark.parametrize(
    "shape",
    [
        {"instruction_id_list": ["a:b"], "kwargs": [{"n": 1}]},
        [{"id": "a:b", "kwargs": {"n": 1}}],
        [{"instruction_id": "a:b", "kwargs": {"n": 1}}],
        json.dumps({"instruction_id_list": ["a:b"], "kwargs": [{"n": 1}]}),
        json.dumps(ONE),
    ],
)
def test_constraints_come_in_many_shapes(shape: object):
    assert json.loads(constraints_text(shape) or "") == ONE


@given(st.text())
def test_no_line_raises(line: str):
    record = parse_line(line, 3)
    assert (record.case is None) == bool(record.problem)


def test_a_number_is_a_reference_and_nan_is_none():
    assert parse_line('{"category": "math", "answer": "1", "ground_truth": 4.5}', 0).case.reference == "4.5"  # type: ignore[union-attr]
    assert parse_line('{"category": "math", "answer": "1", "ground_truth": NaN}', 0).case.reference is None  # type: ignore[union-attr]


@pytest.mark.parametrize("field", ["test_case", "instruction_constrain", "ground_truth", "question", "id"])
@pytest.mark.parametrize("depth", [900, 960, 990, 1500])
def test_deeply_nested_fields_end_as_a_case_or_a_problem(field: str, depth: int):
    other = {"category": "code", "answer": "x"}
    text = json.dumps(other)[:-1] + f', "{field}": ' + "[" * depth + "]" * depth + "}"
    record = parse_line(text, 0)
    assert (record.case is None) == bool(record.problem)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_an_id_that_json_cannot_hold_is_null(value: str):
    assert parse_line(f'{{"id": {value}, "category": "math", "answer": "1"}}', 0).record_id is None
