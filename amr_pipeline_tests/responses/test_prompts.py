import pytest

from amr_pipeline.categories import Category
from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.responses.prompts import REASONING_SUFFIXES, THINK_THEN_ANSWER, prompt_messages
from amr_pipeline.studies.study import PROMPT_WORDING, PromptSuffix
from amr_pipeline_tests.studies.small import WEAK

QUERY = [{"role": "user", "content": "1+1?"}]


def test_suffix_follows_the_category_and_system_prompt_comes_first():
    turns = prompt_messages(QUERY, Category.MATH, THINK_THEN_ANSWER, REASONING_SUFFIXES)
    assert turns[0] == ("system", THINK_THEN_ANSWER)
    assert turns[1][1].startswith("1+1?\n\n")
    assert "boxed" in turns[1][1]
    assert prompt_messages(QUERY, Category.SCIENCE, None, REASONING_SUFFIXES) == (("user", "1+1?"),)


def test_a_querys_own_system_turn_stays():
    own = [{"role": "system", "content": "be brief"}, *QUERY]
    assert prompt_messages(own, Category.SCIENCE, THINK_THEN_ANSWER, ())[0] == ("system", "be brief")


def test_another_wording_is_another_version():
    own = [{"role": "system", "content": "be brief"}, *QUERY]
    exchange = [*QUERY, {"role": "assistant", "content": "2"}, {"role": "user", "content": "and 2+2?"}]
    suffixes = (PromptSuffix(category=Category.MATH, text="Box it."),)
    made = [
        prompt_messages(messages, category, system_prompt, suffixes)
        for messages in (QUERY, own, exchange)
        for category in Category
        for system_prompt in (None, "Think.")
    ]
    pinned = {1: "3b05c2aaf3be8cfa"}
    assert fingerprint(made) == pinned[PROMPT_WORDING], (
        "prompts changed: raise studies.study.PROMPT_WORDING, pin it here"
    )


def test_another_version_is_another_distiller(monkeypatch: pytest.MonkeyPatch):
    before = WEAK.distiller_fingerprint
    monkeypatch.setattr("amr_pipeline.studies.study.PROMPT_WORDING", 2)
    assert WEAK.distiller_fingerprint != before
