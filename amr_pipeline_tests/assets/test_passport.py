"""A passport says what the tables say, names the records it rests on, and cuts long texts."""

from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.assets.lineage import verifier_fingerprints
from amr_pipeline.assets.partitions import ALL
from amr_pipeline.assets.passport import LONGEST_TEXT, RowGoneError, passport
from amr_pipeline.assets.row_search import Asked, Match, find
from amr_pipeline.studies.study import Study
from amr_pipeline_tests.assets.imported_world import ImportedWorld
from amr_pipeline_tests.studies.small import BENCHMARK, FIRST


def of(world: ImportedWorld, identity: str, recipe: str | None = None, study: Study | None = None) -> dict[str, Any]:
    study = study or world.study
    (match,) = find(study, world.store, Asked(beginning=identity, recipe=recipe))
    return passport(study, world.store, match, recipe)


def response(world: ImportedWorld, text: str) -> str:
    everything = world.store.read("responses", world.store.partitions("responses"))
    return everything.filter(pl.col("text") == text)["response_id"][0]


def query(world: ImportedWorld, table: str = "queries") -> str:
    return world.store.read(table, "00")["query_id"].sort()[0]


def test_a_response_leads_back_to_everything_that_made_it(finished_world: ImportedWorld):
    found = of(finished_world, response(finished_world, "a, b"))
    row = finished_world.study.distiller("one")
    assert found["kind"] == "response"
    assert found["response"]["text"] == "a, b"
    assert (found["response"]["seed"], found["response"]["engine"]) == (None, "imported")
    assert (found["response"]["finish_reason"], found["response"]["characters"]) == ("stop", 4)
    assert (found["distiller"]["name"], found["distiller"]["model"]) == ("one", "one")
    assert (found["distiller"]["revision"], found["distiller"]["is_todays"]) == ("imported", True)
    assert found["distiller"]["distiller_fingerprint"] == row.distiller_fingerprint
    assert (found["query"]["source"], found["query"]["source_row"], found["query"]["licence"]) == ("s", "line 1", "MIT")
    assert (found["query"]["text"], found["query"]["filters"]) == ("Who first?", "every one passed")
    assert "no_comma" in found["query"]["constraints"]
    assert found["quality"]["quality_reason"] is None
    (verdict,) = found["verdicts"]
    assert (verdict["verdict"], verdict["verify_score"], verdict["cause"]) == ("failed", 0.0, None)
    assert verdict["verifier_fingerprint"] == verifier_fingerprints(finished_world.study)["instruction_following"]
    assert "punctuation:no_comma" in verdict["evidence"]
    assert [(row["distiller"], row["pass_rate"]) for row in found["difficulty of the query"]] == [
        *(("one", 0.5), ("two", 1.0)),
        ("joint", 0.75),
    ]
    assert [(row["selection_recipe"], row["is_in"]) for row in found["subsets"]] == [("uneven", False)]


def test_every_partition_that_it_rests_on_shows_its_record(finished_world: ImportedWorld):
    found = of(finished_world, response(finished_world, "a"))
    records = {(row["table"], row["partition"]): row for row in found["records"]}
    assert set(records) == {
        *(("raw_queries", "s"), ("queries", "00"), ("responses", "one|00"), ("response_quality", "one|00")),
        *(("verdicts", "one|00"), ("difficulty", "00"), ("subsets", "uneven"), ("release", "uneven")),
    }
    for place, row in records.items():
        commit = finished_world.store.latest(*place)
        assert commit is not None
        assert (row["version"], row["created_at"], row["digest"]) == (commit.version, commit.created_at, commit.digest)
        assert (row["rows"], row["code"]) == (commit.fingerprints["rows"], commit.fingerprints["code"])


def test_verdicts_of_every_verifier_are_shown_todays_first(finished: ImportedWorld):
    finished.change("InstructionVerifier()", "InstructionVerifier(reading='loose')")
    before = of(finished, response(finished, "a"))
    assert [row["is_todays"] for row in before["verdicts"]] == [False]
    finished.materialize(assets=("verdicts",))
    after = of(finished, response(finished, "a"))["verdicts"]
    assert [(row["is_todays"], row["verifier"]) for row in after] == [
        (True, "instruction_constraints/loose"),
        (False, "instruction_constraints/strict"),
    ]


def test_a_row_that_wrote_it_and_is_gone_is_not_replaced_by_todays(finished: ImportedWorld):
    identity = response(finished, "a")
    finished.answer("one", {"Who first?": ["other"]})
    found = of(finished, identity)["distiller"]
    assert found["is_todays"] is False
    assert "model" not in found
    assert "no row of this fingerprint" in found["row"]


def test_a_dropped_query_says_why_and_a_kept_one_where_else_it_stands(world: ImportedWorld):
    world.ask("Who first?", "Who first?", "See https://example.org for more")
    world.materialize()
    dropped = world.store.read("dropped_queries", "00").filter(pl.col("reason") == "url")["query_id"][0]
    found = of(world, dropped)
    assert found["kind"] == "dropped query"
    assert (found["query"]["filters"], found["query"]["text"]) == ("dropped: url", "See https://example.org for more")
    assert "https://example.org" in found["query"]["evidence"]
    assert found["responses"] == []
    (other,) = of(world, query(world))["query"]["also in"]
    assert other.startswith("s line 2 (")


def test_a_query_lists_what_was_written_to_it_without_reading_texts(finished_world: ImportedWorld):
    found = of(finished_world, of(finished_world, response(finished_world, "j, k"))["query"]["query_id"])
    told = [(row["distiller"], row["pass_index"], row["verdict"]) for row in found["responses"]]
    assert told == [("one", 0, "passed"), ("one", 1, "passed"), ("two", 0, "failed"), ("two", 1, "failed")]
    assert "responses" not in {row["table"] for row in found["records"]}


def test_a_query_that_no_source_holds_any_more_is_named_as_such(finished: ImportedWorld):
    identity = response(finished, "a")
    finished.ask("Who second?")
    finished.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    found = of(finished, identity)
    assert found["query"]["filters"] == "no source holds it any more"
    assert found["subsets"][0]["is_in"], "the subset is older"


def test_a_row_of_a_subset_is_shown_with_that_recipe_alone(world: ImportedWorld):
    world.change(
        "selection_recipes=(",
        'selection_recipes=(SelectionRecipe(name="every", distillers=DISTILLERS, seed=1, rules=()),',
    )
    world.materialize()
    identity = response(world, "a")
    assert [row["selection_recipe"] for row in of(world, identity)["subsets"]] == ["every", "uneven"]
    (row,) = of(world, identity, "uneven")["subsets"]
    assert (row["selection_recipe"], row["is_in"]) == ("uneven", True)


def test_what_a_person_and_a_second_verifier_said_is_shown(finished: ImportedWorld):
    identity = response(finished, "a")
    said = pl.DataFrame(
        [{"response_id": identity, "human_verdict": "failed", "note": "it is not"}], schema=tables.HUMAN_VERDICTS.schema
    )
    finished.store.write("human_verdicts", ALL, said, fingerprints={})
    chosen = finished.store.read("subsets", "uneven").filter(pl.col("response_id") == identity)
    told = {"verdict": "failed", "verifier": "other/x", "verifier_fingerprint": "f", "evidence": "e"}
    opinion = chosen.with_columns(
        pl.lit(None, dtype=pl.String).alias("cause"), *(pl.lit(value).alias(name) for name, value in told.items())
    )
    finished.store.write(
        "second_opinions", "uneven", opinion.select(tables.SECOND_OPINIONS.schema.names()), fingerprints={}
    )
    found = of(finished, identity)
    assert found["a person's verdict"] == {"human_verdict": "failed", "note": "it is not"}
    assert [(row["verifier"], row["verdict"]) for row in found["second opinions"]] == [("other/x", "failed")]
    assert "second opinions" not in of(finished, response(finished, "c"))


def test_long_texts_are_cut(world: ImportedWorld):
    world.answer("one", {"Who first?": ["x" * (LONGEST_TEXT + 1)]})
    world.materialize(assets=("raw_queries", "near_duplicates", "queries", "responses"))
    text = of(world, response(world, "x" * (LONGEST_TEXT + 1)))["response"]["text"]
    assert text == "x" * LONGEST_TEXT + f"... ({LONGEST_TEXT + 1:,} characters)"


def test_an_id_whose_row_is_gone_is_an_error_that_says_so(finished_world: ImportedWorld):
    with pytest.raises(RowGoneError, match=r"response 00000000 has no row in responses one\|00 any more"):
        passport(
            finished_world.study, finished_world.store, Match(kind="response", identity="00000000", partition="one|00")
        )


@pytest.fixture
def measured(world: ImportedWorld) -> Study:
    """The world's study with one training run, measured on one problem in two passes."""
    run = replace(FIRST, subset="uneven")
    study = replace(world.study, benchmarks=(BENCHMARK,), training_recipes=(run,))
    problem = {
        **{"benchmark": "exam", "query_id": "ab" * 16, "source_row": "1", "category": "math", "licence": "MIT"},
        **{
            "messages": [{"role": "user", "content": "2+2?"}],
            "reference": "4",
            "test_cases": None,
            "constraints": None,
        },
    }
    told = {"training_recipe": "first", "digest": "sha256:1", "benchmark": "exam", "query_id": "ab" * 16}
    answers = [
        {**told, "response_id": f"{index}c" * 16, "category": "math", "pass_index": index, "seed": 1, "text": "4"}
        | {"finish_reason": "stop", "prompt_tokens": 1, "response_tokens": 1, "engine": "vllm 1"}
        for index in range(2)
    ]
    verdicts = [{"verdict": "passed", "verify_score": 1.0, "cause": None}, {"verdict": "undecided", "cause": "timeout"}]
    scores = [{**answer, **verdict} for answer, verdict in zip(answers, verdicts, strict=True)]
    for table, partition, rows in (
        ("benchmark_queries", "exam", [problem]),
        ("benchmark_responses", "first", answers),
        ("benchmark_scores", "first", scores),
    ):
        frame = pl.DataFrame(rows, schema=tables.TABLES[table].schema)
        world.store.write(table, partition, frame, fingerprints={})
    return study


def test_what_a_checkpoint_wrote_to_a_problem_leads_to_both(world: ImportedWorld, measured: Study):
    found = of(world, "0c" * 16, study=measured)
    assert found["kind"] == "benchmark response"
    assert (found["response"]["engine"], found["verdict"]["verdict"]) == ("vllm 1", "passed")
    assert (found["benchmark problem"]["text"], found["benchmark problem"]["reference"]) == ("2+2?", "4")
    assert found["checkpoint"] == {"training_recipe": "first", "digest": "sha256:1", "is_todays": False}


def test_a_benchmark_problem_says_how_runs_fared(world: ImportedWorld, measured: Study):
    found = of(world, "ab" * 16, study=measured)
    assert (found["kind"], found["benchmark problem"]["benchmark"]) == ("benchmark problem", "exam")
    assert found["scores"] == [{"training_recipe": "first", "responses": 2, "passed": 1, "undecided": 1}]
