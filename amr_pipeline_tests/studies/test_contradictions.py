"""Rows that cannot work together are named before anything starts, with what to change."""

from dataclasses import replace

import pytest

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import (
    AdaptivePasses,
    ConversationVerifier,
    HubDataset,
    JsonLines,
    JudgeModel,
    MathVerifier,
    Parquet,
    QueryColumns,
    ScienceVerifier,
    Scorer,
    SecondOpinion,
    StudyError,
    SymbolicMathVerifier,
)
from amr_pipeline_tests.studies.small import BENCHMARK, FIRST, RECIPE, RULE, SECOND, SOURCE, STRONG, WEAK, small_study


def selecting(**changed):
    return {"selection_recipes": (replace(RECIPE, rules=(replace(RULE, **changed),)),)}


SCORER = Scorer(model="m", revision="r", max_model_len=9)
JUDGE = JudgeModel(scorer=SCORER, prompt="micro_conversation")
RATED = ConversationVerifier(reward_model=SCORER)
OPINION = SecondOpinion(recipe="stage1", verifier=SymbolicMathVerifier(), num_responses=5, seed=1)


def second(*rows: SecondOpinion, **changed):
    return {"second_opinions": (*rows, replace(OPINION, **changed)) if changed else rows}


def adaptive(num_passes=8, **changed):
    return {"distillers": (replace(WEAK, num_passes=num_passes, passes_policy=AdaptivePasses(**changed)), STRONG)}


def sampled(said, **changed):
    return {"distillers": (replace(WEAK, sampling=replace(WEAK.sampling, **changed)), STRONG)}, said


CONTRADICTIONS = [
    ({"sources": (SOURCE, SOURCE)}, "source 'numbers' occurs 2 times"),
    ({"distillers": (replace(WEAK, name="a|b"), STRONG)}, "may hold only letters"),
    ({"selection_recipes": (replace(RECIPE, name="all"),)}, "selection recipe 'all'"),
    *(
        ({"sources": (replace(SOURCE, reads=JsonLines(path=path)),)}, f"source 'numbers' reads {path!r}")
        for path in (
            "http://169.254.169.254/latest/meta-data",
            "https://example.com/q.jsonl",
            "simplecache::s3://bucket/q.jsonl",
            "zip://q.jsonl::http://localhost/q.zip",
            "ftp://h/q",
        )
    ),
    (
        {"benchmarks": (replace(BENCHMARK, reads=Parquet(path="gopher://h/q")),)},
        "benchmark 'exam' reads 'gopher://h/q'",
    ),
    (
        {"distillers": (replace(WEAK, reads=JsonLines(path="http://h/r.jsonl")), STRONG)},
        "distiller 'weak' reads 'http://h/r.jsonl'",
    ),
    ({"sources": (replace(SOURCE, reads=HubDataset(repository="../x", revision=None)),)}, "wanted OWNER/NAME"),
    ({"distillers": (replace(WEAK, name=""), STRONG)}, "may hold only letters"),
    ({"distillers": (replace(WEAK, name="joint"), STRONG)}, "distiller 'joint' has the name of the row over all"),
    ({"verifiers": (MathVerifier(), MathVerifier())}, "verifier of category 'math' occurs 2 times"),
    ({"num_shards": 3}, "num_shards is 3; wanted a power of two"),
    ({"num_shards": 128}, "num_shards is 128"),
    ({"sources": (replace(SOURCE, category=None),)}, "source 'numbers' has neither category="),
    ({"benchmarks": (replace(BENCHMARK, num_samples=0),)}, "benchmark 'exam' has num_samples 0"),
    ({"benchmarks": (replace(BENCHMARK, category=None),)}, "benchmark 'exam' has neither category="),
    ({"distillers": (WEAK, replace(WEAK, name="strong"))}, "equal fingerprints"),
    ({"distillers": (replace(WEAK, num_passes=0), STRONG)}, "distiller 'weak' has num_passes 0"),
    sampled(temperature=-0.7, said="distiller 'weak' has temperature -0.7; wanted 0 to 2"),
    sampled(temperature=2.5, said="has temperature 2.5"),
    sampled(top_p=0.0, said="has top_p 0.0; wanted above 0 and at most 1"),
    sampled(top_p=1.1, said="has top_p 1.1"),
    sampled(top_k=-1, said="has top_k -1; wanted 0 (no limit) or more"),
    sampled(max_tokens=0, said="has max_tokens 0; wanted at least 1"),
    (
        {"benchmarks": (replace(BENCHMARK, sampling=replace(WEAK.sampling, top_p=2.0)),)},
        "benchmark 'exam' has top_p 2.0",
    ),
    ({"distillers": (replace(WEAK, engine="imported"), STRONG)}, "needs reads= and responses_at="),
    ({"distillers": (replace(WEAK, engine="http", model="package:x"), STRONG)}, "name the model as its server does"),
    ({"distillers": (replace(WEAK, engine="http", max_model_len=100), STRONG)}, "leaves no room for a prompt"),
    (adaptive(first=0), "wanted 1 <= first <= num_passes <= most"),
    (adaptive(first=9), "first 9, num_passes 8, most 16"),
    (adaptive(most=7), "wanted 1 <= first <= num_passes <= most"),
    (adaptive(step=0), "and step >= 1"),
    (adaptive(confidence=1.0), "confidence 1.0 is not between 0 and 1"),
    (adaptive(confidence=0.95), "a tier takes 7 passes to settle, and no query is looked at between"),
    (adaptive(num_passes=4), "so nothing can be saved"),
    (adaptive(unless_settled_by=("absent",)), "unless_settled_by names 'absent', which the study does not have"),
    (adaptive(unless_settled_by=("weak",)), "unless_settled_by names 'weak', which is not cheaper"),
    ({"selection_recipes": (replace(RECIPE, distillers=("absent",)),)}, "names distiller 'absent'"),
    ({"selection_recipes": (replace(RECIPE, rules=(RULE, RULE)),)}, "two rules for one category"),
    (selecting(lowest_score=1.0), "lowest_score 1.0 is outside the category's range"),
    (selecting(cv_threshold=-0.1), "cv_threshold -0.1 is negative"),
    (selecting(easy_keep_probability=1.5), "easy_keep_probability 1.5"),
    (selecting(quota=-1), "quota -1 is negative"),
    (second(recipe="absent"), "second opinion on 'absent', math: no selection recipe has that name"),
    (second(verifier=ScienceVerifier()), "the recipe has no rule for that category"),
    (second(num_responses=0), "num_responses is 0"),
    (second(verifier=MathVerifier()), "would agree with itself"),
    (second(OPINION, seed=2), "there are two; keep one"),
    ({"verifiers": (ConversationVerifier(heads=("helpfulness", "coherence")),)}, "wanted correctness among them, once"),
    ({"verifiers": (replace(RATED, judge=JUDGE),)}, "has a judge and a reward model; name one of them"),
    ({"training_recipes": (replace(FIRST, subset="absent"),)}, "trains on subset 'absent'"),
    ({"training_recipes": (replace(FIRST, starts_from=None),)}, "needs exactly one of starts_from= and continues="),
    ({"training_recipes": (FIRST, replace(SECOND, starts_from="x"))}, "needs exactly one of"),
    ({"training_recipes": (SECOND,)}, "continues 'first', which the study does not have"),
    ({"training_recipes": (replace(FIRST, learning_rate=0.0),)}, "has learning rate 0.0"),
    ({"training_recipes": (replace(FIRST, benchmarks=("absent",)),)}, "names benchmark 'absent'"),
    ({"training_recipes": (replace(SECOND, continues="second"),)}, "'second' continues itself"),
]


@pytest.mark.parametrize(("changed", "message"), CONTRADICTIONS, ids=[message for _, message in CONTRADICTIONS])
def test_a_contradiction_is_refused_and_named(changed, message):
    with pytest.raises(StudyError, match=r"^study 'small': ") as caught:
        small_study(**changed)
    assert message in str(caught.value)


def test_every_contradiction_is_listed_at_once():
    with pytest.raises(StudyError) as caught:
        small_study(num_shards=3, sources=(SOURCE, SOURCE))
    assert "num_shards" in str(caught.value)
    assert "occurs 2 times" in str(caught.value)


def test_runs_that_continue_each_other_in_a_circle_are_refused():
    circle = (replace(SECOND, name="a", continues="b"), replace(SECOND, name="b", continues="a"))
    with pytest.raises(StudyError, match="'a' continues itself"):
        small_study(training_recipes=circle)


def test_a_score_range_is_that_of_the_category():
    science = replace(RULE, category=Category.SCIENCE, lowest_score=4.99)
    assert small_study(selection_recipes=(replace(RECIPE, rules=(science,)),)).name == "small"


def test_a_category_column_replaces_a_category():
    mixed = replace(SOURCE, category=None, columns=QueryColumns(category="domain"))
    assert small_study(sources=(mixed,)).sources == (mixed,)


def test_a_policy_that_can_save_something_is_taken():
    assert small_study(**adaptive(unless_settled_by=("strong",))).distiller("weak").most_passes == 16
    assert small_study(**adaptive(confidence=0.95, step=3)).distiller("weak").most_passes == 16
