import polars as pl
import pytest

from amr_pipeline import tables
from amr_pipeline.verdicts.ledger import current_verdicts, flips, owed_by_cause, owed_verdicts, settled, verdict_rows
from amr_pipeline.verdicts.verifier import Case, Cause, decided, undecided


def verdict_frame(*rows: tuple[str, str, str, float | None, str | None]) -> pl.DataFrame:
    """Rows of (response_id, fingerprint, verdict, score, cause)."""
    return pl.DataFrame(
        [
            {
                "response_id": response,
                "query_id": "q",
                "category": "math",
                "distiller": "d",
                "distiller_fingerprint": "f",
                "pass_index": 0,
                "verdict": verdict,
                "verify_score": score,
                "cause": cause,
                "verifier": "v/typed",
                "verifier_fingerprint": fingerprint,
                "evidence": "",
            }
            for response, fingerprint, verdict, score, cause in rows
        ],
        schema=tables.VERDICTS.schema,
    )


RESPONSES = pl.DataFrame(
    {
        "response_id": ["a", "b", "c"],
        "query_id": ["1", "1", "2"],
        "category": ["math", "math", "code"],
        "distiller": ["d"] * 3,
        "distiller_fingerprint": ["f"] * 3,
        "pass_index": [0, 1, 0],
    },
    schema_overrides={"pass_index": pl.Int32},
)


def test_changed_verifier_owes_exactly_its_category():
    present = verdict_frame(
        ("a", "old", "passed", 1.0, None), ("b", "old", "failed", 0.0, None), ("c", "code1", "passed", 1.0, None)
    )
    owed = owed_verdicts(RESPONSES, present, {"math": "new", "code": "code1"})
    assert owed.get_column("response_id").to_list() == ["a", "b"]
    assert set(owed.get_column("verifier_fingerprint")) == {"new"}


def test_transient_undecided_stays_owed_and_lasting_does_not():
    present = verdict_frame(
        ("a", "m", "undecided", None, "timeout"),
        ("b", "m", "undecided", None, "no_reference"),
        ("c", "k", "failed", 0.0, None),
    )
    owed = owed_verdicts(RESPONSES, present, {"math": "m", "code": "k"})
    assert owed.get_column("response_id").to_list() == ["a"]
    assert settled(present).get_column("response_id").to_list() == ["b", "c"]


def test_category_without_verifier_owes_nothing():
    assert owed_verdicts(RESPONSES, verdict_frame(), {"code": "k"}).get_column("response_id").to_list() == ["c"]


def test_flips_ignore_undecided_and_the_same_verifier():
    before = verdict_frame(
        ("a", "old", "passed", 1.0, None),
        ("b", "old", "undecided", None, "timeout"),
        ("c", "same", "failed", 0.0, None),
    )
    after = verdict_frame(
        ("a", "new", "failed", 0.0, None), ("b", "new", "failed", 0.0, None), ("c", "same", "passed", 1.0, None)
    )
    found = flips(before, after)
    assert found.select("response_id", "verdict_before", "verdict_after").rows() == [("a", "passed", "failed")]


@pytest.mark.parametrize("reverse", [False, True])
def test_verdict_rows_join_by_id_not_by_position(reverse: bool):
    owed = RESPONSES.with_columns(pl.lit("fp").alias("verifier_fingerprint"))
    cases = [
        Case(response_id=name, category="math", messages=(("user", "?"),), text="", finish_reason="stop")
        for name in ("a", "b")
    ]
    verdicts = [decided(cases[0], 1.0, stage="typed"), undecided(cases[1], Cause.CRASHED, stage="typed")]
    rows = verdict_rows(owed, reversed(verdicts) if reverse else verdicts, "math_answers").sort("response_id")
    assert rows.select("response_id", "pass_index", "verdict", "cause").rows() == [
        ("a", 0, "passed", None),
        ("b", 1, "undecided", "crashed"),
    ]
    assert not tables.VERDICTS.violations(rows)


def test_current_verdicts_drop_old_versions():
    frame = verdict_frame(("a", "old", "passed", 1.0, None), ("a", "new", "failed", 0.0, None))
    assert current_verdicts(frame, {"math": "new"}).get_column("verdict").to_list() == ["failed"]


def test_causes_of_owed_verdicts_add_up_to_them():
    present = verdict_frame(
        ("a", "old", "passed", 1.0, None), ("b", "new", "undecided", None, "timeout"), ("b", "old", "failed", 0.0, None)
    )
    today = {"math": "new", "code": "k"}
    assert owed_by_cause(RESPONSES, present, today) == {
        "never judged": 1,
        "its verifier changed": 1,
        "undecided: timeout": 1,
    }
    assert owed_verdicts(RESPONSES, present, today).height == 3
    settled_now = verdict_frame(*((name, "new", "passed", 1.0, None) for name in "ab"), ("c", "k", "failed", 0.0, None))
    assert owed_by_cause(RESPONSES, settled_now, today) == {}
