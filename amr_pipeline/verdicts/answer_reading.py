r"""Reading the kind of an answer from its text.

Every reader is given a text and returns a form, or None where it is not that kind. What a reader is not sure of is
`Opaque`: symbolic algebra may understand it.
"""

import re
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Literal

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
from amr_pipeline.verdicts.answer_regions import (
    NAME,
    all_unequal,
    both_hold,
    inequality,
    interval,
    line_without,
    relation,
)
from amr_pipeline.verdicts.answer_text import nesting, open_brackets, plain_answer, plain_words, split_outside
from amr_pipeline.verdicts.expression_values import expressions_agree
from amr_pipeline.verdicts.expressions import Node, NotAnExpression, parse_expression, renamed, symbols
from amr_pipeline.verdicts.numerals import NUMBER_WORDS, numeral
from amr_pipeline.verdicts.quantities import is_single_letter, unit_of

DEEPEST_NESTING = 12
"""Brackets inside one another that a form may have; forms are read recursively."""

AN_INTEGER = "\\Z"
"""Name of a letter that stands for any integer."""

_OVER_INTEGERS = re.compile(
    r"(.+?)[,;(]?\s*(?:where|for|with)?\s*(?:any|all|every|some|each)?\s*(?<![A-Za-z])([a-z])\s*"
    r"(?:\\in\s*(?:Z|\\Z)|(?:is|being)?\s*(?:an|any)\s+integer)\s*\)?",
    re.DOTALL,
)
_NOTHING = frozenset(
    {"emptyset", "no solution", "no solutions", "no real solution", "no real solutions", "empty set", "no such"}
)
_EVERYTHING = frozenset({"all real numbers", "all reals", "all real x", "all real values", "every real number"})

_OPTION = re.compile(r"\(?([A-Z])\)?[.:]?")
_OPTION_AND_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])[).:])\s*(\S.*)|([A-J])\s+([A-Z][a-z].*)", re.DOTALL)
_NUMERAL_WITH_LETTERS = re.compile(r"(\d[\dA-F]*|[A-F][\dA-F]+)_\{?(1[1-6])\}?")
_MIXED = re.compile(r"(-?)(\d+)\s+(\d+)/(\d+)")
_MATRIX = re.compile(r"\\begin\{([pbB]|small)?(matrix|array)\}(?:\{[^}]*\})?(.*)\\end\{\1\2\}", re.DOTALL)
_RELATIONS = re.compile(r"(=|<|>|\\(?:approx|ne|le|ge|in)(?![A-Za-z]))")
_SET_BUILDER = re.compile(r"([a-z])\s*(?:\\in\s*\(-\\infty,\\infty\))?\s*(?:\\mid(?![A-Za-z])|\||:)\s*(.+)", re.DOTALL)
_RESIDUE = re.compile(r"(.+) \\pmod \{(\w+)\}")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")
_CONNECTIVES = re.compile(r"\s*,?\s*(?:\\?(?:and|or)(?![A-Za-z])|;)\s*")
_CONSTANT = re.compile(r"(?<![A-Za-z\\_{^])[CKck](?![A-Za-z_(^'])")


@lru_cache(maxsize=8192)
def form_of(answer: str) -> Form:
    """The form of an answer, from its text as given."""
    return _form(plain_answer(answer))


def _form(text: str) -> Form:
    if nesting(text) > DEEPEST_NESTING:
        return Opaque(text)
    if found := _OVER_INTEGERS.fullmatch(text):
        return _over_integers(_form(found[1]), found[2])
    for reader in (_words_form, _several, _bracketed, _matrix, _related, _quantity):
        if (found := reader(text)) is not None:
            return found
    words = plain_words(text)
    is_text = words and not re.search(r"[\\^{}=<>|+*/]", text)
    return Words(words) if is_text else Opaque(text)


def _over_integers(form: Form, letter: str) -> Form:
    """An answer for every integer: the letter that runs over them has no name of its own."""
    if isinstance(form, Named):
        return Named(form.name, _over_integers(form.value, letter))
    if isinstance(form, Many):
        return Many(form.kind, tuple(_over_integers(item, letter) for item in form.items))
    return replace(form, node=renamed(form.node, {letter: AN_INTEGER})) if isinstance(form, Quantity) else form


def _words_form(text: str) -> Form | None:
    words = plain_words(text.replace("\\", ""))
    if words in _NOTHING or text in ("\\{\\}", "\\{ \\}"):
        return Region(())
    if words in _EVERYTHING:
        return Region((Interval(None, False, None, False),))
    if found := _OPTION.fullmatch(text):
        return Choice(found[1], None)
    if found := _OPTION_AND_TEXT.fullmatch(text):
        return Choice(found[1] or found[2] or found[4], _form((found[3] or found[5]).strip()))
    if found := _RESIDUE.fullmatch(text):
        with suppress(NotAnExpression):
            return Residue(parse_expression(found[1]), parse_expression(found[2]))
    if words in NUMBER_WORDS:
        return Quantity(("number", Fraction(NUMBER_WORDS[words])), None, False)
    if (found := _NUMERAL_WITH_LETTERS.fullmatch(text)) and (value := numeral(found[1], int(found[2]))) is not None:
        return Quantity(("number", value), None, False)
    if found := _MIXED.fullmatch(text):
        value = int(found[2]) + Fraction(int(found[3]), int(found[4])) if int(found[4]) else None
        return None if value is None else Quantity(("number", -value if found[1] else value), None, False)
    return None


def _several(text: str) -> Form | None:
    """A list at the top level: commas, semicolons, "and", "or", plus-minus."""
    if len(_PLUS_MINUS.findall(text)) == 1 and not re.search(r"[,;]|\\mp", text):
        first, second = (_form(re.sub(r"^\+", "", _PLUS_MINUS.sub(sign, text).strip())) for sign in "+-")
        return Many("list", tuple(_without_name(item) for item in (first, second)))
    joined = ",".join(_split_connectives(text))
    parts = [part for part in split_outside(joined, ",") if part]
    if len(parts) < 2:
        return None
    # A comma of prose is none of a list's.
    if any(len(re.findall(r"(?<!\\)\b[A-Za-z]{4,}", part)) > 3 for part in parts):
        return None
    items = [_form(part) for part in parts]
    if (region := all_unequal(items) or both_hold(items, may_be_either=" or " in f" {text} ")) is not None:
        return region
    if isinstance(items[0], Named) and not any(isinstance(item, Named | Relation) for item in items[1:]):
        items[0] = items[0].value
    return Many("list", tuple(items))


def _split_connectives(text: str) -> list[str]:
    parts, start = [], 0
    for found in _CONNECTIVES.finditer(text):
        if open_brackets(text[: found.start()]) == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def _without_name(form: Form) -> Form:
    return form.value if isinstance(form, Named) else form


def _bracketed(text: str) -> Form | None:
    if (region := line_without(text)) is not None:
        return region
    unions = re.split(r"\\cup(?![A-Za-z])", text)
    if len(unions) > 1:
        parts = [region_of(_form(part.strip())) for part in unions]
        known = [part for part in parts if part is not None]
        return (
            Region(tuple(interval for part in known for interval in part.intervals))
            if len(known) == len(parts)
            else None
        )
    for opening, closing in (("⟨", "⟩"), ("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), ("{", "}")):
        if text.startswith(opening) and text.endswith(closing) and _is_one_group(text):
            return _group(text[len(opening) : -len(closing)].strip(), opening, closing)
    return None


def _is_one_group(text: str) -> bool:
    """Whether the first bracket closes at the very end."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "([{⟨") - (letter in ")]}⟩")
        if depth == 0 and letter in ")]}⟩" and place < len(text) - 1:
            return False
    return True


def _group(inside: str, opening: str, closing: str) -> Form | None:
    if opening == "\\{" and (found := _SET_BUILDER.fullmatch(inside)):
        region = region_of(_form(found[2].strip()))
        if region is not None and region.letter in (None, found[1]):
            return Region(region.intervals, found[1])
    parts = split_outside(inside, ",;")
    if not all(parts) or re.search(r"\\mid|(?<!\\)\|.*[<>=]|:.*[<>=]", inside):
        return Opaque(f"{opening}{inside}{closing}") if parts != [""] else None
    if (opening, closing) in (("(", "]"), ("[", ")")):
        return interval(parts, opening, closing)
    items = tuple(_form(part) for part in parts)
    if len(items) == 1:
        return Many("set", items) if opening == "\\{" else items[0] if opening in "({[" else Many("vector", items)
    kinds: dict[str, Literal["tuple", "square", "set", "vector"]]
    kinds = {"(": "tuple", "[": "square", "\\{": "set", "{": "set", "⟨": "vector"}
    if len(items) == 2 and any(part.strip("+- ") == "\\infty" for part in parts):
        return interval(parts, opening, closing)
    rows = tuple(item.items for item in items if isinstance(item, Many) and item.kind == "square")
    if opening == "[" and len(rows) == len(items) and len({len(row) for row in rows}) == 1:
        return Matrix(rows)
    return Many(kinds[opening], items)


def _matrix(text: str) -> Form | None:
    found = _MATRIX.fullmatch(text)
    if found is None or "\\begin" in found[3]:
        return None
    rows = [
        [cell.strip() for cell in row.split("&")]
        for row in re.split(r"\\\\", found[3].replace("\\hline", ""))
        if row.strip()
    ]
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    cells = tuple(tuple(_form(cell) for cell in row) for row in rows)
    if len(cells) == 1 or len(cells[0]) == 1:
        return Many("vector", tuple(cell for row in cells for cell in row))
    return Matrix(cells)


def _related(text: str) -> Form | None:
    pieces = [piece.strip() for piece in _RELATIONS.split(text)]
    if len(pieces) < 3:
        return _ratio(text)
    members, operators = pieces[::2], pieces[1::2]
    if not all(members):
        return None
    if operators == ["\\in"]:
        region = region_of(_form(members[1]))
        return None if region is None else Region(region.intervals, members[0])
    if set(operators) <= {"=", "\\approx"}:
        return _equation(members, operators)
    return inequality(members, operators)


def _ratio(text: str) -> Form | None:
    parts = split_outside(text, ":")
    if not 2 <= len(parts) <= 4:
        return None
    try:
        items = tuple(parse_expression(part) for part in parts)
    except NotAnExpression:
        return None
    return Ratio(items)


def _equation(members: list[str], operators: list[str]) -> Form | None:
    if len(members) == 2 and not NAME.fullmatch(members[0]):
        if NAME.fullmatch(members[1]) and "\\approx" not in operators:
            return Named(members[1], _form(members[0]))
        found = relation("=", *members)
        if found is None or symbols(found.left) or symbols(found.right):
            return found
    values = members[1:] if NAME.fullmatch(members[0]) else members
    forms = [_form(member) for member in values]
    nodes = [form.node for form in forms if isinstance(form, Quantity) and not symbols(form.node)]
    exact = nodes if "\\approx" not in operators else nodes[: operators.index("\\approx")]
    if any(expressions_agree(exact[0], node, 1e-3) is False for node in exact[1:]):
        return Contradiction()
    # What is before an approximation is the exact value; of a chain of equal members the last is the simplest.
    chosen = forms[-1] if "\\approx" not in operators[len(members) - len(values) :] else forms[0]
    return Named(members[0], chosen) if values is not members else chosen


_SIGNS = r"[A-Za-z%¢]|\^\\circ|\\mu(?![A-Za-z])|\\Omega"
_UNIT = rf"(?:{_SIGNS})(?:{_SIGNS}|[ /.^²³{{}}\d-]|\\cdot(?![A-Za-z]))*"
_UNITS = tuple(
    re.compile(rf"({value}(?:[\d)}}\]!]|\\pi(?![A-Za-z])))\s*({_UNIT})", re.DOTALL)
    for value in (".*?", ".*")  # the first split is wrong in `3e-19 J`
)


def _quantity(text: str) -> Form | None:
    is_decimal = re.search(r"\d?\.\d", text) is not None
    if ("\\circ" in text and not text.endswith("\\circ")) or re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        with suppress(NotAnExpression):  # degrees inside a function are no unit of the whole
            return Quantity(parse_expression(text), None, is_decimal)
    for pattern in _UNITS:
        found = pattern.fullmatch(text)
        if found is not None and _is_unit(found[1], found[2], text):
            try:
                return Quantity(parse_expression(found[1].strip()), found[2].strip(), is_decimal)
            except NotAnExpression:
                return None
    try:
        return Quantity(_without_constant(parse_expression(text)), None, is_decimal)
    except NotAnExpression:
        return None


def _is_unit(value: str, unit: str, text: str) -> bool:
    """Units stand apart from the number, or are signs, or words that cannot be letters of algebra."""
    unit = unit.strip()
    stands_apart = text[len(value) : len(value) + 1] == " "
    if unit_of(unit) is not None:
        return not unit[0].isalpha() or (stands_apart if is_single_letter(unit) else True)
    return bool(re.fullmatch(r"[A-Za-z]{3,}[A-Za-z .-]*", unit)) and stands_apart


def _without_constant(node: Node) -> Node:
    """An antiderivative's constant under one name, whichever it was given."""
    if node[0] == "add" and len(node) > 2:
        last = node[-1]
        if last[0] == "symbol" and last[1] in ("C", "K", "c") and last[1] not in symbols(("add", *node[1:-1])):
            return (*node[:-1], ("symbol", "C"))
    return node
