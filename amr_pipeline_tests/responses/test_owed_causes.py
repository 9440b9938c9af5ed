from dataclasses import replace

import polars as pl

from amr_pipeline.responses.expected import expected_responses, owed_responses
from amr_pipeline.responses.owed_causes import NEVER_WRITTEN, OF_ANOTHER_ROW, owed_by_cause
from amr_pipeline_tests.studies.small import WEAK

QUERIES = pl.DataFrame({"query_id": [f"{index:032x}" for index in range(3)], "category": ["math"] * 3})
ROW = replace(WEAK, num_passes=2)


def stored(row: object, *places: tuple[int, int]) -> pl.DataFrame:
    """What `row` wrote at (query, pass)."""
    every = expected_responses(QUERIES, row).with_columns(  # type: ignore[arg-type]
        distiller_fingerprint=pl.lit(row.distiller_fingerprint)  # type: ignore[attr-defined]
    )
    wanted = [(QUERIES["query_id"][query], index) for query, index in places]
    return every.filter(
        pl.struct("query_id", "pass_index").map_elements(lambda at: (*at.values(),) in wanted, pl.Boolean)
    )


def test_a_changed_row_and_what_nobody_wrote_are_told_apart():
    former = replace(ROW, revision="2")
    present = pl.concat([stored(ROW, (0, 0), (1, 0)), stored(former, (0, 0), (1, 1), (2, 0))])
    assert owed_by_cause(QUERIES, present, ROW) == {NEVER_WRITTEN: 2, OF_ANOTHER_ROW: 2}
    assert owed_by_cause(QUERIES, stored(ROW, *((query, index) for query in range(3) for index in range(2))), ROW) == {}


def test_causes_add_up_to_what_is_owed_also_where_a_policy_says_how_many_passes_are_due():
    due = pl.DataFrame({"query_id": QUERIES["query_id"], "num_due": [1, 2, 0]})
    present = stored(ROW, (1, 0))
    assert owed_by_cause(QUERIES, present, ROW, due) == {NEVER_WRITTEN: 2}
    assert owed_responses(QUERIES, present, ROW, due).height == 2
