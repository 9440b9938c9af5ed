import random
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.queries.decontamination import BenchmarkIndex
from amr_pipeline.queries.filters import LONGEST_EVIDENCE, clean_shard, first_rejection, represented
from amr_pipeline.queries.identity import query_id
from amr_pipeline.studies.study import QueryRules

RULES = QueryRules()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("What is the sum of the first ten primes?", None),
        ("If x = 3, compute $x^2 + \\frac{1}{x}$.", None),
        ("", "too short"),
        ("See https://example.org/page for the data.", "url"),
        ("Look at www.example.org/x now.", "url"),
        ("| a | b |\n|---|---|\n| 1 | 2 |\nSum column a.", "table"),
        ("In the figure below, find the angle.", "image"),
        ("Describe ![chart](c.png).", "image"),
        ("Find all integers n such that", "incomplete"),
        ("Solve for x, given that a = 1,", "incomplete"),
        ("What is\ufffd2+2?", "wrong unicode"),
        ("The cafÃ© problem: how many cups?", "wrong unicode"),
        ("bell \x07 rings how often?", "wrong unicode"),
        ("Сколько будет два плюс два, если считать верно?", "non-ASCII ratio"),
    ],
)
def test_each_filter_names_its_reason(text: str, reason: str | None):
    found = first_rejection(text, RULES)
    assert (found.reason if found else None) == reason


def test_a_rule_that_is_off_lets_through():
    rules = QueryRules(highest_non_ascii_ratio=None, drop_urls=False, drop_incomplete=False)
    assert first_rejection("Смотри https://example.org и", rules) is None


def raw_rows(texts: list[tuple[str, str, str | None]]) -> pl.DataFrame:
    rows = [
        {
            "source": source,
            "source_row": str(index),
            "query_id": query_id([{"role": "user", "content": text}]),
            "shard": "00",
            "category": "math",
            "messages": [{"role": "user", "content": text}],
            "reference": reference,
            "licence": "MIT",
        }
        for index, (source, text, reference) in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=tables.RAW_QUERIES.schema)


def no_benchmarks() -> BenchmarkIndex:
    return BenchmarkIndex(pl.DataFrame(schema=tables.BENCHMARK_QUERIES.schema), RULES, None)


def test_equal_texts_keep_the_first_source_and_say_when_references_conflict():
    raw = raw_rows([("b", "What is 1+1?", "3"), ("a", "What is  1+1?", "2")])
    kept, dropped, counts = clean_shard(raw, tables.NEAR_DUPLICATES.empty(), no_benchmarks(), RULES)
    assert kept["source"].to_list() == ["a"]
    assert dropped["reason"].to_list() == ["exact duplicate"]
    assert "references differ" in dropped["evidence"][0]
    assert counts == {"kept": 1, "dropped: exact duplicate": 1}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=40), st.none()), max_size=30), st.randoms())
def test_rows_are_conserved_and_order_never_matters(texts: list[tuple[str, str, None]], shuffler: random.Random):
    raw = raw_rows(texts)
    order = list(range(raw.height))
    shuffler.shuffle(order)
    kept, dropped, counts = clean_shard(raw, tables.NEAR_DUPLICATES.empty(), no_benchmarks(), RULES)
    again = clean_shard(raw[order], tables.NEAR_DUPLICATES.empty(), no_benchmarks(), RULES)[0]
    assert kept.height + dropped.height == raw.height == sum(counts.values())
    assert sorted(kept["query_id"]) == sorted(again["query_id"])
    assert not tables.QUERIES.violations(kept)


@pytest.mark.parametrize(("text", "reason"), [("abcdefgééé", None), ("abcdeféééé", "non-ASCII ratio"), ("éabc", None)])
def test_the_ratio_itself_is_allowed(text: str, reason: str | None):
    found = first_rejection(text, QueryRules(highest_non_ascii_ratio=0.3))
    assert (found.reason if found else None) == reason


def test_length_limits_are_inclusive_and_ignore_outer_space():
    rules = QueryRules(shortest_characters=4, longest_characters=6)
    lengths = {text: first_rejection(text, rules) for text in ("abc ", "abcd", "abcdef", " abcdef ", "abcdefg")}
    assert {text: found.reason for text, found in lengths.items() if found} == {
        "abc ": "too short",
        "abcdefg": "too long",
    }


@pytest.mark.parametrize(
    ("off", "text"),
    [
        ({"drop_urls": False}, "See https://example.org/page now?"),
        ({"drop_tables": False}, "| a | b |\n|---|---|\n| 1 | 2 |\nSum?"),
        ({"drop_images": False}, "In the figure below, find the angle."),
        ({"drop_incomplete": False}, "Find all integers n such that"),
        ({"highest_non_ascii_ratio": None}, "Сколько будет два плюс два?"),
    ],
)
def test_each_rule_is_switched_off_alone(off: dict, text: str):
    assert first_rejection(text, RULES) is not None
    assert first_rejection(text, replace(RULES, **off)) is None


def test_every_way_out_has_a_reason_and_the_first_one_counts():
    known = "What is the product of eleven and twelve and thirteen when written in words by hand?"
    copied, twin = known + " Now.", "How many primes are below fifty?"
    raw = raw_rows(
        [
            ("a", known, None),
            ("b", copied, None),
            ("b", copied, None),
            ("a", "cut and", None),
            ("c", twin, None),
            ("d", twin, None),
        ]
    )
    benchmark = pl.DataFrame(
        [{"benchmark": "exam", "query_id": "e" * 32, "source_row": "1", "category": "math", "licence": "MIT",
          "messages": [{"role": "user", "content": copied}]}],
        schema=tables.BENCHMARK_QUERIES.schema,
    )  # fmt: skip
    near = pl.DataFrame(
        [{"query_id": query_id([{"role": "user", "content": text}]), "stands_for_it": "0" * 32, "similarity": 0.9}
         for text in (twin, copied)],
        schema=tables.NEAR_DUPLICATES.schema,
    )  # fmt: skip
    rules = replace(RULES, decontamination_overlap=None)
    kept, dropped, counts = clean_shard(raw, near, BenchmarkIndex(benchmark, rules, None), rules)
    assert kept["messages"].to_list() == [[{"role": "user", "content": known}]]
    assert counts == {
        "kept": 1,
        "dropped: contaminated": 2,
        "dropped: incomplete": 1,
        "dropped: near duplicate": 2,
    }
    said = dict(zip(dropped["reason"], dropped["evidence"], strict=True))
    assert said["near duplicate"] == "of " + "0" * 32
    assert "exam eeeeeeee" in said["contaminated"]
    assert not tables.DROPPED_QUERIES.violations(dropped)


def test_the_last_turn_is_what_filters_read_and_evidence_is_bounded():
    turns = [{"role": "user", "content": "see https://x.org/a"}, {"role": "assistant", "content": "ok"}]
    row = raw_rows([("a", "x", None)]).with_columns(
        messages=pl.Series([[*turns, {"role": "user", "content": "What is 2+2?"}]])
    )
    assert clean_shard(row, tables.NEAR_DUPLICATES.empty(), no_benchmarks(), RULES)[0].height == 1
    long = raw_rows([("a", "x\x07" + "y" * 9000, None)])
    dropped = clean_shard(long, tables.NEAR_DUPLICATES.empty(), no_benchmarks(), RULES)[1]
    assert dropped["reason"].to_list() == ["wrong unicode"]
    assert len(dropped["evidence"][0]) == LONGEST_EVIDENCE


TWIN = "How many ways are there to seat eleven guests around one round table in the garden tonight"


def cleaned(texts: list[str], exam: list[str], rules: QueryRules) -> tuple[list[str], dict[str, int]]:
    """Texts that are kept, and the counts."""
    problems = pl.DataFrame(
        [{"benchmark": "exam", "query_id": str(index), "source_row": "1", "category": "math", "licence": "MIT",
          "messages": [{"role": "user", "content": text}]} for index, text in enumerate(exam)],
        schema=tables.BENCHMARK_QUERIES.schema,
    )  # fmt: skip
    raw, index = raw_rows([("a", text, None) for text in texts]), BenchmarkIndex(problems, rules, None)
    stand_ins = represented(raw.select("query_id", "category", "messages"), index, rules)
    kept, dropped, counts = clean_shard(raw, stand_ins, index, rules)
    assert kept.height + dropped.height == len(texts)
    return [messages[0]["content"] for messages in kept["messages"].to_list()], counts


def smallest_last(*texts: str) -> list[str]:
    """In falling order of their ids: the last one would stand for the others."""
    return sorted(texts, key=lambda text: query_id([{"role": "user", "content": text}]), reverse=True)


def test_a_good_query_is_not_lost_behind_a_dropped_twin():
    rules = replace(RULES, near_duplicate_similarity=0.8, decontamination_overlap=None)
    damaged = f"{TWIN} \x07"
    good = next(text for letter in "abcdefgh" if smallest_last(text := f"{TWIN} {letter}?", damaged)[-1] == damaged)
    assert cleaned([good, damaged], [], rules) == ([good], {"kept": 1, "dropped: wrong unicode": 1})


def test_a_good_query_is_not_lost_behind_a_contaminated_twin():
    rules = replace(RULES, near_duplicate_similarity=0.8, decontamination_overlap=None)
    texts = smallest_last(f"{TWIN} please?", f"{TWIN} then?", f"{TWIN} now?")
    kept, counts = cleaned(texts, exam=[texts[-1]], rules=rules)
    assert kept == [texts[1]], "the smallest of what is clean"
    assert counts == {"kept": 1, "dropped: contaminated": 1, "dropped: near duplicate": 1}


def test_without_a_similarity_nothing_is_represented():
    rules = replace(RULES, near_duplicate_similarity=None)
    assert cleaned([f"{TWIN}?", f"{TWIN}!"], [], rules)[1] == {"kept": 2}
