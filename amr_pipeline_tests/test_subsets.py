"""Algorithm 1 and the annealing set: what is chosen, why the rest is not, and that chance is a hash."""

from collections import Counter
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amr_pipeline import subsets, tables
from amr_pipeline.categories import Category
from amr_pipeline.difficulty import difficulty
from amr_pipeline.studies.study import CategoryRule, SelectionRecipe
from amr_pipeline.subsets import Selection, considered, draw, select, what_if
from amr_pipeline_tests.verdict_rows import NOW, quality, query, response, verdicts

MATH = CategoryRule(category=Category.MATH, lowest_score=0.99, cv_threshold=0.05)
CODE = CategoryRule(category=Category.CODE, lowest_score=0.99, cv_threshold=0.05)
TALK = CategoryRule(category=Category.CONVERSATION, lowest_score=0.7, cv_threshold=0.05, easy_keep_probability=0.5)
STAGE_1 = SelectionRecipe(name="stage1", distillers=("r1",), rules=(MATH, CODE, TALK), seed=1)
STAGE_2 = replace(STAGE_1, name="stage2", responses_per_query=1, order="highest_variation")


def run(
    recipe: SelectionRecipe,
    rows: pl.DataFrame,
    qualities: pl.DataFrame | None = None,
    grades: pl.DataFrame | None = None,
) -> Selection:
    if grades is None:
        grades = difficulty(rows.lazy(), fingerprints=[NOW], num_shards=4).collect()
    return select(
        recipe,
        difficulty=grades.lazy(),
        verdicts=rows.lazy(),
        response_quality=(quality(rows) if qualities is None else qualities).lazy(),
        fingerprints=[NOW],
    )


def chosen_passes(selection: Selection) -> set[tuple[str, int]]:
    return set(selection.chosen.select("query_id", "pass_index").iter_rows())


def test_a_challenging_query_keeps_only_its_passing_responses():
    selection = run(STAGE_1, verdicts([(query(1), "r1", [1, 0, 1, 0.5])], Category.CODE))
    assert chosen_passes(selection) == {(query(1), 0), (query(1), 2)}
    assert selection.rejected == {subsets.LOW_SCORE: 2}
    assert selection.chosen.get_column("chosen_because").unique().to_list() == [subsets.CHALLENGING]
    row = selection.chosen.row(0, named=True)
    assert (row["selection_recipe"], row["pass_rate"], row["verify_score"]) == ("stage1", 0.5, 1.0)


def test_an_unsolved_query_is_dropped_whole():
    assert run(STAGE_1, verdicts([(query(1), "r1", [0, 0, 0.9])])).rejected == {subsets.UNSOLVED: 3}


def test_an_easy_query_is_dropped_where_no_easy_one_is_kept():
    selection = run(STAGE_1, verdicts([(query(1), "r1", [1, 1, 1, 1])]))
    assert selection.rejected == {subsets.EASY: 4}


@pytest.mark.parametrize(("threshold", "is_challenging"), [(0.577, True), (0.5773502691896258, False), (0.58, False)])
def test_a_query_at_the_variation_threshold_is_easy(threshold, is_challenging):
    rows = verdicts([(query(1), "r1", [1, 1, 1, 0])])
    grades = difficulty(rows.lazy(), fingerprints=[NOW], num_shards=4).collect()
    exact = grades.with_columns(coefficient_of_variation=pl.lit(0.5773502691896258))
    recipe = replace(STAGE_1, rules=(replace(MATH, cv_threshold=threshold),))
    assert bool(run(recipe, rows, grades=exact).chosen.height) == is_challenging


def test_a_score_at_the_threshold_is_not_kept():
    assert run(STAGE_1, verdicts([(query(1), "r1", [0.99, 0.5])])).rejected == {subsets.UNSOLVED: 2}
    science = replace(MATH, category=Category.SCIENCE, lowest_score=4.99)
    scored = verdicts([(query(1), "r1", [5, 4.99, 1])], Category.SCIENCE)
    assert chosen_passes(run(replace(STAGE_1, rules=(science,)), scored)) == {(query(1), 0)}


def test_about_half_of_the_easy_conversations_are_kept_whole_or_not_at_all():
    rows = verdicts([(query(index), "r1", [0.8, 0.8]) for index in range(2_000)], Category.CONVERSATION)
    selection = run(STAGE_1, rows)
    per_query = Counter(selection.chosen.get_column("query_id"))
    assert set(per_query.values()) == {2}
    assert 0.46 < len(per_query) / 2_000 < 0.54
    assert set(selection.chosen.get_column("chosen_because")) == {subsets.EASY_KEPT}
    other_seed = run(replace(STAGE_1, seed=2), rows)
    assert set(per_query) != set(other_seed.chosen.get_column("query_id"))


def test_keeping_an_easy_query_does_not_depend_on_the_other_queries():
    rows = verdicts([(query(index), "r1", [0.8]) for index in range(100)], Category.CONVERSATION)
    together = chosen_passes(run(STAGE_1, rows))
    apart = set()
    for index in range(100):
        apart |= chosen_passes(run(STAGE_1, rows.filter(pl.col("query_id") == query(index))))
    assert together == apart


def test_variation_is_judged_on_each_distillers_own_passes():
    rows = verdicts([(query(1), "r1", [1, 1]), (query(1), "weak", [1, 0])])
    both = run(replace(STAGE_1, distillers=("r1", "weak")), rows)
    assert both.chosen.select("distiller", "pass_index").rows() == [("weak", 0)]
    assert both.rejected == {subsets.EASY: 2, subsets.LOW_SCORE: 1}


def test_other_distillers_and_former_verifiers_are_not_considered():
    rows = verdicts([(query(1), "r1", [1, 0]), (query(1), "weak", [1, 0])])
    former = verdicts([(query(1), "r1", [0, 1])], fingerprint="verifier-before")
    selection = run(STAGE_1, pl.concat([rows, former]), quality(rows))
    assert selection.considered == 2
    assert chosen_passes(selection) == {(query(1), 0)}


def test_a_broken_quality_rule_keeps_a_response_out_but_counts_in_difficulty():
    rows = verdicts([(query(1), "r1", [1, 1, 0])])
    broken = {response(query(1), "r1", 0): "perplexity"}
    selection = run(STAGE_1, rows, quality(rows, broken))
    assert chosen_passes(selection) == {(query(1), 1)}
    assert selection.rejected == {"quality: perplexity": 1, subsets.LOW_SCORE: 1}
    assert selection.chosen.get_column("pass_rate").item() == pytest.approx(2 / 3)


def test_a_response_without_a_quality_row_is_not_chosen():
    rows = verdicts([(query(1), "r1", [1, 1, 0])])
    assessed = quality(rows).filter(pl.col("pass_index") != 0)
    assert run(STAGE_1, rows, assessed).rejected == {subsets.NOT_ASSESSED: 1, subsets.LOW_SCORE: 1}


def test_a_query_waits_for_a_pass_that_may_still_be_judged():
    rows = verdicts([(query(1), "r1", [1, 0, "timeout"]), (query(2), "r1", [1, 0])])
    selection = run(STAGE_1, rows)
    assert chosen_passes(selection) == {(query(2), 0)}
    assert selection.rejected == {subsets.WAITS: 2, subsets.UNDECIDED: 1, subsets.LOW_SCORE: 1}


def test_a_pass_that_stays_undecided_does_not_hold_its_query_back():
    selection = run(STAGE_1, verdicts([(query(1), "r1", [1, 0, "no_reference"])]))
    assert chosen_passes(selection) == {(query(1), 0)}


def test_another_distillers_undecided_pass_does_not_hold_a_query_back():
    rows = verdicts([(query(1), "r1", [1, 0]), (query(1), "weak", [None])])
    assert chosen_passes(run(replace(STAGE_1, distillers=("r1", "weak")), rows)) == {(query(1), 0)}


def test_a_query_without_a_difficulty_row_is_not_chosen():
    rows = verdicts([(query(1), "r1", [1, 0])])
    assert run(STAGE_1, rows, grades=tables.DIFFICULTY.empty()).rejected == {subsets.NOT_GRADED: 2}


def test_a_category_without_a_rule_is_rejected_with_that_reason():
    assert run(STAGE_1, verdicts([(query(1), "r1", [5, 0])], Category.SCIENCE)).rejected == {subsets.NO_RULE: 2}


def test_one_response_per_query_is_drawn_among_those_that_may_enter():
    rows = verdicts([(query(index), "r1", [1, 1, 1, 0]) for index in range(300)])
    spoiled = {response(query(index), "r1", 0): "perplexity" for index in range(300)}
    selection = run(STAGE_2, rows, quality(rows, spoiled))
    assert selection.chosen.get_column("query_id").n_unique() == selection.chosen.height == 300
    drawn = Counter(selection.chosen.get_column("pass_index"))
    assert set(drawn) == {1, 2}
    assert 120 < drawn[1] < 180


def test_a_quota_is_filled_from_the_most_uneven_queries_down():
    rows = verdicts(
        [(query(1), "r1", [1, 1, 1, 0]), (query(2), "r1", [1, 0, 0, 0]), (query(3), "r1", [1, 1, 0, 0])],
    )
    recipe = replace(STAGE_2, rules=(replace(MATH, quota=2),))
    selection = run(recipe, rows)
    assert set(selection.chosen.get_column("query_id")) == {query(2), query(3)}
    assert selection.rejected[subsets.OVER_QUOTA] == 1


def test_quotas_are_per_category_and_ties_are_drawn():
    easy = [(query(index), "r1", [1, 0]) for index in range(200)]
    rows = pl.concat([verdicts(easy[:100]), verdicts(easy[100:], Category.CODE)])
    recipe = replace(STAGE_2, rules=(replace(MATH, quota=40), replace(CODE, quota=7)))
    selection = run(recipe, rows)
    assert Counter(selection.chosen.get_column("category")) == {"math": 40, "code": 7}
    first = {query(index) for index in range(40)}
    assert set(selection.chosen.filter(pl.col("category") == "math").get_column("query_id")) != first


def test_being_kept_as_easy_and_standing_first_in_a_quota_are_separate_draws():
    rows = verdicts([(query(index), "r1", [0.8]) for index in range(400)], Category.CONVERSATION)
    recipe = replace(STAGE_1, rules=(replace(TALK, quota=50),))
    chosen = set(run(recipe, rows).chosen.get_column("query_id"))
    kept = set(run(STAGE_1, rows).chosen.get_column("query_id"))
    draws = rows.select("query_id", draw("query_id", STAGE_1.seed, "easy").alias("easy")).sort("easy")
    assert len(chosen) == 50
    assert chosen < kept
    assert len(chosen & set(draws.head(50).get_column("query_id"))) < 35


def test_a_quota_of_nothing_chooses_nothing():
    recipe = replace(STAGE_1, rules=(replace(MATH, quota=0),))
    assert run(recipe, verdicts([(query(1), "r1", [1, 0])])).rejected == {subsets.OVER_QUOTA: 1, subsets.LOW_SCORE: 1}


def test_a_response_judged_twice_is_refused():
    rows = verdicts([(query(1), "r1", [1, 0])])
    twice = pl.concat([rows, rows.head(1)])
    with pytest.raises(ValueError, match="occur twice"):
        run(STAGE_1, twice, quality(rows))


def test_nothing_judged_gives_an_empty_subset():
    selection = run(STAGE_2, tables.VERDICTS.empty(), tables.RESPONSE_QUALITY.empty())
    assert selection.chosen.equals(tables.SUBSETS.empty())
    assert (selection.considered, selection.rejected) == (0, {})


SCORES = st.lists(st.sampled_from([0.0, 0.5, 0.8, 1.0, None, "no_reference"]), min_size=1, max_size=4)
WORLDS = st.dictionaries(
    st.tuples(st.integers(0, 12).map(query), st.sampled_from(["r1", "weak"])), SCORES, min_size=1, max_size=16
)
RECIPES = st.builds(
    SelectionRecipe,
    name=st.just("any"),
    distillers=st.sampled_from([("r1",), ("r1", "weak")]),
    rules=st.tuples(
        st.builds(
            CategoryRule,
            category=st.just(Category.CONVERSATION),
            lowest_score=st.sampled_from([0.0, 0.4, 0.7]),
            cv_threshold=st.sampled_from([0.0, 0.3, 0.9]),
            easy_keep_probability=st.sampled_from([0.0, 0.5, 1.0]),
            quota=st.sampled_from([None, 0, 1, 5]),
        )
    ),
    seed=st.integers(0, 3),
    responses_per_query=st.sampled_from([None, 1, 2]),
    order=st.sampled_from(["any", "highest_variation"]),
)


def world(answers: dict[tuple[str, str], list]) -> pl.DataFrame:
    return verdicts(((query_id, name, scores) for (query_id, name), scores in answers.items()), Category.CONVERSATION)


@given(WORLDS, RECIPES)
@settings(max_examples=60, deadline=None)
def test_considered_is_chosen_plus_rejected_and_rows_keep_their_promises(answers, recipe):
    rows = world(answers)
    spoiled = {response_id: "template" for response_id in rows.get_column("response_id") if response_id[0] in "01"}
    selection = run(recipe, rows, quality(rows, spoiled))
    assert selection.considered == rows.filter(pl.col("distiller").is_in(list(recipe.distillers))).height
    assert selection.considered == selection.chosen.height + sum(selection.rejected.values())
    assert selection.rejected_by_category.get_column("num_responses").sum() == sum(selection.rejected.values())
    assert tables.SUBSETS.violations(selection.chosen) == {}
    assert not set(spoiled) & set(selection.chosen.get_column("response_id"))
    rule = recipe.rules[0]
    assert all(score > rule.lowest_score for score in selection.chosen.get_column("verify_score"))
    if rule.quota is not None:
        assert selection.chosen.height <= rule.quota
    if recipe.responses_per_query is not None:
        assert all(count <= recipe.responses_per_query for count in Counter(selection.chosen["query_id"]).values())


@given(WORLDS, RECIPES, st.randoms())
@settings(max_examples=60, deadline=None)
def test_shuffled_input_changes_nothing(answers, recipe, rng):
    rows = world(answers)
    shuffled = rows[rng.sample(range(rows.height), rows.height)]
    assert run(recipe, shuffled).chosen.equals(run(recipe, rows).chosen)
    assert run(recipe, shuffled).rejected == run(recipe, rows).rejected


@given(WORLDS)
@settings(max_examples=30, deadline=None)
def test_a_higher_threshold_never_chooses_more_when_no_easy_query_is_kept(answers):
    rows = world(answers)
    rule = replace(TALK, easy_keep_probability=0.0)
    sizes = [
        run(replace(STAGE_1, rules=(replace(rule, cv_threshold=threshold),)), rows).chosen.height
        for threshold in (0.0, 0.2, 0.6, 2.0)
    ]
    assert sizes == sorted(sizes, reverse=True)


def grid(recipe: SelectionRecipe, rows: pl.DataFrame, thresholds: list[float]) -> pl.DataFrame:
    facts = considered(
        recipe,
        difficulty=difficulty(rows.lazy(), fingerprints=[NOW], num_shards=4),
        verdicts=rows.lazy(),
        response_quality=quality(rows).lazy(),
        fingerprints=[NOW],
    )
    return what_if(recipe, facts, thresholds)


def test_what_if_says_what_the_recipe_would_choose():
    math = [(query(index), "r1", [1, 1, 1, 0]) for index in range(10)]
    code = [(query(50 + index), "r1", [1, 0]) for index in range(5)]
    rows = pl.concat([verdicts(math), verdicts(code, Category.CODE)])
    found = grid(STAGE_1, rows, [0.05, 0.8, 2.0])
    every = found.filter(pl.col("category") == "all")
    assert every.get_column("num_responses").to_list() == [35, 5, 0]
    assert every.get_column("response_tokens").to_list() == [3_500, 500, 0]
    assert every.get_column("num_also_chosen_now").to_list() == [35, 5, 0]
    first = found.filter(pl.col("cv_threshold") == 0.05)
    assert first.get_column("category").to_list() == ["math", "code", "conversation", "all"]
    assert first.get_column("num_queries").to_list() == [10, 5, 0, 15]
    assert first.get_column("share_of_responses").to_list() == pytest.approx([30 / 35, 5 / 35, 0, 1])
    assert found.filter(pl.col("cv_threshold") == 2.0).get_column("share_of_responses").to_list() == [None] * 4


@given(WORLDS, RECIPES)
@settings(max_examples=20, deadline=None)
def test_what_if_at_the_recipes_own_threshold_is_the_recipe(answers, recipe):
    rows = world(answers)
    found = grid(recipe, rows, [recipe.rules[0].cv_threshold]).filter(pl.col("category") == "all").row(0, named=True)
    selection = run(recipe, rows)
    assert found["num_responses"] == found["num_also_chosen_now"] == selection.chosen.height
    assert found["num_queries"] == selection.chosen.get_column("query_id").n_unique()


def test_no_thresholds_give_an_empty_grid():
    assert grid(STAGE_1, verdicts([(query(1), "r1", [1, 0])]), []).is_empty()


def test_draws_are_uniform_and_independent_between_purposes_and_seeds():
    ids = pl.DataFrame({"query_id": [query(index) for index in range(20_000)]})
    draws = ids.select(
        draw("query_id", 1, "easy").alias("a"),
        draw("query_id", 1, "order").alias("b"),
        draw("query_id", 2, "easy").alias("c"),
    )
    for name in "abc":
        counts = draws.select((pl.col(name) * 10).floor().cast(pl.Int32).value_counts()).unnest(name)
        assert counts.get_column("count").min() > 1_850
        assert counts.get_column("count").max() < 2_150
    correlations = draws.select(
        pl.corr("a", "b").alias("ab"), pl.corr("a", "c").alias("ac"), pl.corr("b", "c").alias("bc")
    )
    assert all(abs(value) < 0.03 for value in correlations.row(0))


def test_draws_are_pinned_so_that_a_published_subset_can_be_made_again():
    ids = pl.DataFrame({"query_id": [query(0), query(255), "f" * 32]})
    assert ids.select(draw("query_id", 1, "easy")).to_series().to_list() == pytest.approx(
        [0.04494420163072388, 0.710749583891741, 0.8516509844549335]
    )


def test_an_id_that_is_no_content_id_is_refused():
    with pytest.raises(pl.exceptions.PolarsError):
        pl.DataFrame({"query_id": ["not a content id, but long enough"]}).select(draw("query_id", 1, "easy"))
