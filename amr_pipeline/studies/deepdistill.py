"""DeepDistill (arXiv:2504.17565) as rows: 3.34 M queries, 40 M responses, Qwen2.5-32B and 72B.

Numbers of sections are the paper's. What it does not give is marked `# ours:` with the reason. Hub addresses follow
from the names it prints; columns are those public loaders read. A source without a public address names a file that
whoever runs the study puts there. The withdrawn 0.05 for the variation threshold does not reproduce the published
composition (Fig. 2), and no published rule does; `subsets.what_if` shows the mix at other thresholds.
"""

from amr_pipeline.categories import FACTS, Category
from amr_pipeline.studies.deepdistill_sources import SOURCES
from amr_pipeline.studies.study import (
    Benchmark,
    CategoryRule,
    CodeVerifier,
    ConversationVerifier,
    Distiller,
    HubDataset,
    InstructionVerifier,
    JudgeModel,
    MathVerifier,
    PromptSuffix,
    QualityRules,
    QueryColumns,
    QueryRules,
    Sampling,
    ScienceVerifier,
    Scorer,
    SelectionRecipe,
    Study,
    TrainingRecipe,
)

NUM_QUERIES = {
    Category.CONVERSATION: 1_850_985,
    Category.MATH: 828_639,
    Category.CODE: 489_363,
    Category.SCIENCE: 91_637,
    Category.INSTRUCTION_FOLLOWING: 76_520,
}
"""Queries after cleaning (Fig. 7); "other" there includes multi-turn."""

SEED = 17  # ours: the paper gives no seed

# Ours, all three texts: the paper prints none; the authors' other reports describe what they ask for in these words.
THINK_THEN_ANSWER = (
    "You are a careful assistant. Work out the problem before you reply. Write your reasoning between <think> and "
    "</think>, then your reply between <answer> and </answer>."
)
SUFFIXES = (
    PromptSuffix(category=Category.MATH, text="Reason step by step and put the final answer inside \\boxed{}."),
    PromptSuffix(category=Category.CODE, text="Reason step by step and give the final program in one ```python block."),
)

# Ours, for distilling and evaluating: the paper gives no decoding; 0.6 and 0.95 are what R1's makers recommend and what
# the team uses elsewhere, 32,768 tokens is the training length (4.1).
SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_tokens=32_768)
CONTEXT_TOKENS = 36_864  # ours: the 32,768 of a response and 4,096 for its prompt

# Ours: the paper names no revisions; these are the commits that public code of the following year pins.
R1 = ("deepseek-ai/DeepSeek-R1", "56d4cbbb4d29f4355bab4b9a39ccb717a14ad5ad")
R1_DISTILL_7B = ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "916b56a44061fd5cd7d6a8fb632557ed4f724f60")
R1_DISTILL_1_5B = ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "ad9f0ae0864d7fbcd1cd905e3c6c5b069cc8b562")
QWEN_JUDGE = ("Qwen/Qwen2.5-7B-Instruct", "a09a35458c702b33eeacc393d103063234e8bc28")
QWEN_32B = ("Qwen/Qwen2.5-32B", "1818d35814b8319459f4bd55ed1ac8709630f003")
QWEN_72B = ("Qwen/Qwen2.5-72B", "587cc4061cf6a7cc0d429d05c109447e5cf063af")
BGE_M3 = ("BAAI/bge-m3", "5617a9f61b028005a4858fdac845db406aefb181")
# Ours: no commit of the reward model could be established. Engines refuse a hub model without one, so whoever runs the
# study writes the commit they audited here, and verdicts before and after stay apart by fingerprint.
REWARD_MODEL = ("RLHFlow/Decision-Tree-Reward-Llama-3.1-8B", "unpinned")


def _distiller(name: str, model: tuple[str, str], *, tensor_parallel: int, pipeline_parallel: int) -> Distiller:
    return Distiller(
        name=name,
        model=model[0],
        revision=model[1],
        num_passes=4,  # 2.3
        sampling=SAMPLING,
        max_model_len=CONTEXT_TOKENS,
        system_prompt=THINK_THEN_ANSWER,
        prompt_suffixes=SUFFIXES,
        tensor_parallel_size=tensor_parallel,
        pipeline_parallel_size=pipeline_parallel,
        gpus_per_replica=tensor_parallel * pipeline_parallel,
        # Ours: the mean over Stage I's answers (Fig. 2: 19,233.5 M tokens in 5,436,090), the only length published;
        # it leaves out what failed, which is longer, and is R1's alone.
        mean_response_tokens=3_538,
    )


def _scorer(model: tuple[str, str], context_tokens: int) -> Scorer:
    return Scorer(model=model[0], revision=model[1], max_model_len=context_tokens)


# 2.3: three distillers, four passes each. Named as in the published data set, whose columns are `pass_rate_<name>`.
DISTILLERS = (
    # Ours: parallel sizes. 671 B parameters in fp8 with their cache take two nodes of eight 80 GB GPUs.
    _distiller("r1", R1, tensor_parallel=8, pipeline_parallel=2),
    _distiller("7b", R1_DISTILL_7B, tensor_parallel=1, pipeline_parallel=1),
    _distiller("1.5b", R1_DISTILL_1_5B, tensor_parallel=1, pipeline_parallel=1),
)

BENCHMARKS = (
    # 4.3 names the benchmarks. Passes per problem are inferred: printed scores are multiples of 1/480 and 1/792.
    Benchmark(
        name="AIME2024",  # 30 problems
        reads=HubDataset(repository="HuggingFaceH4/aime_2024", revision=None),  # ours: a public copy of the exam
        category=Category.MATH,
        columns=QueryColumns(question="problem", reference="answer"),
        num_samples=16,
        sampling=SAMPLING,
        licence="unknown",
    ),
    Benchmark(
        name="GPQA-Diamond",  # 198 problems
        # Ours: a public copy with the options inside the question and a letter as the answer.
        reads=HubDataset(repository="fingertap/GPQA-Diamond", revision=None, split="test"),
        category=Category.SCIENCE,
        columns=QueryColumns(question="question", reference="answer"),
        num_samples=4,
        sampling=SAMPLING,
        licence="unknown",
    ),
    Benchmark(
        name="LiveCodeBench",
        # Ours: problems of 2024-08 to 2025-01 (the window of the same score in a companion paper) with tests as JSON;
        # the benchmark's own release stores private tests as pickles, which nothing here opens.
        reads=HubDataset(
            repository="agentica-org/DeepCoder-Preview-Dataset", revision=None, name="lcbv5", split="test"
        ),
        category=Category.CODE,
        columns=QueryColumns(question="problem", test_cases="tests"),
        num_samples=4,  # ours: the companion's protocol; the printed score cannot tell
        sampling=SAMPLING,
        licence="unknown",
    ),
)

QUERY_RULES = QueryRules(
    # 2.2.1 drops by "Unicode ratio" without a threshold. Ours: none, because the published set holds Chinese, which
    # is nearly all outside ASCII, so any threshold that bites would remove what the authors kept.
    highest_non_ascii_ratio=None,
    near_duplicate_similarity=None,  # ours: Fig. 6 draws semantic deduplication, no model or threshold is given
    decontamination_ngram=13,  # ours: "close match" has no rule in the paper; 13 words is common practice
    decontamination_overlap=0.5,  # ours: as above, half of a query's n-grams inside one benchmark item
    decontamination_similarity=0.9,  # 2.2.2, against AIME2024 there and against every benchmark here
    embedding_model=BGE_M3[0],
    embedding_revision=BGE_M3[1],
)

QUALITY_RULES = QualityRules(
    # Ours: the paper's scorer, AM-Distill-Qwen-32B, has no public weights; the card of the data set says "7b model".
    perplexity_scorer=_scorer(R1_DISTILL_7B, CONTEXT_TOKENS),
    highest_perplexity=20.0,  # 2.5
    ngram_tokens=20,  # 2.5
    ngram_occurrences=20,  # 2.5
)

VERIFIERS = (
    # 2.4.1. Ours: deadlines, memory and every judge's prompt, which the paper does not print.
    MathVerifier(judge=JudgeModel(scorer=_scorer(QWEN_JUDGE, 32_768), prompt="deepdistill_math", max_tokens=4)),
    CodeVerifier(num_tests=10),
    # Ours: the paper's similarity is a decimal; a whole number from 0 to 5 passes at 4.99 in the same cases.
    ScienceVerifier(judge=JudgeModel(scorer=_scorer(QWEN_JUDGE, 32_768), prompt="deepdistill_science", max_tokens=4)),
    # Ours: strict reading, as in the companion papers; constraints that the paper adds with a 72B model are not added.
    InstructionVerifier(reading="strict"),
    ConversationVerifier(
        reward_model=_scorer(REWARD_MODEL, 8_192),
        # The model's own order; complexity and verbosity do not count (Eq. 4).
        heads=("helpfulness", "correctness", "coherence", "complexity", "verbosity"),
    ),
)


def _algorithm_1(category: Category) -> CategoryRule:
    return CategoryRule(
        category=category,
        lowest_score=FACTS[category].pass_threshold,  # 3.2, the thresholds of 2.4.2
        cv_threshold=0.05,  # ours: printed in the first versions and withdrawn; the final one prints no value
        easy_keep_probability=0.5 if category is Category.CONVERSATION else 0.0,  # 3.2, drawn per query (ours)
    )


def _annealing(category: Category, quota: int) -> CategoryRule:
    return CategoryRule(
        category=category,
        # 3.2 says 0.99 for all. Ours: 4.99 for science, whose scale ends at 5, and 0.7 for conversation, where 0.99
        # would ask a full mark of every head.
        lowest_score=FACTS[category].pass_threshold,
        cv_threshold=0.05,  # ours: as in Algorithm 1
        quota=quota,
    )


SELECTION_RECIPES = (
    # 2.3: only R1's responses are selected and trained on.
    SelectionRecipe(
        name="stage1", distillers=("r1",), rules=tuple(_algorithm_1(category) for category in Category), seed=SEED
    ),
    SelectionRecipe(
        name="stage2",
        distillers=("r1",),
        rules=(
            # Fig. 3; the text says nearly 200,000, its bars add up to 252,540, which also fits the steps of Fig. 5.
            _annealing(Category.MATH, 84_883),
            _annealing(Category.CODE, 69_725),
            _annealing(Category.CONVERSATION, 67_932),
            _annealing(Category.SCIENCE, 20_000),
            _annealing(Category.INSTRUCTION_FOLLOWING, 10_000),
        ),
        seed=SEED,
        responses_per_query=1,
        order="highest_variation",
    ),
)


def _stage_1(name: str, base: tuple[str, str], learning_rate: float, sweep: str | None = None) -> TrainingRecipe:
    return TrainingRecipe(
        name=name,
        subset="stage1",
        starts_from=base[0],
        revision=base[1],
        learning_rate=learning_rate,
        epochs=1,  # 4.1
        sequence_tokens=32_768,  # 4.1
        batch_rows=64,  # 4.1
        packing=True,  # 4.1
        warmup_ratio=0.05,  # 4.1, linear, then a cosine to 0
        sweep=sweep,
        seed=SEED,
        # Ours, the paper reports none: AdamW 0.9 and 0.95, no decay, clipping at 1, bf16, ZeRO stage 3 on 64 GPUs, one
        # row each; the system prompt of distilling, so that training and evaluation ask alike.
        adam_betas=(0.9, 0.95),
        weight_decay=0.0,
        gradient_clip=1.0,
        precision="bf16",
        zero_stage=3,
        system_prompt=THINK_THEN_ANSWER,
        prompt_suffixes=SUFFIXES,
        num_workers=64,
    )


TRAINING_RECIPES = (
    _stage_1("stage1-32b", QWEN_32B, 8e-5),
    _stage_1("stage1-72b", QWEN_72B, 8e-5, sweep="stage1-72b-learning-rate"),
    _stage_1("stage1-72b-8e-6", QWEN_72B, 8e-6, sweep="stage1-72b-learning-rate"),  # 4.4.2
    TrainingRecipe(
        name="stage2-32b",
        subset="stage2",
        starts_from=None,
        revision=None,
        continues="stage1-32b",
        learning_rate=8e-6,  # 4.2
        epochs=2,  # 4.2
        sequence_tokens=32_768,  # 4.2
        batch_rows=64,  # ours: not stated; 252,540 x 2 / 64 = 7,892 steps, and Fig. 5 shows 7,880
        packing=False,  # 4.2
        warmup_ratio=0.05,  # 4.2
        seed=SEED,
        # Ours: as in Stage I.
        adam_betas=(0.9, 0.95),
        weight_decay=0.0,
        gradient_clip=1.0,
        precision="bf16",
        zero_stage=3,
        system_prompt=THINK_THEN_ANSWER,
        prompt_suffixes=SUFFIXES,
        num_workers=64,
    ),
)

STUDY = Study(
    name="deepdistill",
    title="DeepDistill: difficulty-graded data from three distillers (arXiv:2504.17565)",
    num_shards=64,  # ours: 52,000 queries a shard
    expected_queries=tuple(NUM_QUERIES.items()),
    sources=SOURCES,
    benchmarks=BENCHMARKS,
    query_rules=QUERY_RULES,
    distillers=DISTILLERS,
    quality_rules=QUALITY_RULES,
    verifiers=VERIFIERS,
    selection_recipes=SELECTION_RECIPES,
    training_recipes=TRAINING_RECIPES,
)
