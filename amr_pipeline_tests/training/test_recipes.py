import math

from amr_pipeline.training.recipes import learning_rate_at, mean_of_tenth, num_steps


def test_warm_up_is_linear_and_the_end_is_the_floor():
    rates = [learning_rate_at(step, 100, 8e-5, 0.05) for step in range(1, 101)]
    assert rates[0] == 8e-5 / 5
    assert max(rates) == rates[4] == 8e-5
    assert abs(rates[-1]) < 1e-18
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert math.isclose(learning_rate_at(100, 100, 1.0, 0.05, 0.1), 0.1)


def test_steps_cover_every_row():
    assert [num_steps(rows, 4) for rows in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_a_run_that_diverged_has_no_mean():
    assert mean_of_tenth([3.0] * 10 + [1.0] * 10, "first") == 3.0
    assert mean_of_tenth([3.0, float("nan")], "last") is None
    assert mean_of_tenth([], "last") is None
