import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.audit import LONGEST_NOTE, agreement, audit_rows, drawn, form, read_human_verdicts
from amr_pipeline_tests.verdict_rows import query, response, verdicts


def judged(passed: int, failed: int, undecided: int = 0) -> pl.DataFrame:
    scores = [1.0] * passed + [0.0] * failed + [None] * undecided
    return verdicts([(query(index), "r1", [score]) for index, score in enumerate(scores)])


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 3), st.integers(1, 7), st.integers(0, 99))
def test_every_stratum_gives_what_it_has_up_to_a_bound_in_any_order_and_any_pieces(
    passed: int, failed: int, undecided: int, piece: int, seed: int
):
    rows = judged(passed, failed, undecided)
    found = drawn([rows], 4)
    sizes = {"passed": passed, "failed": failed, "undecided": undecided}
    assert dict(found.group_by("verdict").len().iter_rows()) == {
        name: min(4, size) for name, size in sizes.items() if size
    }
    assert {(name, sizes[name]) for name in found["verdict"]} == set(
        found.select("verdict", "stratum_responses").rows()
    )
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=seed)
    assert drawn(shuffled.iter_slices(piece), 4).equals(found)


def test_without_verdicts_nothing_is_drawn():
    assert drawn([]).is_empty()
    assert audit_rows(drawn([]), texts(0)).is_empty()


def texts(number: int) -> pl.DataFrame:
    rows = [
        {
            "response_id": response(query(index), "r1", 0),
            "messages": [
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": "x"},
                {"role": "user", "content": "last"},
            ],
            "text": "long " * 1_000 + "end",
            "finish_reason": "stop",
            "reference": "12",
            "test_cases": None,
            "constraints": None,
        }
        for index in range(number)
    ]
    schema = {
        name: {**tables.RESPONSES.schema, **tables.QUERIES.schema}[name]
        for name in ("response_id", "messages", "text", "finish_reason", "reference", "test_cases", "constraints")
    }
    return pl.DataFrame(rows, schema=schema)


def test_a_row_holds_what_a_person_needs_to_disagree():
    rows = audit_rows(drawn([judged(2, 1)]), texts(3))
    assert tables.AUDIT.conform(rows).equals(rows)
    assert not tables.AUDIT.violations(rows)
    first = rows.row(0, named=True)
    assert first["question"] == "user: first\nassistant: x\nuser: last"
    assert first["response_end"].endswith("long end")
    assert len(first["response_end"]) == 2_000
    assert first["reference"] == "12"


def test_the_form_comes_back_filled_in():
    rows = audit_rows(drawn([judged(2, 2)]), texts(4))
    lines = form(rows).splitlines()
    known = set(rows["response_id"])
    untouched = read_human_verdicts(lines, known)
    assert (untouched.left_open, untouched.rows, untouched.rejected) == (4, {}, [])
    filled = [json.dumps({**json.loads(line), "human_verdict": "passed", "note": "I say so"}) for line in lines]
    found = read_human_verdicts(filled, known)
    assert set(found.rows) == known
    assert not tables.HUMAN_VERDICTS.violations(found.frame)
    assert set(found.frame["note"]) == {"I say so"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not a record: list"),
        ("null", "not a record: NoneType"),
        ('{"human_verdict": "passed"}', "unknown response_id: 'None' was in no audit"),
        ('{"response_id": "zz", "human_verdict": "passed"}', "unknown response_id: 'zz' was in no audit"),
        ('{"response_id": ["a"], "human_verdict": "passed"}', "unknown response_id"),
        ('{"response_id": "a", "human_verdict": "maybe"}', "unusable human_verdict: 'maybe'; wanted passed or failed"),
        ('{"response_id": "a", "human_verdict": ["passed"]}', "unusable human_verdict"),
        ('{"response_id": "a", "human_verdict": true}', "unusable human_verdict: 'True'"),
        ('{"response_id": "a", "human_verdict": "passed", "note": 3}', "unusable note: int; wanted text"),
        ('"' + "x" * 1_000_001 + '"', "too long: 1,000,003 characters"),
    ],
)
def test_a_line_that_cannot_be_used_is_rejected_with_its_number_and_reason(line: str, reason: str):
    found = read_human_verdicts(["", '{"response_id": "b", "human_verdict": "failed"}', line], {"a", "b"})
    assert list(found.rows) == ["b"]
    ((number, told),) = found.rejected
    assert number == 3
    assert told.startswith(reason)
    assert sum(found.reasons.values()) == 1


def test_the_first_of_two_lines_on_one_response_counts():
    lines = [f'{{"response_id": "a", "human_verdict": "{verdict}"}}' for verdict in ("passed", "failed")]
    found = read_human_verdicts(lines, {"a"})
    assert found.rows == {"a": ("passed", None)}
    assert found.reasons == {"repeated response_id": 1}


def test_notes_are_cut_and_can_be_written():
    note = "\ud800" + "n" * 5_000
    found = read_human_verdicts([json.dumps({"response_id": "a", "human_verdict": "failed", "note": note})], {"a"})
    kept = found.frame["note"][0]
    assert len(kept) == LONGEST_NOTE
    assert kept.encode()


@given(st.lists(st.text(max_size=40)))
def test_every_line_ends_in_exactly_one_place(lines: list[str]):
    found = read_human_verdicts(lines, {"a"})
    filled = [line for line in lines if line.strip()]
    assert len(found.rows) + found.left_open + len(found.rejected) == len(filled)


def people(outcomes: dict[int, str]) -> pl.DataFrame:
    return pl.DataFrame(
        [(response(query(index), "r1", 0), verdict, None) for index, verdict in outcomes.items()],
        schema=tables.HUMAN_VERDICTS.schema,
        orient="row",
    )


def test_agreement_is_per_stratum_with_an_interval_and_nobody_agrees_with_undecided():
    # Queries 0 to 3 passed, 4 and 5 failed, 6 is undecided; 99 is not judged today.
    found = agreement(
        people({0: "passed", 1: "passed", 2: "failed", 4: "failed", 6: "passed", 99: "passed"}), judged(4, 2, 1)
    )
    rows = {(row["category"], row["verdict"]): row for row in found.iter_rows(named=True)}
    passed, failed, undecided, everything = (
        rows["math", "passed"], rows["math", "failed"], rows["math", "undecided"], rows["all", "all"]
    )  # fmt: skip
    assert (passed["num_judged"], passed["num_agreed"]) == (3, 2)
    assert passed["agreement_low"] < 2 / 3 == passed["agreement"] < passed["agreement_high"]
    assert (failed["agreement"], failed["agreement_high"]) == (1.0, 1.0)
    assert undecided["num_judged"] == 1
    assert undecided["agreement"] is None
    assert (everything["num_judged"], everything["num_agreed"]) == (4, 3)
    assert agreement(people({}), judged(1, 1)).is_empty()
