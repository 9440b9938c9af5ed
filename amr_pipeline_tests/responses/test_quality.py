from collections import Counter
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.responses.quality import assess, count_ngrams, frequent, frequent_ngram_rows, ngram_hash, ngrams
from amr_pipeline.studies.study import QualityRules, Scorer

GOOD = "<think>two and two</think><answer>four</answer>"


def rows(*texts: str, finish: str = "stop", turns: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "response_id": [str(index) for index in range(len(texts))], "query_id": "q", "category": "math", "distiller": "d",
            "pass_index": range(len(texts)), "finish_reason": finish, "response_tokens": 5, "text": texts,
            "messages": [[{"role": "user", "content": "?"}] * turns] * len(texts),
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "finish", "turns", "perplexity", "reason"),
    [
        (GOOD, "stop", 1, 3.0, None),
        (GOOD, "length", 1, 3.0, "not finished"),
        ("four", "stop", 1, 3.0, "no think content"),
        ("<think>a</think>", "stop", 1, 3.0, "no answer content"),
        (GOOD, "stop", 2, 3.0, "odd number of turns"),
        (GOOD, "stop", 1, 20.0, None),
        (GOOD, "stop", 1, 20.1, "perplexity"),
    ],
)
def test_first_broken_rule(text: str, finish: str, turns: int, perplexity: float, reason: str | None):
    found = assess(rows(text, finish=finish, turns=turns), {"0": perplexity}, set(), QualityRules())
    assert found["quality_reason"].to_list() == [reason]
    assert not tables.RESPONSE_QUALITY.violations(found)


SCORED = QualityRules(perplexity_scorer=Scorer(model="m", revision="r", max_model_len=9))


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (SCORED, "perplexity unknown"),
        (QualityRules(), None),
        (replace(SCORED, highest_perplexity=None), None),
    ],
)
def test_what_the_scorer_could_not_read_is_not_fit_where_it_was_asked(rules: QualityRules, reason: str | None):
    for unread in ({}, {"0": None}):
        assert assess(rows(GOOD), unread, set(), rules)["quality_reason"].to_list() == [reason]
    assert assess(rows(GOOD), {"0": 3.0}, set(), rules)["quality_reason"].to_list() == [None]


def test_ngrams_are_frequent_over_all_shards_together():
    text = " ".join("abcdefgh")
    shards = [[text] * 11, [text] * 10]
    counts: Counter[int] = Counter()
    for shard in shards:
        assert not frequent(count_ngrams(shard, 5), 20)
        counts.update(count_ngrams(shard, 5))
    found = frequent(counts, 20)
    assert len(found) == 4
    listed = frequent_ngram_rows([text], 5, found)
    assert "a b c d e" in listed["ngram"].to_list()
    marked = assess(rows(f"<think>{text}</think><answer>x</answer>"), {}, set(found), QualityRules(ngram_tokens=5))
    assert marked["num_frequent_ngrams"][0] >= 2
    assert marked["quality_reason"][0] == "frequent n-gram"


def test_short_texts_have_no_ngrams():
    assert ngrams("a b", 3) == []
    assert ngram_hash("a b c") != ngram_hash("a b d")


@pytest.mark.parametrize(("occurrences", "found"), [(19, False), (20, False), (21, True)])
def test_frequent_means_more_often_than_the_limit(occurrences: int, found: bool):
    assert bool(frequent(count_ngrams(["a b c"] * occurrences, 3), 20)) is found


@given(st.lists(st.text(alphabet="ab ", max_size=20), max_size=8), st.integers(1, 4), st.integers(0, 8))
def test_shards_counted_apart_and_added_are_the_corpus(texts: list[str], size: int, cut: int):
    apart = count_ngrams(texts[:cut], size) + count_ngrams(texts[cut:], size)
    assert apart == count_ngrams(texts, size)
    assert apart.total() == sum(max(0, len(text.split()) - size + 1) for text in texts)


def test_listed_ngrams_are_the_frequent_ones_with_their_corpus_counts():
    found = {ngram_hash("a b"): 40, ngram_hash("z z"): 30}
    listed = frequent_ngram_rows(["a b c", "a b"], 2, found)
    assert listed.select("ngram", "occurrences").rows() == [("a b", 40)]
    assert not tables.FREQUENT_NGRAMS.violations(listed)
    assert frequent_ngram_rows([], 2, found).schema == tables.FREQUENT_NGRAMS.schema


def test_only_responses_with_a_frequent_ngram_are_marked_and_each_run_counts():
    hashes = {ngram_hash("a b")}
    texts = [f"<think>{text}</think><answer>x</answer>" for text in (" a b a b ", " a c ")]
    marked = assess(rows(*texts), {}, hashes, QualityRules(ngram_tokens=2))
    assert marked["num_frequent_ngrams"].to_list() == [2, 0]
    assert marked["quality_reason"].to_list() == ["frequent n-gram", None]
    assert assess(rows(*texts), {}, hashes, QualityRules(ngram_tokens=None))["quality_reason"].to_list() == [None, None]


@pytest.mark.parametrize(
    ("text", "off"),
    [("four", {"require_think": False}), ("<think>a</think>", {"require_answer": False})],
)
def test_a_rule_that_is_off_lets_through(text: str, off: dict):
    assert assess(rows(text), {}, set(), QualityRules())["quality_reason"][0] is not None
    assert assess(rows(text), {}, set(), QualityRules(**off))["quality_reason"][0] is None


def test_a_text_that_was_not_scored_is_not_perplexing_and_lengths_are_of_the_halves():
    found = assess(rows(GOOD), {"0": None}, set(), QualityRules())
    assert found.select("perplexity", "quality_reason").row(0) == (None, None)
    assert found.select("think_characters", "answer_characters").row(0) == (len("two and two"), len("four"))
    assert assess(rows(GOOD), {"0": 99.0}, set(), QualityRules(highest_perplexity=None))["quality_reason"][0] is None


def test_a_system_turn_does_not_count_as_a_turn():
    frame = rows(GOOD).with_columns(
        messages=pl.Series([[{"role": "system", "content": "s"}, {"role": "user", "content": "?"}]])
    )
    assert assess(frame, {}, set(), QualityRules())["quality_reason"].to_list() == [None]
