from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.engines.embedding_model import hashed_char_ngrams
from amr_pipeline.queries.decontamination import BenchmarkIndex, Contamination, Embed
from amr_pipeline.studies.study import QueryRules

ITEM = "Every morning Aya goes for a nine kilometer walk and stops at a coffee shop afterwards for some minutes"


def index(rules: QueryRules, *texts: str, embed: Embed | None = hashed_char_ngrams) -> BenchmarkIndex:
    rows = [
        {"benchmark": "aime", "query_id": f"{i:032x}", "source_row": str(i), "category": "math", "licence": "MIT",
         "messages": [{"role": "user", "content": text}]}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    return BenchmarkIndex(pl.DataFrame(rows, schema=tables.BENCHMARK_QUERIES.schema), rules, embed)


def methods(benchmarks: BenchmarkIndex, *texts: str) -> list[str | None]:
    found = benchmarks.contaminations([[{"role": "user", "content": text}] for text in texts])
    return [None if one is None else one.method for one in found]


def test_equal_overlapping_and_similar_texts_are_found_with_evidence():
    benchmarks = index(QueryRules(), ITEM, "Compute 2+2 now")
    edited = ITEM.replace("morning", "mornin").replace("coffee", "cofee")
    assert methods(benchmarks, ITEM.upper() + "!", "Please: " + ITEM, edited, "How many primes are below ten?") == [
        "equal text", "13-gram overlap", "cosine", None,
    ]  # fmt: skip
    (found,) = benchmarks.contaminations([[{"role": "user", "content": ITEM}]])
    assert found is not None
    assert "aime" in found.evidence
    assert "nine kilometer" in found.evidence


def test_a_test_that_is_off_finds_nothing():
    off = QueryRules(decontamination_overlap=None, decontamination_similarity=None)
    assert methods(index(off, ITEM), "Please: " + ITEM) == [None]
    assert methods(index(QueryRules()), ITEM) == [None]


def first(benchmarks: BenchmarkIndex, text: str) -> Contamination | None:
    (found,) = benchmarks.contaminations([[{"role": "user", "content": text}]])
    return found


def numbered(start: int, count: int) -> str:
    return " ".join(f"w{index}" for index in range(start, start + count))


def test_overlap_is_the_share_of_the_querys_own_ngrams():
    rules = QueryRules(decontamination_ngram=3, decontamination_overlap=0.25)
    benchmarks = index(rules, numbered(0, 6), embed=None)
    query = numbered(0, 5) + " " + numbered(100, 5)  # 8 n-grams, 3 of them shared
    found = first(benchmarks, query)
    assert found is not None
    assert (found.method, found.score) == ("3-gram overlap", 3 / 8)
    at_threshold = numbered(0, 4) + " " + numbered(100, 6)  # 2 of 8
    assert first(benchmarks, at_threshold) is None


def test_the_item_that_shares_most_is_named():
    rules = QueryRules(decontamination_ngram=3, decontamination_overlap=0.1)
    benchmarks = index(rules, numbered(0, 4) + " x y z", numbered(0, 8) + " u v", numbered(0, 5) + " q r", embed=None)
    found = first(benchmarks, numbered(0, 9))
    assert found is not None
    assert found.text == numbered(0, 8) + " u v"
    assert found.item == f"aime {1:032x}"[:13]


def along(*cosines: float) -> Embed:
    """Texts to vectors whose cosine with the first text's vector is given; one per text, in order of the numbers in it."""

    def embed(texts: Sequence[str]) -> np.ndarray:
        chosen = [cosines[int(text.split()[-1])] for text in texts]
        return np.array([[cosine, (1 - cosine**2) ** 0.5] for cosine in chosen], dtype=np.float32)

    return embed


COSINE_ALONE = QueryRules(decontamination_overlap=None, decontamination_similarity=0.75)


def test_only_a_cosine_above_the_threshold_counts():
    benchmarks = index(COSINE_ALONE, "item 0", embed=along(1.0, 0.75, 0.76))
    assert first(benchmarks, "query 1") is None
    found = first(benchmarks, "query 2")
    assert found is not None
    assert found.method == "cosine"
    assert found.score == pytest.approx(0.76)
    assert found.text == "item 0"


def test_the_nearest_item_is_named_and_earlier_tests_come_first():
    benchmarks = index(COSINE_ALONE, "far 1", "near 0", embed=along(1.0, 0.0, 0.98))
    found = benchmarks.contaminations([[{"role": "user", "content": text}] for text in ("far 1", "other 2")])
    assert [(one.method, one.text) for one in found if one] == [("equal text", "far 1"), ("cosine", "near 0")]


WORDS = st.lists(st.sampled_from(["alpha", "beta", "gamma", "3-1", "x^2", "sum"]), min_size=1, max_size=30)


@settings(max_examples=60)
@given(st.lists(WORDS, min_size=1, max_size=4), st.data())
def test_no_benchmark_item_gets_through_however_it_is_spaced_or_cased(items: list[list[str]], data: st.DataObject):
    benchmarks = index(QueryRules(), *(" ".join(words) for words in items), embed=None)
    chosen = data.draw(st.sampled_from(items))
    for text in (" ".join(chosen), "  ".join(chosen).upper() + " ?!", "\n".join(chosen)):
        found = first(benchmarks, text)
        assert found is not None
        assert (found.method, found.score) == ("equal text", 1.0)


def test_without_benchmarks_or_queries_nothing_is_contaminated():
    assert index(QueryRules()).contaminations([]) == []
    assert first(index(QueryRules()), ITEM) is None
    assert index(QueryRules(), ITEM).contaminations([]) == []
