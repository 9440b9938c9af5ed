"""Releases: the published layout, licences that block, what changed, and files that read back."""

import io
import json
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.release import (
    LicenceError,
    ReleaseError,
    ReleaseFile,
    difference,
    licence_counts,
    passports,
    published_fields,
    published_rows,
    release_files,
    release_rows,
    require_licences,
    require_loadable,
)
from amr_pipeline_tests.released import DISTILLERS, HOSTILE, SOURCES, World, world
from amr_pipeline_tests.verdict_rows import query, response, verdicts


def rows_of(here: World, subset: pl.DataFrame | None = None) -> pl.DataFrame:
    return published_rows(
        here.selection.chosen if subset is None else subset,
        queries=here.queries,
        responses=here.responses,
        difficulty=here.difficulty,
        response_quality=here.response_quality,
        distillers=DISTILLERS,
    )


def origins_of(here: World) -> pl.DataFrame:
    return passports(
        here.selection.chosen,
        queries=here.queries,
        responses=here.responses,
        verdicts=here.verdicts,
        distillers=DISTILLERS,
    )


def test_the_fields_are_the_published_ones_in_order_and_the_response_id():
    assert published_fields(["r1", "7b", "1.5b"]) == [
        "question",
        "answer",
        "question_source",
        "answer_source",
        "category",
        "ground_truth",
        "test_case",
        "instruction_constrain",
        "pass_rate_r1",
        "pass_rate_7b",
        "pass_rate_1.5b",
        "verify_score",
        "ppl",
        "model_name",
        "response_id",
    ]
    assert rows_of(world()).columns == published_fields(["r1", "1.5b"])


def test_a_published_row_holds_its_own_response_and_its_querys_rates():
    row = rows_of(world()).row(by_predicate=pl.col("response_id") == response(query(1), "r1", 2), named=True)
    assert row["question"] == "1 + 1?"
    assert row["answer"].endswith(HOSTILE + "</answer>")
    assert (row["category"], row["ground_truth"], row["question_source"]) == ("math", "2", "numbers")
    assert (row["pass_rate_r1"], row["pass_rate_1.5b"], row["verify_score"]) == (0.5, 0.25, 1.0)
    assert (row["model_name"], row["answer_source"], row["ppl"]) == ("Big-R1", "lab/Big-R1@1", 2.0)


def test_categories_are_spelled_as_published():
    assert set(rows_of(world()).get_column("category")) == {"math", "instruction follow"}


def test_a_rate_without_a_decision_is_null_and_not_zero():
    row = rows_of(world()).row(by_predicate=pl.col("response_id") == response(query(2), "r1", 0), named=True)
    assert row["pass_rate_1.5b"] is None


def test_every_chosen_response_is_published_once():
    here = world()
    assert rows_of(here).get_column("response_id").to_list() == sorted(here.selection.chosen["response_id"])


def test_a_response_whose_text_or_query_is_missing_stops_the_release():
    here = world()
    with pytest.raises(ReleaseError, match="not those the subset was made from"):
        rows_of(replace(here, responses=here.responses.clear()))
    with pytest.raises(ReleaseError, match="not those the subset was made from"):
        rows_of(replace(here, queries=here.queries.filter(pl.col("query_id") != query(1))))


def test_a_passport_leads_back_to_source_distiller_engine_seed_and_every_verdict():
    here = world()
    former = verdicts([(query(1), "r1", [0, 0, 0, 0])], fingerprint="verifier-before")
    here = replace(here, verdicts=pl.concat([here.verdicts, former]))
    row = origins_of(here).row(by_predicate=pl.col("response_id") == response(query(1), "r1", 0), named=True)
    assert (row["source"], row["source_row"], row["licence"]) == ("numbers", "line 1", "MIT")
    assert (row["model"], row["revision"], row["seed"], row["engine"]) == ("lab/Big-R1", "1", 7, "vllm 0.29.0")
    assert [each["verifier_fingerprint"] for each in row["verdicts"]] == ["verifier-before", "verifier-now"]
    assert [each["verdict"] for each in row["verdicts"]] == ["failed", "passed"]


def test_known_licences_let_a_release_through():
    require_licences(origins_of(world()), SOURCES)
    assert licence_counts(origins_of(world())) == {"MIT": 5}


def test_an_unknown_licence_blocks_and_names_the_source():
    origins = origins_of(world(licence="unknown", source="scraped"))
    with pytest.raises(LicenceError, match=r"scraped \(5 rows\)") as caught:
        require_licences(origins, SOURCES)
    assert "unknown_licence_accepted_because" in str(caught.value)


def test_an_unknown_licence_passes_only_with_a_reason_on_its_own_source():
    origins = origins_of(world(licence="unknown", source="scraped"))
    reason = replace(SOURCES[1], unknown_licence_accepted_because="the owner agreed in writing")
    require_licences(origins, (SOURCES[0], reason))
    elsewhere = replace(SOURCES[0], unknown_licence_accepted_because="the owner agreed in writing")
    with pytest.raises(LicenceError):
        require_licences(origins, (elsewhere, SOURCES[1]))


def files_of(here: World) -> dict[str, ReleaseFile]:
    return {file.path: file for file in release_files(rows_of(here), origins_of(here), {"README.md": "# Card"})}


def test_files_are_named_by_category_distiller_and_pass_from_one():
    paths = set(files_of(world()))
    assert {path for path in paths if path.endswith(".jsonl")} == {
        "data/if_r1_2pass.jsonl",
        "data/math_r1_1pass.jsonl",
        "data/math_r1_2pass.jsonl",
        "data/math_r1_3pass.jsonl",
    }
    assert paths - {path for path in paths if path.startswith("data/")} == {"passports.parquet", "README.md"}


def test_both_forms_hold_the_same_rows_and_all_of_them():
    here, files = world(), files_of(world())
    parquet = [
        pl.read_parquet(io.BytesIO(file.content)) for path, file in files.items() if path.endswith("pass.parquet")
    ]
    lines = [
        json.loads(line)
        for path, file in files.items()
        if path.endswith(".jsonl")
        for line in file.content.decode().split("\n")
        if line
    ]
    assert pl.concat(parquet).sort("response_id").equals(rows_of(here))
    assert sorted(lines, key=lambda row: row["response_id"]) == rows_of(here).to_dicts()


def test_equal_releases_are_equal_bytes():
    assert files_of(world()) == files_of(world())


def test_every_file_reads_back():
    for file in files_of(world()).values():
        require_loadable(file)


@pytest.mark.parametrize(
    "file",
    [
        ReleaseFile(path="a.jsonl", content=b'{"a": 1}\n', num_rows=2),
        ReleaseFile(path="a.jsonl", content=b'{"a": 1}\n{"a"', num_rows=2),
        ReleaseFile(path="a.jsonl", content=b'"not a record"\n', num_rows=1),
        ReleaseFile(path="a.parquet", content=b"PAR1 and then nothing", num_rows=1),
        ReleaseFile(path="README.md", content=b"\xff\xfe", num_rows=0),
    ],
)
def test_a_file_that_a_reader_could_not_use_is_refused(file):
    with pytest.raises(ReleaseError, match=file.path):
        require_loadable(file)


def test_release_rows_say_what_each_file_is():
    files = list(files_of(world()).values())
    rows = release_rows("stage1", files)
    assert rows.schema == tables.RELEASE.schema
    assert tables.RELEASE.violations(rows) == {}
    card = rows.row(by_predicate=pl.col("path") == "README.md", named=True)
    assert (card["num_bytes"], card["num_rows"]) == (6, 0)
    assert card["sha256"] == "f7f8cb045d68630482ef4456daa45d8a8aeedb13588a90dd413c509ba4de3358"


def test_the_first_release_is_all_new():
    rows = rows_of(world())
    assert difference(None, rows).counts == {"added": rows.height, "removed": 0, "changed": 0, "unchanged": 0}


def test_a_difference_names_rows_added_and_removed_and_fields_changed():
    rows = rows_of(world())
    before = rows.tail(-1).with_columns(
        verify_score=pl.when(pl.col("response_id") == rows["response_id"][1]).then(0.5).otherwise("verify_score")
    )
    found = difference(before, rows.head(-1))
    assert found.added.get_column("response_id").to_list() == [rows["response_id"][0]]
    assert found.removed.get_column("response_id").to_list() == [rows["response_id"][-1]]
    assert found.changed.rows() == [(rows["response_id"][1], "verify_score", "0.5", "1.0")]
    assert found.counts == {"added": 1, "removed": 1, "changed": 1, "unchanged": rows.height - 3}


def test_a_value_that_appears_or_disappears_is_a_change():
    rows = rows_of(world())
    without = rows.with_columns(ppl=pl.lit(None, dtype=pl.Float64))
    assert set(difference(without, rows).changed.get_column("field")) == {"ppl"}
    assert difference(without, without).counts["changed"] == 0


def test_a_new_distillers_field_does_not_make_every_row_changed():
    rows = rows_of(world())
    found = difference(rows.drop("pass_rate_1.5b"), rows)
    assert (found.added_fields, found.removed_fields) == (("pass_rate_1.5b",), ())
    assert found.counts["unchanged"] == rows.height
    assert difference(rows, rows.drop("pass_rate_1.5b")).removed_fields == ("pass_rate_1.5b",)


@given(st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4)), st.randoms())
@settings(max_examples=30, deadline=None)
def test_a_difference_does_not_depend_on_order_and_accounts_for_every_row(before, after, rng):
    rows = rows_of(world())
    old, new = rows[sorted(before)], rows[sorted(after)]
    counts = difference(old[rng.sample(range(old.height), old.height)], new).counts
    assert counts == difference(old, new).counts
    assert counts["added"] + counts["changed"] + counts["unchanged"] == new.height
    assert counts["removed"] + counts["changed"] + counts["unchanged"] == old.height
