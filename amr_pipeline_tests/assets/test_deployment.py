from pathlib import Path

import pytest

from amr_pipeline.assets.deployment import deployment_from_environment, http_key, study_of
from amr_pipeline.assets.resources import Platform
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


CANARY = "sk-canary-0123456789"
FAR = {"AMR_HTTP_ENGINES": "r1-7b=https://api.example/v1, own=http://10.0.0.7:8000/v1"}


@pytest.mark.parametrize(
    "address",
    ["x", "a=", "a=ftp://h/v1", "a=h:8000", "=http://h/v1", f"a=http://u:{CANARY}@h/v1", f"a=https://h/v1?key={CANARY}",
     f"a=https://h/v1#{CANARY}", f"a=http://[{CANARY}/v1", f"a=http://h:{CANARY}/v1", "a=http://h:0/v1", "a=http:///v1",
     f"a={CANARY}", CANARY, "a-b=http://h/v1,a.b=http://i/v1"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_and_not_repeated(address: str):
    with pytest.raises(ValueError, match=r"AMR_HTTP_ENGINES: .*wanted") as caught:
        deployment_from_environment({"AMR_HTTP_ENGINES": address})
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("name", ["AMR_HTTP_REQUESTS_PER_MINUTE", "AMR_HTTP_TOKENS_PER_MINUTE"])
@pytest.mark.parametrize("text", ["60", "own", "own=0", "own=-1", "own=many", "stranger=60"])
def test_a_limit_that_is_none_or_of_nobody_is_refused(name: str, text: str):
    with pytest.raises(ValueError, match=f"{name} .*wanted"):
        deployment_from_environment({**FAR, name: text})


@pytest.mark.parametrize("name", ["AMR_HTTP_IN_FLIGHT", "AMR_BUDGET_TOKENS"])
def test_a_number_that_is_none_is_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} is '1e6'; wanted"):
        deployment_from_environment({name: "1e6"})


def test_keys_are_read_by_name_and_held_by_nothing():
    environ = {**FAR, "AMR_HTTP_KEY_R1_7B": f" {CANARY}\n"}
    key = http_key("r1-7b", environ)
    assert key is not None
    assert key.text == CANARY
    assert http_key("own", environ) is None, "one server's key is never sent to another"
    deployment = deployment_from_environment(environ)
    platform = Platform.of(deployment)
    assert CANARY not in f"{key!r} {deployment!r} {platform!r} {platform.model_dump_json()}"


@pytest.mark.parametrize("text", [f"{CANARY}\r\nX: y", f"{CANARY}\u00fc", f"{CANARY}\0"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(text: str):
    with pytest.raises(ValueError, match="AMR_HTTP_KEY_OWN holds characters that no key can") as caught:
        http_key("own", {"AMR_HTTP_KEY_OWN": text})
    assert CANARY not in str(caught.value)
