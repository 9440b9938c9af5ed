import pytest

from amr_pipeline.assets.variables import (
    alert_address,
    amount,
    amounts_by_name,
    count,
    counts_by_name,
    gpu_kinds,
    http_addresses,
    key_variable,
    owners,
    token_prices,
)
from amr_pipeline.responses.prices import TokenPrice


def test_numbers_are_read_or_refused_with_their_name():
    assert count("N", None, 7) == count("N", "", 7) == 7
    assert count("N", "12", 7) == 12
    assert amount("N", None) is None
    assert amount("N", "2.5") == 2.5
    for text in ("0", "-1", "1.5", "many"):
        with pytest.raises(ValueError, match=f"N is {text!r}; wanted a whole number"):
            count("N", text, 1)
    for text in ("0", "-1", "inf", "nan", "much"):
        with pytest.raises(ValueError, match=r"N is .*; wanted a number above 0"):
            amount("N", text)


def test_lists_by_name_say_what_is_wrong_in_them():
    assert amounts_by_name("RATES", "2500,r1=180.5") == {"": 2500.0, "r1": 180.5}
    assert amounts_by_name("RATES", "") == {}
    for text in ("r1=", "r1=-1", "2500,nan"):
        with pytest.raises(ValueError, match="RATES is"):
            amounts_by_name("RATES", text)
    addresses = http_addresses("a=http://h/v1, b=https://i:8/v1")
    assert addresses == {"a": "http://h/v1", "b": "https://i:8/v1"}
    assert counts_by_name("N", "a=3", addresses) == {"a": 3}
    with pytest.raises(ValueError, match="stranger"):
        counts_by_name("N", "stranger=3", addresses)


def test_a_key_has_a_variable_by_its_distillers_name():
    assert key_variable("r1-7b") == "AMR_HTTP_KEY_R1_7B"


def test_prices_of_tokens_are_two_numbers_of_an_engine_that_has_an_address():
    addresses = {"a": "http://h/v1", "b-7": "http://i/v1"}
    assert token_prices("", addresses) == {}
    assert token_prices("a=0.55/2.19, b-7=0/0", addresses) == {
        "a": TokenPrice(prompts=0.55, responses=2.19),
        "b-7": TokenPrice(prompts=0.0, responses=0.0),
    }
    for text in ("a", "a=1", "a=1/", "=1/2", "a=1/2/3", "a=-1/2", "a=nan/1", "a=1e3/2", "1/2"):
        with pytest.raises(ValueError, match=r"AMR_PRICE_PER_MILLION_TOKENS has .*; wanted name=PROMPTS/RESPONSES"):
            token_prices(text, addresses)
    with pytest.raises(ValueError, match="stranger"):
        token_prices("stranger=1/2", addresses)


def test_kinds_of_gpu_are_of_all_models_or_of_one():
    assert gpu_kinds("") == {}
    assert gpu_kinds("L4, r1=H100/NVIDIA-A100-80G") == {"": ("L4",), "r1": ("H100", "NVIDIA-A100-80G")}
    for text in ("r1=", "H100/", "H 100", "in(H100)", "!L4"):
        with pytest.raises(
            ValueError, match=r"AMR_GPU_KINDS has .*; wanted kinds as Ray calls them: L4,name=H100/H200"
        ):
            gpu_kinds(text)


def test_owners_are_of_all_groups_or_of_one():
    assert owners("") == {}
    assert owners("team:data, training=ann@example.org,training=team:gpu") == {
        "": ("team:data",),
        "training": ("ann@example.org", "team:gpu"),
    }
    with pytest.raises(ValueError, match=r"AMR_OWNERS names the group 'trainings'; wanted queries, .*training"):
        owners("trainings=team:data")
    for text in ("data", "training=", "team:", "training=ann@", "a b@example.org"):
        with pytest.raises(ValueError, match=r"AMR_OWNERS has .*; wanted team:NAME"):
            owners(text)


def test_an_address_of_alerts_is_one_and_is_never_repeated():
    assert alert_address("") is None
    assert alert_address(" ") is None
    assert alert_address(" https://chat.example:8/services/T0/x?y=1\n") == "https://chat.example:8/services/T0/x?y=1"
    for text in (
        "canary",
        "ftp://canary/x",
        "https://user:canary@host/x",
        "https:///canary",
        "https://h:0/canary",
        "https://h:x/canary",
        "https://h/canary x",
        "https://h/canary#x",
        "https://h/canarý",
    ):
        with pytest.raises(ValueError, match="AMR_ALERT_URL is no address") as refused:
            alert_address(text)
        assert "canar" not in str(refused.value)
