import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.verdicts.answer_extraction import (
    declared_answer,
    final_answer,
    is_bare,
    last_boxed,
    option_named,
    option_of,
)


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        ("\\boxed{1} is wrong: \\boxed{\\frac{2}{3}}", "\\frac{2}{3}"), ("\\boxed{1} \\boxed{2", "1"), ("none", None), ("\\fbox 3 \\boxed {5}", "5"),
        ("\\boxed{\\boxed{3}}", "3"), ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"), ("\\boxed{1}, \\boxed{2} and \\boxed{3}", "1, 2, 3"), ("\\boxed{5}. \\boxed{5}", "5"),
        ("\\boxed{6} apples and \\boxed{8}", "6, 8"), ("\\boxed{1}\n\n\\boxed{2}", "2"), ("\\boxed{1} or rather it is \\boxed{2}", "2"), ("\\boxed{}", ""),
    ],
)  # fmt: skip
def test_the_last_complete_box_or_run_of_boxes(text: str, boxed: str | None):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("42", "42"), ("Evelyn", "Evelyn"), ("$x^2 + 1$", "x^2 + 1"), ("Therefore the answer is -3", "-3"), ("Final answer: -3.5", "-3.5"),
        ("so $x+y = 1000$ therefore answer is $1$", "1"), ("Answer: The largest number of points is 19.", "19"), ("答案是 12。", "12"), ("reasoning\n#### 72", "72"),
        ("Here is a zero matrix: $\\begin{pmatrix}0\\end{pmatrix}$", "\\begin{pmatrix}0\\end{pmatrix}"), ("Thus $x <= 2$ is our answer.", "x <= 2"),
        ("First we add,\nthen we get 42", None), ("the number is not 10 which is 1,000.99", None), ("We have $1$ and then $2$ of many more things", None), ("", None),
    ],
)  # fmt: skip
def test_where_the_answer_stands(content: str, answer: str | None):
    found = final_answer(content)
    assert (found or None) == answer or (found is not None and found.strip("$") == answer)


def test_patterns_of_the_row_come_before_what_is_declared():
    assert final_answer("A: 17\nA: 18\nthe answer is 3", (r"A: (\d+)",)) == "18"
    assert final_answer("A: 17 \\boxed{4}", (r"A: (\d+)",)) == "4"


def test_the_last_declaration_that_is_an_answer_counts():
    assert declared_answer("The answer is 5. Wait, the answer is 6.") == "6"
    assert declared_answer("The answer is 5. The result is hard to believe for anyone who knows it") == "5"
    assert declared_answer("nothing") is None


@pytest.mark.parametrize(
    ("text", "bare"),
    [("42", True), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", True), ("5 square meters", True), ("we get 5 for the sum", False), ("5\nmeters", False), ("", False)],
)  # fmt: skip
def test_bare_answers(text: str, bare: bool):
    assert is_bare(text) is bare


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("(B)", "B"), ("B) sodium", "B"), ("\\boxed{\\text{B}}", "B"), ("The answer is B.", "B"), ("Not A. The answer is (C)", "C"),
        ("The answer is for sure D, it can't be A or B", "D"), ("D. it can't be A or B", "D"), ("the answer is a triangle", None), ("The answer is A triangle", None),
        ("sodium", None), ("Because", None), ("The answer is not B", None),
    ],
)  # fmt: skip
def test_option_letters(answer: str, letter: str | None):
    assert option_of(answer) == letter


def test_references_that_are_options():
    assert [option_named(text) for text in ("B", " (C) ", "D.", "Z", "AB", "5")] == ["B", "C", "D", None, None, None]


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 40_000, "\\boxed{" * 30_000 + "1" + "}" * 30_000, "\\boxed{1}," * 30_000, "\\[" * 100_000, "$" * 200_000, "answer is " * 20_000, "{" * 200_000]
)  # fmt: skip
def test_long_hostile_texts_are_read_in_linear_time(text: str):
    start = time.process_time()
    final_answer(text)
    assert time.process_time() - start < 10.0, "quadratic reading of these takes minutes"


@given(st.text(alphabet="\\boxed{}$ 1,and\n", max_size=80))
def test_any_text_is_read(text: str):
    found = last_boxed(text)
    assert found is None or isinstance(found, str)
    final_answer(text)


def test_a_long_run_of_spaces_is_read_at_once():
    assert option_of(("answer" + " " * 200_000) * 3) is None
