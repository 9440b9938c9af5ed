"""A query as a distiller sees it: system prompt, turns, and the category's suffix on the last turn.

The two texts for reasoning models say in our words what the authors' other papers report of theirs: think first,
then answer, in tags; box mathematics; fence code.

Source: DeepDistill 2.3; the prompts are not printed there (# ours: wording).
"""

from collections.abc import Iterable, Mapping, Sequence

from amr_pipeline.categories import Category
from amr_pipeline.studies.study import PromptSuffix

THINK_THEN_ANSWER = (
    "You are a careful assistant. Work out the problem before you reply. Write your reasoning between <think> and "
    "</think>, then your reply between <answer> and </answer>."
)
BOXED_ANSWER = "Reason step by step and put the final answer inside \\boxed{}."
FENCED_PYTHON = "Reason step by step and give the final program in one ```python block."

REASONING_SUFFIXES: tuple[PromptSuffix, ...] = (
    PromptSuffix(category=Category.MATH, text=BOXED_ANSWER),
    PromptSuffix(category=Category.CODE, text=FENCED_PYTHON),
)


def prompt_messages(
    messages: Iterable[Mapping[str, str]],
    category: Category,
    system_prompt: str | None,
    suffixes: Sequence[PromptSuffix],
) -> tuple[tuple[str, str], ...]:
    """The (role, content) turns sent to a model; a query's own system turn stays and takes precedence."""
    turns = [(turn["role"], turn["content"]) for turn in messages]
    suffix = next((row.text for row in suffixes if row.category == category), None)
    if suffix is not None:
        role, content = turns[-1]
        turns[-1] = (role, f"{content}\n\n{suffix}")
    if system_prompt is not None and turns[0][0] != "system":
        turns.insert(0, ("system", system_prompt))
    return tuple(turns)
