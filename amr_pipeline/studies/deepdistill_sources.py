"""Every source that DeepDistill names (2.1), one row each; a corpus of two categories has a row in each.

The paper gives names, not addresses, commits or licences. `# ours:` marks what could not be read off a name. A
licence is stated where several public listings agree on it, and "unknown" otherwise, which blocks a release until
someone has read the card; a revision is a commit that public code pins, or None.

Belongs here: rows of `deepdistill`. Does not belong here: reading them (`sources`).
"""

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import HubDataset, JsonLines, QueryColumns, Source

LAST_BOXED = r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
"""What stands in the last box of a worked solution, braces two deep."""

OWN_FILES = "deepdistill/"
"""Where sources without a public address are expected, relative to the working directory."""


def _hub(
    name: str,
    repository: str,
    category: Category,
    columns: QueryColumns,
    *,
    licence: str = "unknown",
    revision: str | None = None,  # ours: the paper names no commit
    split: str = "train",
    part: str | None = None,
    drop: tuple[tuple[str, str], ...] = (),
) -> Source:
    """A data set on the hub; `part` is its named configuration."""
    reads = HubDataset(repository=repository, revision=revision, split=split, name=part)
    return Source(name=name, reads=reads, category=category, columns=columns, licence=licence, drop=drop)


def _own_file(name: str, category: Category, columns: QueryColumns) -> Source:
    """A source without a public address, as a file of the same name."""
    reads = JsonLines(path=f"{OWN_FILES}{name}.jsonl")
    return Source(name=name, reads=reads, category=category, columns=columns, licence="unknown")


def _answered(question: str, reference: str, pattern: str | None = None) -> QueryColumns:
    return QueryColumns(question=question, reference=reference, reference_pattern=pattern)


MATH = (
    _hub(
        "openr1_math_220k",
        "open-r1/OpenR1-Math-220k",
        Category.MATH,
        _answered("problem", "answer"),
        licence="Apache-2.0",
    ),
    _hub(
        "big_math_rl_verified",
        "SynthLabsAI/Big-Math-RL-Verified",
        Category.MATH,
        _answered("problem", "answer"),
    ),
    _hub(
        "data_ablation_full59k",
        "simplescaling/data_ablation_full59K",
        Category.MATH,
        _answered("question", "solution"),
    ),
    _hub(
        "numina_math_cot",
        "AI-MO/NuminaMath-CoT",
        Category.MATH,
        _answered("problem", "solution", LAST_BOXED),
        licence="Apache-2.0",
    ),
    _hub(
        "meta_math_qa",
        "meta-math/MetaMathQA",
        Category.MATH,
        _answered("query", "response", r"The answer is:\s*(.*?)\s*$"),
    ),
    # ours: the name leads to no public address
    _own_file("2023_amc_data", Category.MATH, _answered("question", "answer")),
    _hub(
        "deepmath_103k",
        "zwhe99/DeepMath-103K",
        Category.MATH,
        _answered("question", "final_answer"),
        licence="MIT",
    ),
    _hub(
        "aime_1983_2023",
        "di-zhang-fdu/AIME_1983_2024",
        Category.MATH,
        _answered("Question", "Answer"),
        drop=(("Year", "2024"),),  # 2.1: minus every problem of AIME2024, which is a benchmark
    ),
)

CODE = (
    _hub(
        "prime",
        "PRIME-RL/Eurus-2-RL-Data",
        Category.CODE,
        QueryColumns(question=None, messages="prompt", test_cases="reward_model.ground_truth"),
        revision="9776b13264b5aaa0b16495fcf086a0a8d86fd655",
        drop=(("ability", "math"),),  # ours: the code half; the paper names it under code only
    ),
    # ours: two of four parts; the other two are contest problems up to the benchmark's window
    _hub(
        "deepcoder_primeintellect",
        "agentica-org/DeepCoder-Preview-Dataset",
        Category.CODE,
        QueryColumns(question="problem", test_cases="tests"),
        part="primeintellect",
    ),
    _hub(
        "deepcoder_taco",
        "agentica-org/DeepCoder-Preview-Dataset",
        Category.CODE,
        QueryColumns(question="problem", test_cases="tests"),
        part="taco",
    ),
    _hub(
        "kodcode",
        "KodCode/KodCode-V1",
        Category.CODE,
        QueryColumns(question="question", test_cases="test"),
        licence="CC-BY-NC-4.0",
    ),
    # ours: the paper spells it "liveincode_generation" and cites LiveCodeBench, so decontamination matters here
    _hub(
        "livecodebench_generation",
        "livecodebench/code_generation",
        Category.CODE,
        QueryColumns(question="question_content", test_cases="public_test_cases"),
        split="test",
    ),
    _hub(
        "codeforces_cots",
        "open-r1/codeforces-cots",
        Category.CODE,
        QueryColumns(question="prompt", test_cases="examples"),
        revision="39ac85c150806230473c70ad72c31f6232fe3f41",
        part="solutions_py_decontaminated",  # ours: the Python part, free of the benchmark by its makers' account
    ),
    _hub(
        "verifiable_coding",
        "open-r1/verifiable-coding-problems-python",
        Category.CODE,
        QueryColumns(question="problem_statement", test_cases="verification_info.test_cases"),
        revision="b761a24a95fa03289a231d2d31c183636ffb9833",
    ),
    _hub(
        "opencoder",
        "OpenCoder-LLM/opc-sft-stage2",
        Category.CODE,
        QueryColumns(question="instruction", test_cases="testcase", entry_point="entry_point"),
        licence="MIT",
        part="educational_instruct",  # ours: the part that has test cases
    ),
    _hub(
        "openthoughts_114k_code",
        "open-r1/OpenThoughts-114k-Code_decontaminated",
        Category.CODE,
        QueryColumns(question="problem", test_cases="test_cases"),
        revision="b90307fcdb68ae52d01f60cfd38d5f0b4852115a",
    ),
    _hub(
        "acecode_87k",
        "TIGER-Lab/AceCode-87K",
        Category.CODE,
        QueryColumns(question="question", test_cases="test_cases"),
    ),
)

SCIENCE = (
    # ours: both are repositories of task files, not hub data sets; one line per question is expected
    _own_file("task_mmmlu", Category.SCIENCE, _answered("input", "output")),
    _own_file("chemistry_qa", Category.SCIENCE, _answered("question", "answer")),
    _hub(
        "nemotron_science",
        "nvidia/Llama-Nemotron-Post-Training-Dataset-v1",
        Category.SCIENCE,
        QueryColumns(question=None, messages="input", reference="output", reference_pattern=LAST_BOXED),
        split="science",
    ),
    _hub(
        "logic_701",
        "hivaze/LOGIC-701",
        Category.SCIENCE,
        _answered("problem_statement", "solution"),
        part="en",  # ours: the set exists in two languages
    ),
    *(
        _hub(
            f"ncert_{subject.lower()}_{grade}",
            f"KadamParth/NCERT_{subject}_{grade}",
            Category.SCIENCE,
            _answered("Question", "Answer"),
        )
        for subject in ("Physics", "Chemistry", "Biology")
        for grade in ("11th", "12th")
    ),
    _hub("logic_lm", "longface/logicLM", Category.SCIENCE, _answered("question", "answer")),
)

INSTRUCTION_FOLLOWING = (
    _hub(
        "nemotron_instruction",
        "nvidia/Llama-Nemotron-Post-Training-Dataset",
        Category.INSTRUCTION_FOLLOWING,
        QueryColumns(
            question=None,
            messages="input",
            constraint_ids="args.instruction_id_list",
            constraint_kwargs="args.instruction_kwargs",
        ),
        revision="ab2a40d258a6a4d9d4c277d702aeea445081766c",
        split="instruction_following",
        part="RL",  # ours: the part that has constraints
    ),
    _hub(
        "tulu_3_instruction",
        # ours: the part of tulu-3-sft-mixture that has constraints, published on its own
        "allenai/tulu-3-sft-personas-instruction-following",
        Category.INSTRUCTION_FOLLOWING,
        QueryColumns(question="prompt", constraint_ids="constraints"),
        licence="ODC-By-1.0",
    ),
    # ours: made by the authors (the second with Qwen2.5-72B-Instruct) and not published
    _own_file("if_eval_like", Category.INSTRUCTION_FOLLOWING, QueryColumns(constraints="instruction_constrain")),
    _own_file("autoif", Category.INSTRUCTION_FOLLOWING, QueryColumns(constraints="instruction_constrain")),
)

# Multi-turn and other share one category here. InfinityInstruct, OpenHermes-2.5 and tulu-3 are named under both.
CONVERSATION = (
    _hub(
        "infinity_instruct",
        "BAAI/Infinity-Instruct",
        Category.CONVERSATION,
        QueryColumns(question=None, messages="conversations"),
        part="0625",  # ours: the newest part before the paper
    ),
    _hub(
        "openhermes_2_5",
        "teknium/OpenHermes-2.5",
        Category.CONVERSATION,
        QueryColumns(question=None, messages="conversations"),
    ),
    _hub(
        "tulu_3_sft_mixture",
        "allenai/tulu-3-sft-mixture",
        Category.CONVERSATION,
        QueryColumns(question=None, messages="messages"),
        licence="ODC-By-1.0",
        drop=(("source", "ai2-adapt-dev/personahub_ifdata_manual_seed_v3_29980"),),  # ours: tulu_3_instruction has it
    ),
    _hub(
        "ultra_chat",
        "HuggingFaceH4/ultrachat_200k",  # ours: the cleaned part; the paper says "ultra_chat"
        Category.CONVERSATION,
        QueryColumns(question=None, messages="messages"),
        split="train_sft",
    ),
    _hub(
        "evol_instruct_70k",
        "WizardLMTeam/WizardLM_evol_instruct_70k",
        Category.CONVERSATION,
        QueryColumns(question="instruction"),
    ),
    _hub("open_orca", "Open-Orca/OpenOrca", Category.CONVERSATION, QueryColumns(question="question")),
    _hub(
        "natural_reasoning",
        "facebook/natural_reasoning",
        Category.CONVERSATION,
        _answered("question", "reference_answer"),
        licence="CC-BY-NC-4.0",
    ),
    _hub("flan", "Open-Orca/FLAN", Category.CONVERSATION, QueryColumns(question="inputs")),
)

SOURCES: tuple[Source, ...] = (*MATH, *CODE, *SCIENCE, *INSTRUCTION_FOLLOWING, *CONVERSATION)
