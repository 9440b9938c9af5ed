"""The paper's study: its numbers stand in its rows, and what it owes is what it says it made."""

import pytest

from amr_pipeline.categories import Category
from amr_pipeline.studies.deepdistill import NUM_QUERIES, STUDY, THINK_THEN_ANSWER
from amr_pipeline.studies.loading import load_study
from amr_pipeline.studies.plan import plan
from amr_pipeline.studies.study import ConversationVerifier, MathVerifier, ScienceVerifier
from amr_pipeline.verdicts.judging import prompt_text


def test_it_is_found_by_name_and_holds_every_kind_of_row():
    assert load_study("deepdistill", {}) == STUDY
    assert STUDY.num_shards == 64
    assert {row.category for row in STUDY.verifiers} == set(Category)


def test_it_owes_forty_million_responses():
    found = plan(STUDY, NUM_QUERIES)
    assert found.num_queries == 3_337_144
    assert found.owed == 40_045_728
    assert found.tokens == pytest.approx(1.417e11, rel=1e-3)
    assert found.too_large == {}
    assert "40,045,728 of 40,045,728 responses owed" in found.text()


def test_three_distillers_answer_four_times_and_r1_takes_two_nodes():
    assert [row.name for row in STUDY.distillers] == ["r1", "7b", "1.5b"]
    assert all(row.num_passes == 4 for row in STUDY.distillers)
    r1 = STUDY.distiller("r1")
    assert (r1.model, r1.pipeline_parallel_size, r1.tensor_parallel_size) == ("deepseek-ai/DeepSeek-R1", 2, 8)
    assert r1.gpus_per_replica == 16
    assert all(row.system_prompt == THINK_THEN_ANSWER for row in STUDY.distillers)


@pytest.mark.parametrize(("name", "num_samples"), [("AIME2024", 16), ("GPQA-Diamond", 4), ("LiveCodeBench", 4)])
def test_benchmarks(name, num_samples):
    row = STUDY.benchmark(name)
    assert row.num_samples == num_samples
    assert (row.sampling.temperature, row.sampling.top_p, row.sampling.max_tokens) == (0.6, 0.95, 32_768)
    assert row.scored


def test_queries_are_decontaminated_by_bge_m3_above_nine_tenths():
    rules = STUDY.query_rules
    assert (rules.embedding_model, rules.decontamination_similarity) == ("BAAI/bge-m3", 0.9)


def test_quality_rules_are_the_papers():
    rules = STUDY.quality_rules
    assert (rules.highest_perplexity, rules.ngram_tokens, rules.ngram_occurrences) == (20.0, 20, 20)
    assert rules.require_think
    assert rules.require_answer
    assert rules.require_even_turns


def test_judges_and_the_order_of_the_reward_models_heads():
    math = STUDY.verifier(Category.MATH)
    science = STUDY.verifier(Category.SCIENCE)
    conversation = STUDY.verifier(Category.CONVERSATION)
    assert isinstance(math, MathVerifier)
    assert isinstance(science, ScienceVerifier)
    assert isinstance(conversation, ConversationVerifier)
    judges = [row.judge for row in (math, science)]
    assert [judge and judge.scorer.model for judge in judges] == [
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen2.5-7B-Instruct",
    ]
    assert conversation.reward_model is not None
    assert conversation.reward_model.model == "RLHFlow/Decision-Tree-Reward-Llama-3.1-8B"
    assert conversation.heads == ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    for judge in judges:
        assert judge is not None
        text = prompt_text(judge.prompt)
        # Hostile text stands between two marks, and the judge sees what it is about.
        assert text.count("{mark}") == 3
        assert text.index("{mark}\n{answer}\n{mark}") > text.index("{question}")


def test_stage_1_is_algorithm_1_on_r1s_responses():
    recipe = STUDY.selection_recipe("stage1")
    assert recipe.distillers == ("r1",)
    assert {rule.category: rule.lowest_score for rule in recipe.rules} == {
        Category.MATH: 0.99,
        Category.CODE: 0.99,
        Category.INSTRUCTION_FOLLOWING: 0.99,
        Category.SCIENCE: 4.99,
        Category.CONVERSATION: 0.7,
    }
    assert {rule.cv_threshold for rule in recipe.rules} == {0.05}
    kept = {rule.category: rule.easy_keep_probability for rule in recipe.rules}
    assert kept.pop(Category.CONVERSATION) == 0.5
    assert set(kept.values()) == {0.0}
    assert recipe.responses_per_query is None


def test_stage_2_fills_the_quotas_of_figure_3_from_the_most_uneven_down():
    recipe = STUDY.selection_recipe("stage2")
    assert sum(rule.quota or 0 for rule in recipe.rules) == 252_540
    assert (recipe.responses_per_query, recipe.order) == (1, "highest_variation")


@pytest.mark.parametrize(
    ("name", "base", "rate", "epochs", "packing", "continues"),
    [
        ("stage1-32b", "Qwen/Qwen2.5-32B", 8e-5, 1, True, None),
        ("stage1-72b", "Qwen/Qwen2.5-72B", 8e-5, 1, True, None),
        ("stage1-72b-8e-6", "Qwen/Qwen2.5-72B", 8e-6, 1, True, None),
        ("stage2-32b", None, 8e-6, 2, False, "stage1-32b"),
    ],
)
def test_training_recipes(name, base, rate, epochs, packing, continues):
    recipe = STUDY.training_recipe(name)
    assert (recipe.starts_from, recipe.learning_rate, recipe.epochs) == (base, rate, epochs)
    assert (recipe.packing, recipe.continues) == (packing, continues)
    assert (recipe.sequence_tokens, recipe.batch_rows, recipe.warmup_ratio) == (32_768, 64, 0.05)
    assert recipe.batch_rows % (recipe.num_workers * recipe.micro_batch_rows) == 0


def test_the_72b_runs_are_one_sweep_over_the_learning_rate():
    swept = [row.name for row in STUDY.training_recipes if row.sweep == "stage1-72b-learning-rate"]
    assert swept == ["stage1-72b", "stage1-72b-8e-6"]


def test_models_are_pinned_to_a_commit_or_refuse_to_run():
    models = [(row.model, row.revision) for row in STUDY.distillers]
    models += [(row.starts_from, row.revision) for row in STUDY.training_recipes if row.starts_from]
    assert all(revision is not None and len(revision) == 40 for _, revision in models)
    conversation = STUDY.verifier(Category.CONVERSATION)
    assert isinstance(conversation, ConversationVerifier)
    assert conversation.reward_model is not None
    assert conversation.reward_model.revision == "unpinned"  # the one whose commit is not known
