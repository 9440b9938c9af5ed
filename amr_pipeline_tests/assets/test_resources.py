from pathlib import Path

import pytest

from amr_pipeline.assets.resources import Platform, deployment_from_environment, study_of
from amr_pipeline.studies.study import StudyError


def test_the_default_is_local_and_small():
    found = deployment_from_environment({})
    assert (found.study, found.max_engines, found.ray_address) == ("micro", 2, None)
    assert found.storage.endswith(".amr/tables")
    assert study_of(found).name == "micro"


def test_variables_are_read_and_bad_ones_refused():
    found = deployment_from_environment(
        {
            "AMR_HOME": "/x",
            "AMR_STORAGE": "s3://b/t",
            "AMR_S3_ENDPOINT": "http://h:1",
            "AMR_STUDY_PARAMETERS": "root=/d,set=math",
        }
    )
    assert found.home == Path("/x")
    assert found.storage_options == {"endpoint_url": "http://h:1"}
    assert found.study_parameters == {"root": "/d", "set": "math"}
    for bad in (
        {"AMR_STUDY_PARAMETERS": "root"},
        {"AMR_MAX_ENGINES": "two"},
        {"AMR_REGRADE_CRON": "hourly"},
        {"AMR_PRICE_PER_GPU_HOUR": "-1"},
        {"AMR_TOKENS_PER_GPU_SECOND": "r1="},
        {"AMR_TOKENS_PER_GPU_SECOND": "r1=nan"},
        {"AMR_BUDGET_TOKENS": "1e6"},
        {"AMR_BUDGET_MONEY": "5"},
    ):
        with pytest.raises(ValueError, match="wanted"):
            deployment_from_environment(bad)
    with pytest.raises(StudyError):
        study_of(deployment_from_environment({"AMR_STUDY": "nowhere"}))


def test_prices_rates_and_budgets_are_read_and_reach_the_platform():
    assert deployment_from_environment({}).price_per_gpu_hour is None
    assert Platform.of(deployment_from_environment({})).budget().tokens is None
    found = Platform.of(
        deployment_from_environment(
            {
                "AMR_PRICE_PER_GPU_HOUR": "2.5",
                "AMR_TOKENS_PER_GPU_SECOND": "2500,r1=180.5",
                "AMR_BUDGET_TOKENS": "1000000",
                "AMR_BUDGET_MONEY": "40",
            }
        )
    )
    assert found.price_per_gpu_hour == 2.5
    assert found.tokens_per_gpu_second == {"": 2500.0, "r1": 180.5}
    budget = found.budget()
    assert (budget.tokens, budget.money) == (1_000_000, 40.0)
    budget.spend(gpu_seconds=3600)
    assert budget.spent_money == 2.5
