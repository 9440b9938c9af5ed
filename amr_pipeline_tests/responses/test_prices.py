import math
from dataclasses import replace

from amr_pipeline.responses.prices import Prices, TokenPrice
from amr_pipeline_tests.studies.small import STRONG, WEAK

FAR = replace(STRONG, name="far", engine="http")


def test_tokens_are_billed_by_the_million_prompts_and_responses_apart():
    price = TokenPrice(prompts=0.5, responses=2.0)
    assert price.of(2_000_000, 0) == 1.0
    assert price.of(0, 500_000) == 1.0
    assert math.isclose(price.of(100, 10), 0.00007)


def test_gpu_time_has_a_price_where_both_are_known():
    assert Prices(gpu_hours={"": 3.6}).of_gpus(1000.0) == 1.0
    assert Prices(gpu_hours={"": 3.6}).of_gpus(0.0) == Prices().of_gpus(0.0) == 0.0
    assert Prices(gpu_hours={"": 3.6}).of_gpus(None) is None
    assert Prices().of_gpus(1000.0) is None


def test_a_distiller_may_run_on_gpus_of_another_price():
    both = Prices(gpu_hours={"": 3.6, "strong": 36.0})
    assert (both.of_gpus(1000.0), both.of_gpus(1000.0, "weak"), both.of_gpus(1000.0, "strong")) == (1.0, 1.0, 10.0)
    named = Prices(gpu_hours={"strong": 36.0})
    assert (named.of_gpus(1000.0, "strong"), named.of_gpus(1000.0, "weak")) == (10.0, None)
    assert [named.why_unpriced(row) is None for row in (STRONG, WEAK)] == [True, False]


def test_what_has_no_price_says_what_would_give_it_one():
    nothing, all_said = Prices(), Prices(gpu_hours={"": 1.0}, tokens={"far": TokenPrice(prompts=0.0, responses=0.0)})
    assert "AMR_PRICE_PER_MILLION_TOKENS=far=PROMPTS/RESPONSES" in str(nothing.why_unpriced(FAR))
    assert "AMR_PRICE_PER_GPU_HOUR" in str(nothing.why_unpriced(STRONG))
    assert nothing.why_unpriced(replace(WEAK, gpus_per_replica=0)) is None, "it holds none"
    assert nothing.why_unpriced(replace(WEAK, engine="imported")) is None
    assert [all_said.why_unpriced(row) for row in (FAR, STRONG, WEAK)] == [None] * 3
    assert all_said.why_unpriced(replace(FAR, name="farther")) is not None
