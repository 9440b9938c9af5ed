"""The card of a release says what is in it, why, under which licences, and what changed."""

from dataclasses import replace

import polars as pl

from amr_pipeline import tables
from amr_pipeline.categories import Category
from amr_pipeline.release import difference, passports, published_rows
from amr_pipeline.report.card import release_card
from amr_pipeline.second_opinions import false_pass_rates
from amr_pipeline.studies.study import AdaptivePasses, JudgeModel, MathVerifier, Scorer
from amr_pipeline_tests.released import DISTILLERS, RECIPE, SOURCES, World, world
from amr_pipeline_tests.studies.small import small_study
from amr_pipeline_tests.test_second_opinions import opinions

STUDY = small_study(
    title="A small world",
    sources=SOURCES,
    distillers=DISTILLERS,
    selection_recipes=(RECIPE,),
    training_recipes=(),
    verifiers=(
        MathVerifier(judge=JudgeModel(scorer=Scorer(model="lab/judge", revision="9", max_model_len=8), prompt="math")),
    ),
)


def card(here: World, study=STUDY, before: pl.DataFrame | None = None, second: pl.DataFrame | None = None) -> str:
    frames = {"queries": here.queries, "responses": here.responses}
    origins = passports(here.selection.chosen, **frames, verdicts=here.verdicts, distillers=DISTILLERS)
    rows = published_rows(
        here.selection.chosen,
        **frames,
        difficulty=here.difficulty,
        response_quality=here.response_quality,
        distillers=DISTILLERS,
    )
    return release_card(
        study,
        RECIPE,
        selection=here.selection,
        origins=origins,
        changes=difference(before, rows),
        fingerprints={str(Category.MATH): "abc123"},
        made_from={"subsets": "version 3", "verdicts": "sha256:77"},
        second=false_pass_rates(tables.SECOND_OPINIONS.empty() if second is None else second, here.selection.chosen),
    )


def test_it_says_how_much_of_what_is_in_it():
    text = card(world())
    assert "# A small world: stage1" in text
    assert "5 verified responses to 3 queries from 1 sources, 500 tokens" in text
    assert "| math | 4 | 80.0% | 2 | 4 | 400 | 80.0% | 100.000 |" in text
    assert "| math | > 0.99 | > 0.05 | 0% | all |" in text


def test_a_second_verifiers_word_is_in_it_with_an_interval_and_absent_where_none_was_asked():
    here = world()
    assert "second verifier" not in card(here)
    said = opinions(here.selection.chosen, ["passed", "failed", "passed", "undecided"])
    assert "| math | again | 4 | 3 | 1 | 1 | 0.333 (0.061 to 0.792) |" in card(here, second=said)


def test_it_accounts_for_every_response_that_was_considered():
    here = world()
    text = card(here)
    assert f"{here.selection.considered} responses were considered, 5 chosen" in text
    for reason, count in here.selection.rejected.items():
        assert f"| {reason} | {count} |" in text


def test_it_names_models_verifiers_judges_and_what_it_was_made_from():
    text = card(world())
    assert f"| r1 | lab/Big-R1@1 | 4 | 0.6 / 0.95 / 100 | yes | {DISTILLERS[0].distiller_fingerprint} |" in text
    assert "| 1.5b | models/weak@1 | 4 | 0.6 / 0.95 / 100 | for difficulty only |" in text
    assert "| math | math_answers | lab/judge@9 | abc123 |" in text
    assert "| subsets | version 3 |" in text


def test_it_says_how_many_passes_an_adaptive_distiller_had():
    deep = tuple(replace(row, num_passes=8, passes_policy=AdaptivePasses()) for row in DISTILLERS)
    assert "4 to 16, at most 8 on average" in card(world(), replace(STUDY, distillers=deep))
    assert "on average" not in card(world())


def test_one_known_licence_stands_in_the_front_matter():
    text = card(world())
    assert text.startswith("---\npretty_name: small stage1\nlicense: mit\n")
    assert "| MIT | 5 | 100.0% |" in text


def test_several_licences_are_rolled_up_and_restrictions_said():
    here = world()
    mixed = here.queries.with_columns(
        licence=pl.when(pl.col("category") == "math").then(pl.lit("CC-BY-NC-4.0")).otherwise("licence")
    )
    text = card(replace(here, queries=mixed))
    assert "license: other\nlicense_name: mixed-see-card" in text
    assert "| CC-BY-NC-4.0 | 4 | 80.0% |" in text
    assert "Rows under CC-BY-NC-4.0 may not be used commercially" in text


def test_an_accepted_unknown_licence_is_said_with_its_reason_and_only_where_present():
    accepted = replace(SOURCES[1], unknown_licence_accepted_because="the owner agreed in writing")
    study = replace(STUDY, sources=(SOURCES[0], accepted))
    sentence = "Rows of scraped, whose licence is unknown, are included: the owner agreed in writing"
    assert sentence in card(world(licence="unknown", source="scraped"), study)
    assert sentence not in card(world(), study)


def test_it_says_what_changed_since_the_last_release():
    here = world()
    rows = published_rows(
        here.selection.chosen,
        queries=here.queries,
        responses=here.responses,
        difficulty=here.difficulty,
        response_quality=here.response_quality,
        distillers=DISTILLERS,
    )
    before = rows.head(4).with_columns(ppl=pl.lit(9.0)).drop("pass_rate_1.5b")
    text = card(here, before=before)
    assert "| added | 1 |" in text
    assert "| changed | 4 |" in text
    assert "`ppl` changed in 4 responses." in text
    assert "`pass_rate_1.5b` is a new field." in text


def test_an_empty_release_says_so():
    here = world()
    empty = replace(here, selection=replace(here.selection, chosen=here.selection.chosen.clear()))
    assert "Nothing was chosen." in card(empty)
