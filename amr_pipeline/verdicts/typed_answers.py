r"""Answers compared by what they are: quantities, words, options, lists, sets, intervals, matrices, relations.

Settles most pairs exactly and in microseconds; says None for the rest, which symbolic comparison decides.

Policy (# ours; measured against seven graders' own cases): order matters in tuples and vectors, not in sets and lists;
a missing unit or percent sign is forgiven, another unit is not; decimals agree within a relative tolerance, exact
numbers exactly; a chain of equations whose members differ is wrong; different words are different answers.
"""

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import ClassVar

from amr_pipeline.verdicts.answer_forms import (
    Choice,
    Contradiction,
    Form,
    Interval,
    Many,
    Matrix,
    Named,
    Opaque,
    Quantity,
    Ratio,
    Region,
    Relation,
    Residue,
    Words,
    region_of,
)
from amr_pipeline.verdicts.answer_reading import AN_INTEGER, form_of
from amr_pipeline.verdicts.answer_text import plain_answer, plain_words
from amr_pipeline.verdicts.expression_values import exact_value, expressions_agree, real_value
from amr_pipeline.verdicts.expressions import Node, renamed, symbols
from amr_pipeline.verdicts.quantities import agree_with_units, agree_without_a_unit, unit_of

LONGEST_ANSWER = 1_000
"""Characters of an answer that is read; what is longer goes on to `too_complex`."""

_NUMBER = re.compile(r"\$?\s*(-?)(\d{1,15})(?:\.(\d{1,15}))?\s*\$?")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_ANSWER_OF_ONE_LETTER = re.compile(r"[a-z]")
_NUMERAL = re.compile(r"(\d+)_\{?\d+\}?")
_APPLIED = re.compile(r"([A-Za-z])\s*\(\s*([A-Za-z])\s*\)")
_NOT_WORDS = re.compile(r"[\\^{}=<>|+*/\d-]")
_COORDINATES = frozenset({"x", "y", "z"})
_CONSTANTS = frozenset({"C", "K", "c"})
_INTEGERS = frozenset({"k", "n", "m", AN_INTEGER})


def compare_typed(reference: str, answer: str, relative_tolerance: float) -> bool | None:
    """Whether two answers are equal, or None where their types do not settle it.

    Args:
        reference: what is right.
        answer: what was given.
        relative_tolerance: how far decimals may differ, relative to the reference; exact numbers must agree exactly.
    """
    if max(len(reference), len(answer)) > LONGEST_ANSWER:
        return None
    first, second = _NUMBER.fullmatch(reference), _NUMBER.fullmatch(answer)
    if first and second:
        return _plain_numbers_agree(first, second, relative_tolerance)
    left, right = plain_answer(reference), plain_answer(answer)
    if left == right and left:
        return True
    if not left or not right:
        return False if left else None
    if (comma := _decimal_comma(left, right)) is not None and compare_typed(*comma, relative_tolerance):
        return True
    if _same_but_for_habit(left, right):
        return True
    return _Comparison(relative_tolerance).agree(form_of(reference), form_of(answer))


def contradicts_itself(answer: str) -> bool:
    """Whether an answer is a chain of equations whose members differ (`x = 3 = 7`)."""
    return len(answer) <= LONGEST_ANSWER and isinstance(form_of(answer), Contradiction)


def _plain_numbers_agree(first: re.Match[str], second: re.Match[str], tolerance: float) -> bool:
    """The commonest case, without a parse: two integers or decimals of double precision or less."""
    if first[3] is None and second[3] is None:
        return int(first[1] + first[2]) == int(second[1] + second[2])
    one, other = (Fraction(f"{found[1]}{found[2]}.{found[3] or 0}") for found in (first, second))
    return one == other or abs(one - other) <= Fraction(tolerance) * abs(one)


def _decimal_comma(left: str, right: str) -> tuple[str, str] | None:
    """Both with a point for the comma of `3,14`, where one of them may mean that; a list with spaces does not."""
    if not (_DECIMAL_COMMA.fullmatch(left) or _DECIMAL_COMMA.fullmatch(right)):
        return None
    one, other = (text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text for text in (left, right))
    return None if "," in one or "," in other else (one, other)


def _same_but_for_habit(left: str, right: str) -> bool:
    """Words that differ in case, articles and punctuation; a numeral without its base; an option in lower case."""
    if _ANSWER_OF_ONE_LETTER.fullmatch(right) and right.upper() == left:
        return True
    if not _NOT_WORDS.search(left + right) and len(plain_words(left)) > 1 and plain_words(left) == plain_words(right):
        return True
    based, bare = (left, right) if "_" in left else (right, left)
    numeral = _NUMERAL.fullmatch(based)
    return numeral is not None and numeral[1] == bare


class _Comparison:
    """Comparison of forms at one tolerance."""

    def __init__(self, relative_tolerance: float) -> None:
        self._tolerance = relative_tolerance

    def agree(self, left: Form, right: Form) -> bool | None:
        """Whether two forms are the same answer; None where they do not say."""
        if isinstance(right, Contradiction):
            return False
        if isinstance(left, Contradiction | Opaque) or isinstance(right, Opaque):
            return True if left == right else None
        if isinstance(left, Named) or isinstance(right, Named):
            return self._named(left, right)
        same = self._SAME.get((type(left), type(right)))
        return same(self, left, right) if same is not None else self._unlike(left, right)

    # ---------------------------------------------------------------------------------------------- like with like

    def _quantities(self, left: Quantity, right: Quantity) -> bool | None:
        tolerance = self._tolerance if left.is_decimal or right.is_decimal else 0.0
        one, other = (None if form.unit is None else unit_of(form.unit) for form in (left, right))
        if one is not None and other is not None:
            return agree_with_units(left.node, one, right.node, other, tolerance)
        found = expressions_agree(left.node, right.node, tolerance)
        if found is not True and (named := _with_the_same_letter(left.node, right.node)) is not None:
            found = expressions_agree(left.node, named, tolerance)
        if left.unit is not None and right.unit is not None:
            known = one is not None or other is not None
            return found if left.unit.lower().rstrip("s") == right.unit.lower().rstrip("s") or not known else None
        unit, bare = (left.unit, right) if left.unit is not None else (right.unit, left)
        if unit in symbols(bare.node):
            return None  # 5 m and 5m
        if found is False and (unit := one or other) is not None:
            return agree_without_a_unit(left.node, right.node, unit, unit is one, tolerance)
        return found

    def _words(self, left: Words, right: Words) -> bool | None:
        if left.words == right.words:
            return bool(left.words) or None
        return None if re.search(r"\d", left.words + right.words) else False

    def _choices(self, left: Choice, right: Choice) -> bool | None:
        return left.letter == right.letter

    def _many(self, left: Many, right: Many) -> bool | None:
        kinds = {left.kind, right.kind}
        if kinds in ({"tuple", "set"}, {"tuple", "square"}, {"vector", "set"}):
            return False
        if left.kind != right.kind and "set" in kinds and "square" in kinds:
            return None
        if kinds <= {"list", "set"}:
            return self._unordered(left.items, right.items, distinct="set" in kinds)
        return self._ordered(left.items, right.items)

    def _ordered(self, left: Sequence[Form], right: Sequence[Form]) -> bool | None:
        if len(left) != len(right):
            return False
        return _all(self.agree(one, other) for one, other in zip(left, right, strict=True))

    def _unordered(self, left: Sequence[Form], right: Sequence[Form], *, distinct: bool) -> bool | None:
        if distinct:
            left, right = self._distinct(left), self._distinct(right)
        if len(left) != len(right):
            return False
        names = [sorted(form.name for form in forms if isinstance(form, Named)) for forms in (left, right)]
        # x = 2, y = 3 is not x = 3, y = 2; but which root is x_1 and which is x_2 is anybody's choice.
        if names[0] == names[1] and len({name[:1] for name in names[0]}) == len(left):
            return self._ordered(*(sorted(forms, key=lambda form: form.name) for forms in (left, right)))  # type: ignore[attr-defined]
        rest, doubt = list(right), False
        for one in left:
            found = [self.agree(one, other) for other in rest]
            if True in found:
                del rest[found.index(True)]
            elif None in found:
                doubt = True
            else:
                return False
        return None if doubt else True

    def _distinct(self, items: Sequence[Form]) -> list[Form]:
        kept: list[Form] = []
        for item in items:
            if not any(self.agree(item, other) for other in kept):
                kept.append(item)
        return kept

    def _matrices(self, left: Matrix, right: Matrix) -> bool | None:
        if len(left.rows) != len(right.rows):
            return False
        return _all(self._ordered(one, other) for one, other in zip(left.rows, right.rows, strict=True))

    def _regions(self, left: Region, right: Region) -> bool | None:
        if left.letter and right.letter and left.letter != right.letter:
            return None
        one, other = (_in_order(region.intervals) for region in (left, right))
        if one is None or other is None:
            return None
        if len(one) != len(other):
            return False
        return _all(self._intervals(first, second) for first, second in zip(one, other, strict=True))

    def _intervals(self, left: Interval, right: Interval) -> bool | None:
        if (left.low_closed, left.high_closed) != (right.low_closed, right.high_closed):
            return False
        return _all(self._ends(one, other) for one, other in ((left.low, right.low), (left.high, right.high)))

    def _ends(self, left: Node | None, right: Node | None) -> bool | None:
        if left is None or right is None:
            return left is right
        return expressions_agree(left, right, self._tolerance)

    def _relations(self, left: Relation, right: Relation) -> bool | None:
        if left.operator != right.operator:
            return None
        one, other = (("add", form.left, ("negate", form.right)) for form in (left, right))
        if symbols(one) != symbols(other):
            return None
        # Equal up to a constant factor: the ratio of the differences does not depend on the letters.
        ratio = ("divide", one, other)
        moved = renamed(ratio, {name: f"{name}''" for name in symbols(one)})
        same = expressions_agree(("divide", ratio, moved), ("number", Fraction(1)), 1e-9)
        if left.operator in ("=", "\\ne") or not same:
            return same
        return expressions_agree(ratio, ("call", "abs", ratio))

    def _ratios(self, left: Ratio, right: Ratio) -> bool | None:
        one, other = ([exact_value(node) for node in form.items] for form in (left, right))
        if None in one or None in other or len(one) != len(other):
            return None if len(one) == len(other) else False
        if 0 in one or 0 in other:
            return one == other
        first, second = one[0], other[0]
        assert first is not None
        assert second is not None
        return all(a * second == b * first for a, b in zip(one, other, strict=True) if a is not None and b is not None)

    def _residues(self, left: Residue, right: Residue) -> bool | None:
        values = [exact_value(node) for node in (left.value, right.value, left.modulus, right.modulus)]
        if None in values or 0 in values[2:]:
            return None
        one, other, modulus, same = values
        return modulus == same and (one - other) % modulus == 0  # type: ignore[operator]

    # -------------------------------------------------------------------------------------------- unlike with unlike

    def _named(self, left: Form, right: Form) -> bool | None:
        """`x = 3` is 3; two names are forgiven where the values agree, and an equation may be what is asked for."""
        if isinstance(left, Named) and isinstance(right, Named):
            if (turned := _of_one_argument(left.name, right)) is not None:
                return self.agree(left.value, turned)
            if {left.name, right.name} <= _COORDINATES and left.name != right.name and _are_numbers(left, right):
                return False
            found = self.agree(left.value, right.value)
            both = _equation_of(left), _equation_of(right)
            if found is not True and left.name != right.name and None not in both:
                return self.agree(*both)  # type: ignore[arg-type]
            return found
        named, other = (left, right) if isinstance(left, Named) else (right, left)
        assert isinstance(named, Named)
        if isinstance(other, Relation):
            equation = _equation_of(named)
            return None if equation is None else self._relations(equation, other)
        if isinstance(other, Many) and isinstance(named.value, Quantity) and other.kind == "list":
            return None
        return self.agree(named.value, other) if named is left else self.agree(other, named.value)

    def _unlike(self, left: Form, right: Form) -> bool | None:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, Region):
                region = region_of(other)
                return self._regions(one, region) if region is not None else None
            if isinstance(one, Many) and len(one.items) == 1:
                return self.agree(one.items[0], other) if one is left else self.agree(other, one.items[0])
            if isinstance(one, Choice):
                return self._choice_and(one, other)
        several = left if isinstance(left, Many) else right
        other = right if several is left else left
        if isinstance(several, Many) and isinstance(other, Quantity):
            return False if all(isinstance(item, Quantity) for item in several.items) else None
        return False if _is_a_number(left) != _is_a_number(right) and _is_no_number(left, right) else None

    def _choice_and(self, choice: Choice, other: Form) -> bool | None:
        if choice.says is not None:
            return self.agree(choice.says, other)
        return expressions_agree(("symbol", choice.letter), other.node) if isinstance(other, Quantity) else None

    _SAME: ClassVar[dict[tuple[type, type], Callable[..., bool | None]]] = {
        (Quantity, Quantity): _quantities,
        (Words, Words): _words,
        (Choice, Choice): _choices,
        (Many, Many): _many,
        (Matrix, Matrix): _matrices,
        (Region, Region): _regions,
        (Relation, Relation): _relations,
        (Ratio, Ratio): _ratios,
        (Residue, Residue): _residues,
    }


def _are_numbers(*named: Named) -> bool:
    return all(_is_a_number(one.value) for one in named)


def _with_the_same_letter(left: Node, right: Node) -> Node | None:
    r"""The second expression with the first one's arbitrary letter, where they differ in that letter alone.

    A constant of integration may be C or K; what runs over the integers may be k or n, where it is said to (`\Z`) or
    where multiples of pi say it.
    """
    one, other = symbols(left) - symbols(right), symbols(right) - symbols(left)
    if len(one) != 1 or len(other) != 1:
        return None
    is_constant = one | other <= _CONSTANTS
    is_integer = one | other <= _INTEGERS and (AN_INTEGER in one | other or _holds_pi(left))
    return renamed(right, {next(iter(other)): next(iter(one))}) if is_constant or is_integer else None


def _holds_pi(node: Node) -> bool:
    return node == ("symbol", "pi") or any(_holds_pi(part) for part in node[1:] if isinstance(part, tuple))


def _is_a_number(form: Form) -> bool:
    return isinstance(form, Quantity) and not symbols(form.node)


def _is_no_number(left: Form, right: Form) -> bool:
    """Whether one of the two is a matrix, or words without a digit."""
    return any(
        isinstance(form, Matrix) or (isinstance(form, Words) and not re.search(r"\d", form.words))
        for form in (left, right)
    )


def _all(found: "object") -> bool | None:
    """All of three-valued answers: False wins, then doubt."""
    answers = list(found)  # type: ignore[call-overload]
    return False if False in answers else None if None in answers else True


def _in_order(intervals: Sequence[Interval]) -> list[Interval] | None:
    """Intervals from left to right, touching ones joined; None where an end is no number."""
    keyed: list[tuple[float, Interval]] = []
    for interval in intervals:
        low = -math.inf if interval.low is None else real_value(interval.low)
        if low is None or (interval.high is not None and real_value(interval.high) is None):
            return None
        keyed.append((low, interval))
    joined: list[Interval] = []
    for _, interval in sorted(keyed, key=lambda item: item[0]):
        last = joined[-1] if joined else None
        touches = (
            last is not None
            and last.high is not None
            and interval.low is not None
            and (expressions_agree(last.high, interval.low) is True and (last.high_closed or interval.low_closed))
        )
        if touches and last is not None:
            joined[-1] = Interval(last.low, last.low_closed, interval.high, interval.high_closed)
        else:
            joined.append(interval)
    return joined


def _equation_of(named: Named) -> Relation | None:
    """`y = 2x + 1` as a relation, where the name is one letter."""
    if isinstance(named.value, Quantity) and re.fullmatch(r"[A-Za-z]", named.name):
        return Relation("=", ("symbol", named.name), named.value.node)
    return None


def _of_one_argument(name: str, other: Named) -> Form | None:
    """The value of `f(y) = y` in terms of x, where the reference says `f(x)`; None where they are not that."""
    one, two = (_APPLIED.fullmatch(text) for text in (name, other.name))
    if one is None or two is None or one[1] != two[1] or not isinstance(other.value, Quantity):
        return None
    node = renamed(other.value.node, {two[2]: one[2]})
    return Quantity(node, other.value.unit, other.value.is_decimal)
