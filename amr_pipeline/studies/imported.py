"""Grading responses that exist already: no GPU, no generation, no training.

Parameters (`AMR_STUDY_PARAMETERS=root=FOLDER,set=NAME`): `root` is the folder that holds the data, `set` one of

    gsm8k      GSM8K test questions with the solutions of four models:
               gsm8k/example_model_solutions.jsonl
    math       MATH questions with eight solutions each (`question`, `gt`, a list `code`):
               qwen_math_100x8/math_cot_100.jsonl
    prime_rl   rollouts of an R1 distillation, eight per question (one document with `samples`):
               prime_rl_14x8/example_rewards.json
    humaneval  HumanEval with the solutions of three models:
               code_runs/simple_test_run/simple_1_<model>_pass_at_k_1.jsonl
    ifeval     IFEval prompts with the responses of three models:
               ifeval/prompts_20.jsonl, ifeval/labelled_responses_20x3.jsonl
    am40m      the published AM-DeepSeek-Distilled-40M layout, one file per category (math, code, science, if, other),
               model (r1, 7b, 1.5b) and pass: <category>_<model>_<pass>pass.jsonl
    all        the first five together (the default)

The functions below say which columns are read.
Everything here is ours; thresholds are the paper's.
"""

from collections.abc import Mapping
from dataclasses import replace

from amr_pipeline.categories import FACTS, Category
from amr_pipeline.studies.study import (
    CategoryRule,
    CodeVerifier,
    Distiller,
    InstructionVerifier,
    JsonLines,
    MathVerifier,
    QualityRules,
    QueryColumns,
    QueryRules,
    ResponseColumns,
    Sampling,
    ScienceVerifier,
    SelectionRecipe,
    Source,
    Study,
    StudyError,
)

NOT_KNOWN = Sampling(temperature=0.0, top_p=1.0, max_tokens=1)
"""Imported responses: how they were sampled is not known, and nothing is sampled."""

PRIME_QUESTION = r"<｜User｜>(.*?)<｜Assistant｜>"


def study(parameters: Mapping[str, str]) -> Study:
    """The study of one data set, or of all of them.

    Raises:
        StudyError: `root` is missing or `set` is unknown.
    """
    root, name = parameters.get("root"), parameters.get("set", "all")
    if not root:
        raise StudyError("study 'imported' needs a folder: set AMR_STUDY_PARAMETERS=root=FOLDER,set=NAME")
    if name == "am40m":
        sources, distillers = _am40m(root)
    elif name == "all" or name in _SETS:
        chosen = list(_SETS) if name == "all" else [name]
        parts = [_SETS[one](root) for one in chosen]
        sources = tuple(source for found, _ in parts for source in found)
        distillers = tuple(distiller for _, found in parts for distiller in found)
    else:
        raise StudyError(f"study 'imported' has no set {name!r}; wanted one of {', '.join(_SETS)}, am40m, all")
    return Study(
        name="imported",
        title=f"Responses that exist already: {name}",
        num_shards=4,
        sources=sources,
        benchmarks=(),
        # The questions are whole benchmarks: what filters would drop is wanted here.
        query_rules=QueryRules(
            highest_non_ascii_ratio=None, drop_incomplete=False, drop_urls=False, drop_tables=False, drop_images=False
        ),
        distillers=distillers,
        quality_rules=QualityRules(require_think=False, highest_perplexity=None),
        verifiers=VERIFIERS,
        selection_recipes=(_challenging(distillers),),
        training_recipes=(),
    )


VERIFIERS = (
    MathVerifier(answer_patterns=(r"(?m)^A:\s*([^\n]+)",)),
    CodeVerifier(),
    ScienceVerifier(),
    InstructionVerifier(),
)


def _challenging(distillers: tuple[Distiller, ...]) -> SelectionRecipe:
    """Algorithm 1 over every distiller, for the categories any of them answers."""
    return SelectionRecipe(
        name="challenging",
        distillers=tuple(row.name for row in distillers),
        rules=tuple(
            CategoryRule(category=category, lowest_score=FACTS[category].pass_threshold, cv_threshold=0.05)
            for category in Category
            if any(row.answers(category) for row in distillers)
        ),
        seed=17,
    )


Parts = tuple[tuple[Source, ...], tuple[Distiller, ...]]


def _distiller(name: str, category: Category, path: str, columns: ResponseColumns, num_passes: int = 1) -> Distiller:
    return Distiller(
        name=name,
        model=name,
        revision="imported",
        num_passes=num_passes,
        sampling=NOT_KNOWN,
        max_model_len=1,
        engine="imported",
        categories=(category,),
        reads=JsonLines(path=path),
        responses_at=columns,
        gpus_per_replica=0,
    )


def _gsm8k(root: str) -> Parts:
    path = f"{root}/gsm8k/example_model_solutions.jsonl"
    source = Source(
        name="gsm8k",
        reads=JsonLines(path=path),
        category=Category.MATH,
        columns=QueryColumns(question="question", reference="ground_truth", reference_pattern=r"A:\s*([^\n]+)"),
        licence="MIT",
    )
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    return (source,), tuple(
        _distiller(f"gsm8k-{model}", Category.MATH, path, ResponseColumns(response=f"{model}.solution"))
        for model in models
    )


def _math(root: str) -> Parts:
    path = f"{root}/qwen_math_100x8/math_cot_100.jsonl"
    source = Source(
        name="math",
        reads=JsonLines(path=path),
        category=Category.MATH,
        columns=QueryColumns(question="question", reference="gt"),
        licence="MIT",
    )
    return (source,), (_distiller("math-qwen", Category.MATH, path, ResponseColumns(response="code"), num_passes=8),)


def _prime_rl(root: str) -> Parts:
    reads = JsonLines(path=f"{root}/prime_rl_14x8/example_rewards.json", records_at="samples")
    source = Source(
        name="prime_rl",
        reads=reads,
        category=Category.MATH,
        columns=QueryColumns(
            question="prompt",
            question_pattern=PRIME_QUESTION,
            reference="verification_info",
            reference_pattern=r'"ground_truth": "(.*)"',
        ),
        licence="Apache-2.0",
    )
    # The prompt ends inside an opened <think>, so the stored text starts in the middle of the thinking.
    columns = ResponseColumns(
        response="completion", question="prompt", question_pattern=PRIME_QUESTION, prefix="<think>\n"
    )
    row = _distiller("prime-rl", Category.MATH, reads.path, columns, num_passes=8)
    return (source,), (replace(row, reads=reads),)


def _humaneval(root: str) -> Parts:
    models = ("gpt-3.5-turbo", "gpt-4", "text-davinci-003")
    paths = {model: f"{root}/code_runs/simple_test_run/simple_1_{model}_pass_at_k_1.jsonl" for model in models}
    source = Source(
        name="humaneval",
        reads=JsonLines(path=paths["gpt-4"]),
        category=Category.CODE,
        columns=QueryColumns(question="prompt", entry_point="entry_point", test_program="test"),
        licence="MIT",
    )
    # Solutions are bodies that continue the prompt.
    columns = ResponseColumns(response="solution", question="prompt", prefix_column="prompt", fenced=True)
    return (source,), tuple(
        _distiller(f"humaneval-{model}", Category.CODE, path, columns) for model, path in paths.items()
    )


def _ifeval(root: str) -> Parts:
    source = Source(
        name="ifeval",
        reads=JsonLines(path=f"{root}/ifeval/prompts_20.jsonl"),
        category=Category.INSTRUCTION_FOLLOWING,
        columns=QueryColumns(question="prompt", constraint_ids="instruction_id_list", constraint_kwargs="kwargs"),
        licence="Apache-2.0",
    )
    path = f"{root}/ifeval/labelled_responses_20x3.jsonl"
    models = (
        "Qwen__Qwen2.5-0.5B-Instruct-GPTQ-Int4",
        "Qwen__Qwen2.5-7B-Instruct-GPTQ-Int4",
        "mistralai__Mistral-7B-Instruct-v0.3",
    )
    return (source,), tuple(
        _distiller(
            f"ifeval-{model}",
            Category.INSTRUCTION_FOLLOWING,
            path,
            ResponseColumns(response="response", question="prompt", where=(("model", model),)),
        )
        for model in models
    )


def _am40m(root: str) -> Parts:
    """One source per category and one distiller per model; a distiller reads its passes of that category."""
    prefixes = {
        Category.MATH: "math",
        Category.CODE: "code",
        Category.SCIENCE: "science",
        Category.INSTRUCTION_FOLLOWING: "if",
        Category.CONVERSATION: "other",
    }
    columns = QueryColumns(
        question="question", reference="ground_truth", test_cases="test_case", constraints="instruction_constrain"
    )
    sources = tuple(
        Source(
            name=prefix,
            reads=JsonLines(path=f"{root}/{prefix}_r1_1pass.jsonl"),
            category=category,
            columns=columns,
            licence="unknown",
        )
        for category, prefix in prefixes.items()
    )
    distillers = tuple(
        replace(
            _distiller(
                f"{prefix}-{model}",
                category,
                f"{root}/{prefix}_{model}_*pass.jsonl",
                ResponseColumns(response="answer"),
                num_passes=4,
            )
        )
        for category, prefix in prefixes.items()
        for model in ("r1", "7b", "1.5b")
    )
    return sources, distillers


_SETS = {"gsm8k": _gsm8k, "math": _math, "prime_rl": _prime_rl, "humaneval": _humaneval, "ifeval": _ifeval}
