"""A passport laid out for a terminal: sections of facts, tables where there are several of a kind.

Belongs here: layout, and making every value harmless. Does not belong here: what a passport says (`assets.passport`).
"""

from collections.abc import Mapping, Sequence

from amr_pipeline.report.summary import text_table
from amr_pipeline.report.terminal_text import plain

LONGEST_FACT, LONGEST_CELL = 600, 80
"""Characters of one fact on a line of its own, and of one in a table."""

MATCHES_SHOWN = 20
"""Rows that one beginning may mean, before the rest is only counted."""

Passport = Mapping[str, object]
"""`kind`, `id`, then sections: a mapping of facts, a list of equal mappings (a table), or a sentence; None: nothing."""


def passport_text(passport: Passport) -> str:
    """What it is of, and its sections in order; those of which nothing is known say so."""
    title = plain(f"{passport['kind']} {passport['id']}")
    sections = {name: said for name, said in passport.items() if name not in ("kind", "id")}
    return "\n\n".join([title, *(_section(plain(name), said) for name, said in sections.items())])


def match_text(asked: str, matches: Sequence[Mapping[str, str]]) -> str:
    """What an ambiguous beginning may stand for."""
    shown = [[plain(str(value)) for value in match.values()] for match in matches[:MATCHES_SHOWN]]
    more = len(matches) - MATCHES_SHOWN
    left = f"\nand {more:,} more" if more > 0 else ""
    return f"{plain(asked)} may be one of\n{text_table(list(matches[0]), shown)}{left}\ngive more characters of one"


def _section(name: str, said: object) -> str:
    if isinstance(said, Mapping) and said:
        facts = [(plain(str(key)), value) for key, value in said.items()]
        width = max(len(key) for key, _ in facts)
        return "\n".join([name, *(f"  {key.ljust(width)}  {_fact(value, LONGEST_FACT)}" for key, value in facts)])
    if isinstance(said, list) and said:
        return f"{name}\n{_table(said)}"
    return f"{name}: {_fact(said, LONGEST_FACT)}"


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    header = [plain(key) for key in rows[0]]
    cells = [[_cell(value) for value in row.values()] for row in rows]
    return "\n".join(f"  {line}" for line in text_table(header, cells).splitlines())


def _cell(value: object) -> object:
    """Numbers stay numbers, so that they are set to the right."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if value is None or is_number else _fact(value, LONGEST_CELL)


def _fact(value: object, most: int) -> str:
    if value is None or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return plain(", ".join(str(item) for item in value), most)
    if isinstance(value, Mapping):
        return plain(", ".join(f"{key} {item}" for key, item in value.items()), most)
    return plain(str(value), most)
