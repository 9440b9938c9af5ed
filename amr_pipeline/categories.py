"""The five categories, and the facts about them that every chapter shares.

Belongs here: the names, the range of `verify_score` and the threshold above which a response passes.
Does not belong here: how a category is verified (`verdicts/`) or selected (`subsets.py`).

Source: DeepDistill 2.4.1 (ranges) and 2.4.2 (thresholds). The published data set spells two of the names
differently; `from_published_name` and `published_name` are the only places that know.
"""

from dataclasses import dataclass
from enum import StrEnum


class Category(StrEnum):
    """What kind of problem a query is, and therefore which verifier judges its responses."""

    MATH = "math"
    CODE = "code"
    SCIENCE = "science"
    INSTRUCTION_FOLLOWING = "instruction_following"
    CONVERSATION = "conversation"


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryFacts:
    """Scale of one category's `verify_score`.

    Attributes:
        highest_score: upper end of the range; the lower end is 0 in every category.
        pass_threshold: a response passes when its score is strictly greater.
    """

    highest_score: float
    pass_threshold: float


FACTS: dict[Category, CategoryFacts] = {
    Category.MATH: CategoryFacts(highest_score=1.0, pass_threshold=0.99),
    Category.CODE: CategoryFacts(highest_score=1.0, pass_threshold=0.99),
    Category.SCIENCE: CategoryFacts(highest_score=5.0, pass_threshold=4.99),
    Category.INSTRUCTION_FOLLOWING: CategoryFacts(highest_score=1.0, pass_threshold=0.99),
    # The paper's "multi-turn" and "other" share one verifier and one threshold.
    Category.CONVERSATION: CategoryFacts(highest_score=1.0, pass_threshold=0.7),
}

COUNTED_HEADS = ("coherence", "correctness", "helpfulness")
"""Heads of a reward model whose sum, over 12, is the score of a conversation (DeepDistill 2.4.1, Eq. 4)."""

HIGHEST_HEAD = 4.0
"""Upper end of every head; the lower end is 0."""

PUBLISHED_NAMES: dict[Category, str] = {
    Category.MATH: "math",
    Category.CODE: "code",
    Category.SCIENCE: "science",
    Category.INSTRUCTION_FOLLOWING: "instruction follow",
    Category.CONVERSATION: "other",
}
"""What the published data set calls each category."""

_OTHER_NAMES = {
    "instruction follow": Category.INSTRUCTION_FOLLOWING,
    "if": Category.INSTRUCTION_FOLLOWING,
    "other": Category.CONVERSATION,
    "multiturn": Category.CONVERSATION,
    "multi-turn": Category.CONVERSATION,
}


def passes(category: Category, verify_score: float) -> bool:
    """Whether a score in the category's own range is a pass (strictly above the threshold).

    Source: DeepDistill 2.4.2.
    """
    return verify_score > FACTS[category].pass_threshold


def from_published_name(name: str) -> Category:
    """The category that a data set calls `name`, in this project's or the published spelling.

    Raises:
        ValueError: the name is neither.
    """
    try:
        return _OTHER_NAMES.get(name.strip().lower()) or Category(name.strip().lower().replace(" ", "_"))
    except ValueError:
        wanted = ", ".join([*Category, *_OTHER_NAMES])
        raise ValueError(f"category {name!r} is unknown; wanted one of: {wanted}") from None


def published_name(category: Category) -> str:
    """What the published data set calls `category`; `from_published_name` reads it back."""
    return PUBLISHED_NAMES[category]
