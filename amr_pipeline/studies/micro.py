"""The micro world: the whole pipeline on two cores in minutes.

Procedurally generated queries of five categories, three distillers of visibly different ability, a base model that
knows the world but not the chat format, and a judge; each model is 0.4 M parameters, and its weights ship with the
package (`micro_weights/`, re-made by `amr make-micro-weights`). Everything below is ours: the paper has no such
study. Results say how the pipeline behaves, nothing about large models.
"""

from amr_pipeline.categories import FACTS, Category
from amr_pipeline.studies.study import (
    Benchmark,
    CategoryRule,
    CodeVerifier,
    ConversationVerifier,
    Distiller,
    Generated,
    InstructionVerifier,
    JudgeCanary,
    JudgeModel,
    MathVerifier,
    QualityRules,
    QueryColumns,
    QueryRules,
    Sampling,
    ScienceVerifier,
    Scorer,
    SecondOpinion,
    SelectionRecipe,
    Source,
    Study,
    SymbolicMathVerifier,
    TrainingRecipe,
)

WEIGHTS = "package:studies/micro_weights/"
CONTEXT_TOKENS = 256
SAMPLING = Sampling(temperature=0.7, top_p=1.0, max_tokens=64)

REVISIONS = {
    "weak": "sha256:f192f75bbd6cddcf92fa8610d6b51ba0",
    "middle": "sha256:a54b8de79323f27fa75e42a7c69e39c1",
    "strong": "sha256:f2ad0871df95d2f7fd66ed908459b9fd",
    "base": "sha256:d73038069894e96115eaa7188715c03e",
    "judge": "sha256:2df3ad2a0e958afd38d5f25c3eec968f",
}
"""Digest of each shipped model folder; an engine refuses weights that differ."""

COLUMNS = QueryColumns(
    question=None,
    messages="messages",
    reference="reference",
    test_cases="test_cases",
    constraints="constraints",
    category="category",
)


def _source(category: Category, num_rows: int) -> Source:
    return Source(
        name=str(category),
        reads=Generated(world="micro", part=str(category), num_rows=num_rows, seed=1),
        category=category,
        columns=COLUMNS,
        licence="Apache-2.0",
    )


def _distiller(name: str) -> Distiller:
    return Distiller(
        name=name,
        model=WEIGHTS + name,
        revision=REVISIONS[name],
        num_passes=4,
        sampling=SAMPLING,
        max_model_len=CONTEXT_TOKENS,
        gpus_per_replica=0,
        mean_response_tokens=25,
    )


def _scorer(name: str) -> Scorer:
    return Scorer(model=WEIGHTS + name, revision=REVISIONS[name], max_model_len=CONTEXT_TOKENS, gpus_per_replica=0)


_TOLD = (("user", "My pet is dog. My color is blue. My number is 12."), ("assistant", "OK."))


def _canaries(*turns: tuple[str, str], reference: str, wrong: str) -> tuple[JudgeCanary, JudgeCanary]:
    """A right and a wrong answer on which the shipped judge was measured; it errs on wrong numbers, so none is here."""
    return (
        JudgeCanary(messages=turns, answer=reference, reference=reference, passes=True),
        JudgeCanary(messages=turns, answer=wrong, reference=reference, passes=False),
    )


STAGE_1 = SelectionRecipe(
    name="stage1",
    # All three, unlike the paper's R1 alone: one tiny distiller's uneven queries are too few to train on.
    distillers=("weak", "middle", "strong"),
    rules=tuple(
        CategoryRule(
            category=category,
            lowest_score=FACTS[category].pass_threshold,
            cv_threshold=0.05,
            easy_keep_probability=0.5 if category is Category.CONVERSATION else 0.0,
        )
        for category in Category
    ),
    seed=17,
)

STAGE_2 = SelectionRecipe(
    name="stage2",
    distillers=("strong",),
    rules=tuple(
        CategoryRule(category=category, lowest_score=FACTS[category].pass_threshold, cv_threshold=0.05, quota=40)
        for category in Category
    ),
    seed=17,
    responses_per_query=1,
    order="highest_variation",
)

LEARNING_RATES = {"8e-6": 8e-6, "8e-5": 8e-5, "4e-4": 4e-4, "2e-3": 2e-3, "8e-3": 8e-3, "3e-2": 3e-2}
"""From the rate of ordinary fine-tuning to one that destroys the model."""

SWEEP = tuple(
    TrainingRecipe(
        name=f"stage1-{label}",
        subset="stage1",
        starts_from=WEIGHTS + "base",
        revision=REVISIONS["base"],
        learning_rate=rate,
        epochs=4,
        sequence_tokens=160,
        batch_rows=4,
        micro_batch_rows=4,
        evaluation_context_tokens=CONTEXT_TOKENS,
        seed=1,
        sweep="stage1-learning-rate",
        zero_stage=0,
        precision="fp32",
        gpus_per_worker=0,
    )
    for label, rate in LEARNING_RATES.items()
)

ANNEALING = TrainingRecipe(
    name="stage2-2e-4",
    subset="stage2",
    starts_from=None,
    revision=None,
    continues="stage1-2e-3",
    learning_rate=2e-4,  # a tenth of Stage I, as in the paper
    epochs=2,
    sequence_tokens=160,
    batch_rows=4,
    micro_batch_rows=4,
    evaluation_context_tokens=CONTEXT_TOKENS,
    packing=False,
    seed=1,
    zero_stage=0,
    precision="fp32",
    gpus_per_worker=0,
)

STUDY = Study(
    name="micro",
    title="A world of a megabyte: every chapter of the pipeline on two cores",
    num_shards=4,
    sources=(
        _source(Category.MATH, 120),
        _source(Category.CODE, 100),
        _source(Category.SCIENCE, 80),
        _source(Category.INSTRUCTION_FOLLOWING, 100),
        _source(Category.CONVERSATION, 100),
        Source(
            name="flawed",
            reads=Generated(world="micro", part="flawed", num_rows=64, seed=1),
            category=None,
            columns=COLUMNS,
            licence="Apache-2.0",
        ),
    ),
    benchmarks=(
        Benchmark(
            name="held_out",
            reads=Generated(world="micro", part="benchmark", num_rows=100, seed=2),
            category=None,
            columns=COLUMNS,
            num_samples=2,
            sampling=SAMPLING,
            licence="Apache-2.0",
        ),
    ),
    query_rules=QueryRules(
        # Templated questions differ in a digit or a word; only near equality is a copy in this world.
        near_duplicate_similarity=0.97,
        decontamination_similarity=None,
        decontamination_overlap=0.8,
    ),
    distillers=(_distiller("weak"), _distiller("middle"), _distiller("strong")),
    # Questions are not part of what the micro models learned to predict, so their perplexity is far above 20.
    quality_rules=QualityRules(perplexity_scorer=_scorer("strong"), highest_perplexity=2000.0),
    verifiers=(
        MathVerifier(),
        CodeVerifier(num_tests=10, cpu_seconds=2.0),
        ScienceVerifier(
            rule_before_judge=False,
            judge=JudgeModel(scorer=_scorer("judge"), prompt="micro_science", max_tokens=2),
            judge_canaries=_canaries(("user", "Symbol of element 26?"), reference="Fe", wrong="K"),
        ),
        InstructionVerifier(),
        ConversationVerifier(
            judge=JudgeModel(scorer=_scorer("judge"), prompt="micro_conversation", max_tokens=6),
            judge_canaries=_canaries(*_TOLD, ("user", "What is my pet?"), reference="dog", wrong="17"),
        ),
    ),
    selection_recipes=(STAGE_1, STAGE_2),
    # Where variation is highest, and therefore verifier errors are.
    second_opinions=(SecondOpinion(recipe="stage2", verifier=SymbolicMathVerifier(), num_responses=40, seed=17),),
    training_recipes=(*SWEEP, ANNEALING),
)
