import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.queries.identity import query_id
from amr_pipeline.queries.near_duplicates import near_duplicates, signature

LONG = "A train leaves the station at noon and travels east at sixty miles per hour for three hours without stopping"


def rows(*texts: str) -> pl.DataFrame:
    messages = [[{"role": "user", "content": text}] for text in texts]
    return pl.DataFrame(
        {"query_id": [query_id(turns) for turns in messages], "category": ["math"] * len(texts), "messages": messages}
    )


def test_case_and_punctuation_copies_are_found_and_others_are_not():
    found = near_duplicates(
        rows(LONG, LONG.upper() + "!", "How many primes are there below one hundred and twenty?"), 0.9
    )
    assert found.height == 1
    assert found["similarity"][0] == 1.0


def test_the_smallest_id_stands_for_the_cluster_in_any_order():
    texts = (LONG, LONG + ".", LONG + "?", LONG.title())
    forward, backward = near_duplicates(rows(*texts), 0.9), near_duplicates(rows(*reversed(texts)), 0.9)
    assert forward.sort("query_id").equals(backward.sort("query_id"))
    smallest = min(rows(*texts)["query_id"])
    assert set(forward["stands_for_it"]) == {smallest}


def test_estimate_is_close_to_the_true_similarity():
    edited = LONG.replace("sixty", "seventy")
    shingles = [{text[i : i + 5] for i in range(len(text) - 4)} for text in (LONG, edited)]
    true = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
    assert abs((signature(LONG) == signature(edited)).mean() - true) < 0.15


def test_other_categories_never_stand_for_each_other():
    frame = rows(LONG, LONG + "!").with_columns(category=pl.Series(["math", "code"]))
    assert near_duplicates(frame, 0.9).is_empty()


def true_similarity(one: str, other: str) -> float:
    left, right = ({text[i : i + 5] for i in range(max(1, len(text) - 4))} for text in (one, other))
    return len(left & right) / len(left | right)


def test_the_threshold_itself_is_enough():
    assert near_duplicates(rows(LONG, LONG.upper()), 1.0).height == 1
    edited = LONG.replace("sixty", "seventy")
    estimate = float((signature(LONG.lower()) == signature(edited.lower())).mean())
    assert near_duplicates(rows(LONG, edited), estimate).height == 1
    assert near_duplicates(rows(LONG, edited), estimate + 1 / 128).is_empty()


@pytest.mark.parametrize(("one", "other", "same"), [("a?", "A", True), ("a", "b", False), ("abcd", "abce", False)])
def test_texts_shorter_than_a_shingle_are_compared_whole(one: str, other: str, same: bool):
    assert near_duplicates(rows(one, other), 0.9).height == int(same)


@pytest.mark.parametrize("texts", [(), ("a b c",), ("a b c", "a b c")])
def test_alone_nothing_is_a_duplicate(texts: tuple[str, ...]):
    frame = rows(*texts) if texts else rows("x").clear()
    assert near_duplicates(frame, 0.5).equals(tables.NEAR_DUPLICATES.empty())


def words(draw: random.Random, count: int) -> list[str]:
    return ["".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6)) for _ in range(count)]


def test_almost_every_close_pair_is_found_and_far_ones_are_not():
    draw = random.Random(1)
    found = 0
    for _ in range(40):
        one = words(draw, 40)
        close, far = list(one), [word if draw.random() < 0.6 else words(draw, 1)[0] for word in one]
        close[draw.randrange(40)] = words(draw, 1)[0]
        assert true_similarity(" ".join(one), " ".join(close)) > 0.88
        found += near_duplicates(rows(" ".join(one), " ".join(close)), 0.8).height
        assert near_duplicates(rows(" ".join(one), " ".join(far)), 0.8).is_empty()
    assert found >= 38


def test_a_chain_of_edits_is_one_cluster():
    text = words(random.Random(2), 30)
    chain = [" ".join([*words(random.Random(9), step), *text[step:]]) for step in range(6)]
    found = near_duplicates(rows(*chain), 0.8)
    assert found.height == 5
    assert found["stands_for_it"].n_unique() == 1


COPIES = [LONG, LONG + "!", LONG[:-3], LONG[:40], "short", "x", "Short?", "y y y y"]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(COPIES)), st.integers(0, 99))
def test_who_stands_for_others_stands_for_itself_and_has_the_smallest_id(texts: list[str], seed: int):
    frame = rows(*texts) if texts else rows("x").clear()
    found = near_duplicates(frame, 0.8)
    assert not set(found["stands_for_it"]) & set(found["query_id"])
    assert found.filter(pl.col("stands_for_it") >= pl.col("query_id")).is_empty()
    assert not tables.NEAR_DUPLICATES.violations(found)
    assert near_duplicates(frame.sample(fraction=1, shuffle=True, seed=seed), 0.8).equals(found)
