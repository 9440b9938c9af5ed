"""The data dictionary keeps its own promises and finds rows that do not."""

import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.tables import TABLES, Column, Table, TableMismatchError
from amr_pipeline.verdicts.verifier import Cause, Outcome

SMALL = Table(
    name="small",
    grain="thing",
    key=("thing",),
    columns=(
        Column(name="thing", dtype=pl.String, meaning="which"),
        Column(name="count", dtype=pl.Int32, meaning="how many", lowest=0, highest=10),
        Column(name="share", dtype=pl.Float64, meaning="of all", null="not known", lowest=0.0, highest=1.0),
        Column(name="kind", dtype=pl.String, meaning="one of two", values=("a", "b")),
    ),
)


def small(**changed: object) -> pl.DataFrame:
    columns = {"thing": ["x", "y"], "count": [1, 2], "share": [0.5, None], "kind": ["a", "b"]}
    return pl.DataFrame(columns | changed)


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_table_is_keyed_by_columns_it_has_and_says_what_each_means(table):
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert table.key
    assert set(table.key) <= set(names)
    assert table.grain
    assert all(column.meaning for column in table.columns)
    assert all(column.null is None for column in table.columns if column.name in table.key)


def test_a_column_name_means_the_same_in_every_table_that_holds_it():
    seen: dict[str, Column] = {}
    for table in TABLES.values():
        for column in table.columns:
            assert seen.setdefault(column.name, column) == column, f"{column.name} in {table.name}"


def test_closed_sets_are_those_of_the_verdict_vocabulary():
    assert tuple(Outcome) == tables.OUTCOMES
    assert tuple(Cause) == tables.CAUSES


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_an_empty_frame_conforms_and_breaks_nothing(table):
    empty = table.empty()
    assert table.conform(empty).schema == table.schema
    assert table.violations(empty) == {}


def test_conform_orders_columns_and_casts_types():
    shuffled = small().select("kind", "share", "count", "thing")
    conformed = SMALL.conform(shuffled)
    assert conformed.schema == SMALL.schema
    assert conformed.get_column("count").to_list() == [1, 2]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (small().drop("kind"), r"missing columns \['kind'\]"),
        (small(extra=[1, 2]), r"superfluous columns \['extra'\]"),
        (small(count=["one", "two"]), "small"),
        (small(count=[1, 2**40]), "small"),
        (small(count=[1.0, 2.5]), r"columns \['count'\] hold fractions"),
    ],
)
def test_conform_refuses_what_would_lose_something(frame, message):
    with pytest.raises(TableMismatchError, match=message):
        SMALL.conform(frame)


def test_whole_floats_are_integers():
    assert SMALL.conform(small(count=[1.0, 2.0])).get_column("count").to_list() == [1, 2]


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"thing": ["x", "x"]}, {"repeated key": 1}),
        ({"thing": ["x", None]}, {"null thing": 1}),
        ({"count": [-1, 11]}, {"count < 0": 1, "count > 10": 1}),
        ({"share": [1.5, -0.5]}, {"share > 1.0": 1, "share < 0.0": 1}),
        ({"kind": ["c", "d"]}, {"kind outside its values": 2}),
        ({"share": [None, None]}, {}),
    ],
)
def test_violations_are_counted_by_promise(changed, found):
    assert SMALL.violations(SMALL.conform(small(**changed))) == found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_a_violation_even_where_a_number_may_be_absent(value):
    unbounded = Table(
        name="unbounded",
        grain="thing",
        key=("thing",),
        columns=(SMALL.columns[0], Column(name="ratio", dtype=pl.Float64, meaning="any", null="not known")),
    )
    frame = pl.DataFrame({"thing": ["x", "y"], "ratio": [value, None]})
    assert unbounded.violations(frame) == {"ratio not finite": 1}
