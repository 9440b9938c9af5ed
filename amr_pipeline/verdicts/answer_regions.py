r"""Regions of the line from their text: intervals, inequalities, the line without points, distances.

Belongs here: readers that say which numbers are meant. Does not belong here: other kinds of answer (`answer_reading`).
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from amr_pipeline.verdicts.answer_forms import Form, Interval, Region, Relation
from amr_pipeline.verdicts.answer_text import split_outside
from amr_pipeline.verdicts.expression_values import real_value
from amr_pipeline.verdicts.expressions import Node, NotAnExpression, parse_expression, symbols

NAME = re.compile(
    r"(?:[A-Za-z]|\\[a-z]+)(?:_(?:\w|\{[^{}]*\}))?'*(?:\s*\([^()=]*\))?|\\?\|[A-Za-z]+\\?\|"
    r"|[A-Za-z]{2,3}|\([a-zA-Z, ]+\)"
    r"|[A-Z](?:_(?:\w|\{[^{}]*\}))?\s*:\s*[A-Z](?:_(?:\w|\{[^{}]*\}))?"
)
"""What stands before `=` or between `<` and `<`: a letter with its subscript, a function of letters, a length."""

_ABSOLUTE = re.compile(r"\\?\|\s*([a-z])\s*([+-]\s*\d+)?\s*\\?\|")
_LINE_WITHOUT = re.compile(r"\(-\\infty,\\infty\)\s*(?:\\setminus|\\backslash)\s*\\\{(.*)\\\}")


def interval(parts: list[str], opening: str, closing: str) -> Region | None:
    """The interval between two ends, or None where one of them is no expression."""
    if len(parts) != 2:
        return None
    ends = [_end(part) for part in parts]
    if "unread" in ends:
        return None
    low, high = (None if end == "infinite" else end for end in ends)
    return Region((Interval(low, opening == "[" and low is not None, high, closing == "]" and high is not None),))  # type: ignore[arg-type]


def line_without(text: str) -> Region | None:
    r"""`(-\infty,\infty) \setminus \{1, 2\}`."""
    found = _LINE_WITHOUT.fullmatch(text)
    return None if found is None else _holes([_end(part) for part in split_outside(found[1], ",")], None)


def inequality(members: list[str], operators: list[str]) -> Region | Relation | None:
    r"""What `<`, `\le`, `>`, `\ge` or `\ne` between members say: a region of one letter, or a relation."""
    turned = {">": "<", "\\ge": "\\le"}
    if all(operator in turned for operator in operators):
        members, operators = members[::-1], [turned[operator] for operator in operators[::-1]]
    if operators == ["\\ne"]:
        return _unequal(*members)
    if not all(operator in ("<", "\\le") for operator in operators):
        return None
    if len(members) == 2 and (region := _distance(*members, closed=operators == ["\\le"])) is not None:
        return region
    named = [place for place, member in enumerate(members) if NAME.fullmatch(member) and not is_constant(member)]
    if len(named) == 1 and len(members) <= 3:
        place = named[0]
        ends = [_end(member) for member in members[:place] + members[place + 1 :]]
        below, above = ends[:place], ends[place:]
        if all(_is_an_end(end) for end in ends) and len(below) <= 1 and len(above) <= 1:
            low = (below[0], operators[place - 1] == "\\le") if below and below[0] != "infinite" else (None, False)
            high = (above[0], operators[place] == "\\le") if above and above[0] != "infinite" else (None, False)
            return Region((Interval(*low, *high),), members[place])  # type: ignore[arg-type]
    return relation(operators[0], *members) if len(members) == 2 else None


def relation(operator: str, left: str, right: str) -> Relation | None:
    """Two expressions and how they relate, or None where one of them is none."""
    try:
        return Relation(operator, parse_expression(left), parse_expression(right))  # type: ignore[arg-type]
    except NotAnExpression:
        return None


def all_unequal(items: Sequence[Form]) -> Region | None:
    r"""`x \ne 1, x \ne 2`: both hold, so that neither point is there."""
    regions = [item for item in items if isinstance(item, Region) and item.letter is not None and _is_punctured(item)]
    if len(regions) != len(items) or len({region.letter for region in regions}) != 1:
        return None
    return _holes(
        [end for region in regions for one in region.intervals if (end := one.high) is not None], regions[0].letter
    )


def both_hold(items: Sequence[Form], *, may_be_either: bool) -> Region | None:
    """`x > 0, x < 2`: conditions that hold together where they overlap; else they are alternatives, and None."""
    regions = [item for item in items if isinstance(item, Region) and len(item.intervals) == 1 and item.letter]
    if may_be_either or len(regions) != len(items) or len({region.letter for region in regions}) != 1:
        return None
    lows = [_bound(region.intervals[0].low, -math.inf) for region in regions]
    highs = [_bound(region.intervals[0].high, math.inf) for region in regions]
    low = max((value for value in lows if value is not None), default=math.inf)
    high = min((value for value in highs if value is not None), default=-math.inf)
    if None in lows or None in highs or low >= high:
        return None
    lower = [region.intervals[0] for region, value in zip(regions, lows, strict=True) if value == low]
    upper = [region.intervals[0] for region, value in zip(regions, highs, strict=True) if value == high]
    whole = Interval(
        lower[0].low, all(one.low_closed for one in lower), upper[0].high, all(one.high_closed for one in upper)
    )
    return Region((whole,), regions[0].letter)


def _bound(end: Node | None, infinite: float) -> float | None:
    return infinite if end is None else real_value(end)


def _distance(left: str, right: str, *, closed: bool) -> Region | None:
    """`|x - 2| < 3` or `3 < |x|` as intervals, where the bound is a positive number."""
    for place, (absolute, bound) in enumerate(((left, right), (right, left))):
        found = _ABSOLUTE.fullmatch(absolute)
        radius = _end(bound) if found else "unread"
        if found is None or isinstance(radius, str) or (real_value(radius) or 0) <= 0:
            continue
        centre: Node = ("number", -Fraction((found[2] or "0").replace(" ", "")))
        low, high = ("add", centre, ("negate", radius)), ("add", centre, radius)
        if place == 0:
            return Region((Interval(low, closed, high, closed),), found[1])
        return Region((Interval(None, False, low, closed), Interval(high, closed, None, False)), found[1])
    return None


def _unequal(left: str, right: str) -> Region | Relation | None:
    r"""`x \ne 2`: the line without a point, where it says that."""
    if re.fullmatch(r"[a-z]", left) and not is_constant(left) and (hole := _holes([_end(right)], left)) is not None:
        return hole
    return relation("\\ne", left, right)


def _holes(points: list[Node | Literal["infinite", "unread"]], letter: str | None) -> Region | None:
    """The line without some points, smallest first; None where one of them is no number."""
    values: dict[float, Node] = {}
    for point in points:
        value = None if isinstance(point, str) else real_value(point)
        if value is None or isinstance(point, str):
            return None
        values[value] = point
    ends = [None, *(point for _, point in sorted(values.items(), key=lambda one: one[0])), None]
    return Region(tuple(Interval(low, False, high, False) for low, high in pairwise(ends)), letter)


def _is_punctured(region: Region) -> bool:
    """Whether a region is the line without some points."""
    ends = [(one.high, other.low) for one, other in pairwise(region.intervals)]
    return (
        bool(ends)
        and region.intervals[0].low is None
        and region.intervals[-1].high is None
        and all(high == low for high, low in ends)
    )


def _end(text: str) -> Node | Literal["infinite", "unread"]:
    if re.fullmatch(r"[+-]?\s*\\infty", text):
        return "infinite"
    try:
        return parse_expression(text)
    except NotAnExpression:
        return "unread"


def _is_an_end(end: object) -> bool:
    return end == "infinite" or (isinstance(end, tuple) and not symbols(end))


def is_constant(member: str) -> bool:
    """Whether a letter has a value of its own."""
    return member in ("e", "\\pi", "pi")
