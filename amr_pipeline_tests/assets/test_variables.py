import pytest

from amr_pipeline.assets.variables import amount, count, counts_by_name, http_addresses, key_variable, rates_by_name


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
    assert rates_by_name("2500,r1=180.5") == {"": 2500.0, "r1": 180.5}
    assert rates_by_name("") == {}
    with pytest.raises(ValueError, match="AMR_TOKENS_PER_GPU_SECOND"):
        rates_by_name("r1=")
    addresses = http_addresses("a=http://h/v1, b=https://i:8/v1")
    assert addresses == {"a": "http://h/v1", "b": "https://i:8/v1"}
    assert counts_by_name("N", "a=3", addresses) == {"a": 3}
    with pytest.raises(ValueError, match="stranger"):
        counts_by_name("N", "stranger=3", addresses)


def test_a_key_has_a_variable_by_its_distillers_name():
    assert key_variable("r1-7b") == "AMR_HTTP_KEY_R1_7B"
