import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from amr_pipeline.responses.budget import Budget


def test_tokens_end_at_the_limit_and_not_before():
    budget = Budget(tokens=10)
    budget.spend(tokens=9, gpu_seconds=1e9)
    assert not budget.is_spent
    budget.spend(tokens=1)
    assert budget.is_spent
    budget.spend(tokens=4)
    assert budget.text() == "spent 14 of 10 tokens (0 left)"


def test_money_is_counted_at_the_price():
    budget = Budget(money=5.0, price_per_gpu_hour=2.0)
    budget.spend(tokens=10**9, gpu_seconds=2.4 * 3600)
    assert not budget.is_spent
    assert budget.text() == "spent 4.80 of 5.00 money (0.20 left)"
    budget.spend(gpu_seconds=0.1 * 3600)
    assert budget.is_spent
    assert math.isclose(budget.spent_money or 0, 5.0)
    with pytest.raises(ValueError, match="price"):
        Budget(money=5.0)


def test_without_a_limit_nothing_ends():
    budget = Budget()
    budget.spend(tokens=10**12, gpu_seconds=10**12)
    assert not budget.is_spent
    assert budget.spent_money is None


def test_threads_lose_no_token():
    budget = Budget(tokens=1)

    def spend(_: int) -> None:
        for _ in range(5_000):
            budget.spend(tokens=1)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(spend, range(4)))
    assert budget.spent_tokens == 20_000
