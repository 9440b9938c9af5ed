r"""What kinds of answer there are: quantity, words, option, several, matrix, region, relation, ratio, residue.

Belongs here: the kinds. Does not belong here: reading one from text (`answer_reading`) or comparing two
(`typed_answers`).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from amr_pipeline.verdicts.expressions import Node


@dataclass(frozen=True, slots=True)
class Quantity:
    """An expression, its unit as written (None: none), and whether it is written with a decimal point."""

    node: Node
    unit: str | None
    is_decimal: bool


@dataclass(frozen=True, slots=True)
class Words:
    """Text, as `answer_text.plain_words`."""

    words: str


@dataclass(frozen=True, slots=True)
class Choice:
    """An option letter, and what the option says where that follows (None: it does not)."""

    letter: str
    says: "Form | None"


@dataclass(frozen=True, slots=True)
class Many:
    """Several answers: `1, 2`, `(1,2)`, `[1,2]`, `{1,2}` or a vector."""

    kind: Literal["list", "tuple", "square", "set", "vector"]
    items: "tuple[Form, ...]"


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of cells; more than one of each."""

    rows: "tuple[tuple[Form, ...], ...]"


@dataclass(frozen=True, slots=True)
class Interval:
    """From low to high; an end of None is infinite."""

    low: Node | None
    low_closed: bool
    high: Node | None
    high_closed: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A union of intervals, empty for no solution; `letter` is what it restricts (None: not named)."""

    intervals: tuple[Interval, ...]
    letter: str | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """A value with the name it is given to: `x = 3`, `f(y) = y`."""

    name: str
    value: "Form"


@dataclass(frozen=True, slots=True)
class Relation:
    """Two expressions and how they relate; `>` and `>=` are turned round."""

    operator: Literal["=", "\\ne", "<", "\\le"]
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Ratio:
    """`7:32`."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Residue:
    """What numbers are congruent to, and modulo what: `3 (mod 4)`."""

    value: Node
    modulus: Node


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A chain of equations whose members differ: `x = 3 = 7`."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """Anything else; symbolic algebra may understand it."""

    text: str


Form: TypeAlias = (
    Quantity | Words | Choice | Many | Matrix | Region | Named | Relation | Ratio | Residue | Contradiction | Opaque
)


def region_of(form: Form) -> Region | None:
    """The form as a region where it can be one: a pair in brackets may be an interval, a set may be points."""
    if isinstance(form, Region):
        return form
    if isinstance(form, Many) and form.kind in ("tuple", "square") and len(form.items) == 2:
        low, high = form.items
        if isinstance(low, Quantity) and isinstance(high, Quantity):
            closed = form.kind == "square"
            return Region((Interval(low.node, closed, high.node, closed),))
    if isinstance(form, Many) and form.kind == "list":
        parts = [item for item in form.items if isinstance(item, Region)]
        letters = {part.letter for part in parts}
        if len(parts) == len(form.items) and len(letters) == 1:
            return Region(tuple(interval for part in parts for interval in part.intervals), letters.pop())
    if isinstance(form, Many) and form.kind == "set":
        points = [item.node for item in form.items if isinstance(item, Quantity)]
        if len(points) == len(form.items):
            return Region(tuple(Interval(point, True, point, True) for point in points))
    return None
