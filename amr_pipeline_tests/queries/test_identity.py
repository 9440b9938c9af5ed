import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.queries.identity import (
    benchmark_problems,
    comparable_text,
    identified,
    normalized_text,
    query_id,
    question_text,
    shard_of,
)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_spacing_and_unicode_form_do_not_change_identity_and_case_does():
    assert query_id(user("  What is\n 2+2?")) == query_id(user("What is 2+2?"))
    assert query_id(user("caf\u00e9")) == query_id(user("cafe\u0301"))
    assert query_id(user("Solve X")) != query_id(user("Solve x"))


def test_roles_and_turns_are_part_of_identity():
    assert query_id(user("a")) != query_id([{"role": "system", "content": "a"}])
    assert normalized_text([*user("a"), *user("b")]) != normalized_text(user("a b"))


@given(st.text(min_size=1), st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]))
def test_shard_is_the_leading_bits(text: str, num_shards: int):
    identity = query_id(user(text))
    shard = int(shard_of(identity, num_shards), 16)
    assert 0 <= shard < num_shards
    # Doubling the shards splits each one in two and moves nothing else.
    assert int(shard_of(identity, num_shards * 2), 16) // 2 == shard


@pytest.mark.parametrize("num_shards", [-1, 0, 3, 257, 512])
def test_shard_count_must_be_a_power_of_two(num_shards: int):
    with pytest.raises(ValueError, match="power of two"):
        shard_of("00", num_shards)


def test_comparable_text_keeps_mathematics():
    assert comparable_text(user("What is 3-1?")) == comparable_text(user("WHAT is  3-1 !"))
    assert comparable_text(user("3-1")) != comparable_text(user("3+1"))


def test_question_text_names_roles_only_in_conversations():
    assert question_text(user("hi")) == "hi"
    assert question_text([*user("hi"), {"role": "assistant", "content": "yo"}]) == "user: hi\nassistant: yo"


def test_identified_rows_fill_the_table_and_benchmarks_count_repeats_once():
    schema = {name: kind for name, kind in tables.RAW_QUERIES.schema.items() if name not in ("query_id", "shard")}
    row = {"source": "s", "category": "math", "messages": user("1+1"), "reference": "2", "licence": "MIT"}
    rows = pl.DataFrame([{**row, "source_row": "1"}, {**row, "source_row": "2"}], schema=schema)
    found = identified(rows, 4)
    assert found.schema == tables.RAW_QUERIES.schema
    assert found["query_id"].n_unique() == 1
    assert benchmark_problems(rows).height == 1


def test_shards_are_evenly_used_up_to_256():
    identities = [query_id(user(str(index))) for index in range(4000)]
    assert len({shard_of(identity, 256) for identity in identities}) == 256
    assert shard_of("ff" + "0" * 30, 256) == "ff"
    assert shard_of("ff" + "0" * 30, 1) == "00"


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text()), min_size=1), st.randoms())
def test_extra_white_space_never_makes_another_query(turns: list[tuple[str, str]], draw: random.Random):
    def spaced(text: str) -> str:
        return "".join(letter * draw.randint(1, 3) if letter == " " else letter for letter in f" {text} ")

    messages = [{"role": role, "content": text} for role, text in turns]
    assert query_id(messages) == query_id([{"role": role, "content": spaced(text)} for role, text in turns])
    assert len(query_id(messages)) == 32


@given(st.text())
def test_comparable_text_is_settled_and_without_outer_space(text: str):
    once = comparable_text(user(text))
    assert once == once.strip()
    assert comparable_text(user(once)) == once


def test_a_benchmark_problem_that_repeats_keeps_its_first_row():
    schema = {name: kind for name, kind in tables.RAW_QUERIES.schema.items() if name not in ("query_id", "shard")}
    row = {"source": "exam", "category": "math", "reference": "2", "licence": "MIT"}
    texts = ["z?", "1+1", "a?", "1+1"]
    rows = pl.DataFrame(
        [{**row, "source_row": str(place), "messages": user(text)} for place, text in enumerate(texts)], schema=schema
    )
    found = benchmark_problems(rows)
    assert found["source_row"].to_list() == ["0", "1", "2"]
    assert found["benchmark"].unique().to_list() == ["exam"]
    assert found.schema == tables.BENCHMARK_QUERIES.schema
