"""The dictionary on a page is the one in `tables.py`, and nothing else on the page moves."""

import dataclasses

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.report import dictionary


def test_every_table_and_every_column_stands_in_it_once() -> None:
    table_lines, column_lines = (block.splitlines()[2:] for block in dictionary.markdown_dictionary().split("\n\n"))
    assert [line.split("`")[1] for line in table_lines] == list(tables.TABLES)
    names = [line.split("`")[1] for line in column_lines]
    assert len(names) == len(set(names))
    assert set(names) == {column.name for table in tables.TABLES.values() for column in table.columns}


def test_a_line_says_range_closed_set_and_null() -> None:
    lines = dictionary.markdown_dictionary().splitlines()
    score = next(line for line in lines if line.startswith("| `verify_score`"))
    assert "0 to 5" in score
    assert "null: undecided" in score
    verdict = next(line for line in lines if line.startswith("| `verdict`"))
    assert "one of passed, failed, undecided" in verdict
    assert "null" not in verdict


def test_a_line_names_the_tables_that_hold_the_column() -> None:
    seed = next(line for line in dictionary.markdown_dictionary().splitlines() if line.startswith("| `seed`"))
    assert seed.endswith("| responses, benchmark_responses |")


def test_one_name_with_two_meanings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(tables.SEED, dtype=pl.String)
    table = tables.Table(name="other", grain="x", key=("seed",), columns=(other,))
    monkeypatch.setattr(dictionary, "TABLES", {**tables.TABLES, "other": table})
    with pytest.raises(ValueError, match="'seed' of other means something else"):
        dictionary.markdown_dictionary()


def test_only_the_part_between_the_markers_changes() -> None:
    page = f"before\n{dictionary.BEGIN}\nwhat stood here\n{dictionary.END}\nafter\n"
    renewed = dictionary.with_dictionary(page)
    assert renewed.startswith(f"before\n{dictionary.BEGIN}\n\n| table |")
    assert renewed.endswith(f"|\n\n{dictionary.END}\nafter\n")
    assert "what stood here" not in renewed
    assert dictionary.with_dictionary(renewed) == renewed


@pytest.mark.parametrize(
    "page",
    ["nothing", dictionary.BEGIN, dictionary.END + dictionary.BEGIN, 2 * (dictionary.BEGIN + dictionary.END)],
)
def test_a_page_without_exactly_one_pair_of_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="each once"):
        dictionary.with_dictionary(page)


def test_the_command_brings_a_page_up_to_date(tmp_path) -> None:
    page = tmp_path / "PAGE.md"
    page.write_text(f"{dictionary.BEGIN}{dictionary.END}")
    dictionary.main([str(page)])
    assert dictionary.markdown_dictionary() in page.read_text()
