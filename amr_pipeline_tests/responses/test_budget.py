"""What one run may spend: reserved, settled, shared by threads, and never overspent by what reserves its most."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.responses.budget import NOTHING, PRIOR_RESPONSES, Allowance, Amount, Budget, BudgetSpent
from amr_pipeline.responses.cost import Cost
from amr_pipeline.responses.prices import Prices, TokenPrice
from amr_pipeline.studies.study import Sampling
from amr_pipeline_tests.studies.small import STRONG

ROW = replace(STRONG, sampling=Sampling(temperature=0.6, top_p=0.95, max_tokens=100), mean_response_tokens=10)


def tokens(number: float) -> Amount:
    return Amount(tokens=number)


def test_what_is_in_flight_may_come_back_and_what_never_fits_is_refused_for_good():
    budget = Budget(tokens=100)
    assert budget.reserve(tokens(60))
    assert not budget.reserve(tokens(60)), "the first may yet cost less"
    assert not budget.has_refused
    budget.settle(tokens(60), tokens(10))
    assert budget.reserve(tokens(60))
    budget.settle(tokens(60), tokens(60))
    with pytest.raises(
        BudgetSpent, match=r"spent 70 of 100 tokens \(30 left\), and the next response may take 31 tokens"
    ):
        budget.reserve(tokens(31))
    assert budget.has_refused
    assert budget.reserve(tokens(30)), "a smaller one still fits"


def test_money_is_a_limit_of_its_own():
    budget = Budget(tokens=100, money=2.0)
    assert budget.reserve(Amount(tokens=1, money=1.5))
    assert not budget.reserve(Amount(tokens=1, money=0.6))
    budget.settle(Amount(tokens=1, money=1.5), Amount(tokens=1, money=1.5))
    with pytest.raises(BudgetSpent):
        budget.reserve(Amount(tokens=1, money=0.6))
    assert budget.text() == "spent 1 of 100 tokens (99 left) and 1.50 of 2.00 money (0.50 left)"


def test_a_limit_is_one_of_tokens_or_of_money():
    limits = ({}, {"tokens": 0}, {"money": 0.0}, {"tokens": 5, "money": 1.0})
    assert [Budget(**limit).is_limited for limit in limits] == [False, True, True, True]


def test_without_a_limit_nothing_ends():
    budget = Budget()
    assert budget.reserve(Amount(tokens=1e18, money=1e18))
    budget.settle(Amount(tokens=1e18, money=1e18), Amount(tokens=1e18, money=1e18))
    assert budget.reserve(tokens(1e18))
    assert not budget.has_refused


REQUESTS = st.lists(st.tuples(st.floats(0.01, 60), st.floats(0, 1), st.integers(0, 6)), min_size=1, max_size=60)


@given(REQUESTS, st.floats(1, 200))
def test_whatever_is_in_flight_what_reserves_its_most_never_overspends(
    asked: list[tuple[float, float, int]], limit: float
):
    budget, in_flight = Budget(money=limit), list[tuple[Amount, Amount]]()
    for most, share, settled in asked:
        try:
            if budget.reserve(Amount(money=most)):
                in_flight.append((Amount(money=most), Amount(money=most * share)))
        except BudgetSpent:
            pass
        for _ in range(min(settled, len(in_flight))):
            budget.settle(*in_flight.pop(0))
    for pair in in_flight:
        budget.settle(*pair)
    assert budget.spent.money <= limit * (1 + 1e-12)
    # Sums of fractions leave nothing behind that a later request would wait for.
    left = limit - budget.spent.money
    assert left < 1e-9 or budget.reserve(Amount(money=left * (1 - 1e-9)))


def test_threads_share_a_budget():
    budget, granted = Budget(tokens=1_000), list[int]()

    def spend(_: int) -> None:
        try:
            while True:
                if budget.reserve(tokens(3)):
                    granted.append(3)
                    budget.settle(tokens(3), tokens(3))
        except BudgetSpent:
            return

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(spend, range(8)))
    assert budget.spent.tokens == sum(granted) == 999


def test_who_waits_goes_on_when_others_give_back_and_ends_when_they_do_not():
    budget, outcomes = Budget(tokens=100), list[str]()

    def wait() -> None:
        try:
            budget.wait(tokens(50))
            outcomes.append("granted")
        except BudgetSpent:
            outcomes.append("refused")

    for used, expected in ((20, "granted"), (45, "refused")):
        assert budget.reserve(tokens(60))
        waiting = threading.Thread(target=wait)
        waiting.start()
        budget.settle(tokens(60), tokens(used))
        waiting.join(30)
        assert outcomes[-1:] == [expected]
        if expected == "granted":
            budget.settle(tokens(50), NOTHING)


def test_a_limit_on_money_wants_a_price_of_everything_that_is_asked():
    far = replace(ROW, name="far", engine="http")
    Budget(tokens=5).require_prices(ROW)
    with pytest.raises(ValueError, match=r"AMR_BUDGET_MONEY .* AMR_PRICE_PER_GPU_HOUR"):
        Budget(money=5.0).require_prices(ROW)
    with pytest.raises(ValueError, match=r"AMR_BUDGET_MONEY .* AMR_PRICE_PER_MILLION_TOKENS=far="):
        Budget(money=5.0, prices=Prices(gpu_hours={"": 1.0})).require_prices(far)
    Budget(money=5.0, prices=Prices(tokens={"far": TokenPrice(prompts=0.0, responses=0.0)})).require_prices(far)


# ---------------------------------------------------------------------------------------------------------- allowance


def granted(allowance: Allowance, at_most: int = 1_000) -> int:
    """Requests that go out at once."""
    return sum(allowance.reserve(f"id{number}") for number in range(at_most))


def test_a_request_reserves_what_the_row_declares_or_else_the_most_it_allows():
    assert granted(Allowance(Budget(tokens=1_000), ROW)) == 100
    assert granted(Allowance(Budget(tokens=1_000), replace(ROW, mean_response_tokens=None))) == 10
    assert granted(Allowance(Budget(tokens=1_000), replace(ROW, mean_response_tokens=1e6))) == 10


def test_records_and_answers_correct_what_is_expected():
    allowance = Allowance(Budget(tokens=10_000), ROW)
    allowance.know(Cost(responses=PRIOR_RESPONSES, response_tokens=30 * PRIOR_RESPONSES))
    assert granted(allowance) == 10_000 // 20, "half declared, half seen"
    for number in range(500):
        allowance.settle(f"id{number}", 2, 0.0)
    # 9,000 tokens left; 30 of 10, 30 of 30 and 500 of 2 tokens make 2,200 of 560.
    assert granted(allowance, 5_000) == 9_000 * 560 // 2_200


@pytest.mark.parametrize("hours", [{"": 3.6}, {"": 360.0, ROW.name: 3.6}])
def test_money_is_expected_at_the_measured_rate(hours: dict[str, float]):
    prices = Prices(gpu_hours=hours)
    allowance = Allowance(Budget(money=10.0, prices=prices), ROW)
    assert granted(allowance, 200) == 200, "nothing is measured yet"
    fresh = Allowance(Budget(money=10.0, prices=prices), replace(ROW, mean_response_tokens=20))
    fresh.know(Cost(responses=10**6, response_tokens=20 * 10**6, gpu_seconds=100.0 * 10**6))
    assert granted(fresh) in (99, 100), "a response takes 100 GPU-seconds, a tenth"
    fresh.settle("id0", 20, 5_000.0)
    assert not fresh.reserve("more"), "half of the money went at once"


def test_what_is_left_is_offered_again_when_nothing_is_in_flight():
    budget = Budget(tokens=100)
    allowance = Allowance(budget, replace(ROW, mean_response_tokens=50))
    assert granted(allowance) == 2
    allowance.settle("id0", 5, 0.0)
    allowance.settle("id1", 5, 0.0)
    assert allowance.wait()
    assert allowance.wait(), "asked twice, held once"
    assert allowance.reserve("next")
    allowance.settle("next", 88, 0.0)
    assert not allowance.wait()
    assert budget.has_refused
    assert budget.spent.tokens == 98


def test_overspending_is_bounded_by_what_is_in_flight():
    budget = Budget(tokens=1_000)
    allowance = Allowance(budget, ROW)
    in_flight = granted(allowance)
    for number in range(in_flight):
        allowance.settle(f"id{number}", ROW.sampling.max_tokens, 0.0)
    assert budget.spent.tokens <= 1_000 + in_flight * (100 - 10)
    assert not allowance.wait()


def test_answers_that_do_not_come_hold_nothing_once_it_is_closed():
    budget = Budget(tokens=100)
    allowance = Allowance(budget, replace(ROW, mean_response_tokens=50))
    assert allowance.wait()
    assert granted(allowance) == 2
    assert not budget.reserve(tokens(100))
    allowance.close()
    assert budget.reserve(tokens(100))
