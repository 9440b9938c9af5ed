"""The data dictionary as people read it: markdown made from `tables.py`, for the README and release cards.

Belongs here: laying the dictionary out, and putting it between the markers of a page. Does not belong here: what a
column means (`tables.py`). `python -m amr_pipeline.report.dictionary README.md` brings a page up to date.
"""

import sys
from pathlib import Path

from amr_pipeline.report.summary import markdown_table
from amr_pipeline.tables import TABLES, Column

BEGIN, END = "<!-- tables:begin -->", "<!-- tables:end -->"
"""What a page holds around the dictionary; everything between them is replaced."""


def markdown_dictionary() -> str:
    """Two markdown tables: every table with its grain and key, then every column once.

    Columns stand in the order in which the pipeline first writes them, with the tables that hold them. A column
    whose line does not say what null means is never null.

    Raises:
        ValueError: two tables hold columns of one name and different meanings.
    """
    tables = [[f"`{table.name}`", table.grain, ", ".join(table.key)] for table in TABLES.values()]
    columns: dict[str, Column] = {}
    holders: dict[str, list[str]] = {}
    for table in TABLES.values():
        for column in table.columns:
            if columns.setdefault(column.name, column) != column:
                raise ValueError(
                    f"column {column.name!r} of {table.name} means something else in {holders[column.name]}"
                )
            holders.setdefault(column.name, []).append(table.name)
    rows = [
        [f"`{name}`", _type(column), _meaning(column), ", ".join(holders[name])] for name, column in columns.items()
    ]
    return "\n\n".join(
        [
            markdown_table(["table", "one row per", "key"], tables),
            markdown_table(["column", "type", "meaning", "in"], rows),
        ]
    )


def with_dictionary(page: str) -> str:
    """`page` with everything between its two markers replaced by the dictionary of today.

    Raises:
        ValueError: the page does not hold each marker exactly once, in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"the page needs {BEGIN} and, after it, {END}, each once")
    return f"{before}{BEGIN}\n\n{markdown_dictionary()}\n\n{END}{after}"


def _type(column: Column) -> str:
    """Polars' name of the type, short."""
    return str(column.dtype).replace("List(Struct({'role': String, 'content': String}))", "list of {role, content}")


def _meaning(column: Column) -> str:
    """Meaning, range, closed set and, where null may stand, what it says; in one line."""
    parts = [column.meaning]
    if column.values is not None:
        parts.append("one of " + ", ".join(column.values))
    elif column.lowest is not None or column.highest is not None:
        low, high = (_bound(column.lowest), _bound(column.highest))
        parts.append(f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}")
    if column.null is not None:
        parts.append(f"null: {column.null}")
    return "; ".join(parts)


def _bound(value: float | None) -> str:
    """One end of a range, empty where it is open."""
    return "" if value is None else f"{value:g}"


def main(arguments: list[str]) -> None:
    """Bring the pages named on the command line up to date, README.md by default."""
    for name in arguments or ["README.md"]:
        page = Path(name)
        page.write_text(with_dictionary(page.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
