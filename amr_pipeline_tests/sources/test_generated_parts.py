import pytest

from amr_pipeline.sources import generated_parts


def test_parts_repeat_and_seeds_differ():
    assert list(generated_parts.records("math", 5, 1)) == list(generated_parts.records("math", 5, 1))
    assert list(generated_parts.records("math", 5, 1)) != list(generated_parts.records("math", 5, 2))
    with pytest.raises(ValueError, match="no part"):
        list(generated_parts.records("poetry", 1, 1))


def test_flawed_rows_hold_every_flaw():
    texts = [row["messages"][-1]["content"] for row in generated_parts.records("flawed", 16, 1)]
    assert any("https://" in text for text in texts)
    assert any("\ufffd" in text for text in texts)
    assert any(not text.strip() for text in texts)
