import time

import pytest

from amr_pipeline.verdicts.algebra_limits import too_complex


@pytest.mark.parametrize(
    "answer", ["9^{9^{9^{9^9}}}", "1" * 1001, "(" * 13 + ")" * 13, "5!!!!", "a" * 2001, "1," * 201, "&" * 401]
)
def test_hostile_answers_do_not_reach_algebra(answer: str):
    assert too_complex(answer)


@pytest.mark.parametrize(
    "answer", ["\\frac{x^2+1}{\\sqrt{3}}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "x^{2^{3}}", "5!"]
)
def test_ordinary_answers_do(answer: str):
    assert too_complex(answer) is None


@pytest.mark.parametrize("answer", ["1" * 1_000_000, "1)" * 500_000, "^" * 1_000_000, "(" * 1_000_000])
def test_long_answers_are_refused_at_once(answer: str):
    start = time.process_time()
    assert too_complex(answer)
    assert time.process_time() - start < 10.0, "a quadratic look at these takes minutes"
