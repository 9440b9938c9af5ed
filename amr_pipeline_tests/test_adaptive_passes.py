"""Which passes are due: never fewer than the first, never more than the most, never over the budget, never by order."""

from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amr_pipeline.adaptive_passes import (
    STATES,
    all_spent,
    due_passes,
    is_settled,
    of_cheaper_distillers,
    pass_counts,
    passes_spent,
    replay,
)
from amr_pipeline.studies.contradictions import fewest_to_settle
from amr_pipeline.studies.study import AdaptivePasses
from amr_pipeline_tests.studies.small import WEAK

POLICY = AdaptivePasses(first=4, step=2, most=12, confidence=0.8)
NUM_PASSES = 6

VERDICTS = pl.Schema(
    {
        "query_id": pl.String,
        "pass_index": pl.Int32,
        "verdict": pl.String,
        "cause": pl.String,
        "verifier_fingerprint": pl.String,
    }
)


def counted(*rows: tuple[str, int, int, int, int]) -> pl.DataFrame:
    """query_id, num_asked, num_judged, num_responses, num_passed."""
    names = ["query_id", "num_asked", "num_judged", "num_responses", "num_passed"]
    kinds = {"query_id": pl.String, **dict.fromkeys(names[1:], pl.Int64)}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def due(*rows: tuple[str, int, int, int, int], num_passes: int = NUM_PASSES) -> dict[str, tuple[str, int]]:
    found = due_passes(counted(*rows), POLICY, num_passes)
    return {name: (state, number) for name, state, number in found.select("query_id", "state", "num_due").iter_rows()}


def verdicts_of(**said: str) -> pl.DataFrame:
    """Verdicts of verifier `now`, a letter per pass: p passed, f failed, t timed out, n no reference, - none; in capitals
    of a former verifier."""
    outcomes = {"p": ("passed", None), "f": ("failed", None), "t": ("undecided", "timeout")}
    outcomes["n"] = ("undecided", "no_reference")
    rows = [
        (query, index, *outcomes[letter.lower()], "now" if letter.islower() else "then")
        for query, letters in said.items()
        for index, letter in enumerate(letters)
        if letter != "-"
    ]
    return pl.DataFrame(rows, schema=VERDICTS, orient="row")


def test_passes_are_counted_by_what_todays_verifiers_say_for_good():
    verdicts = verdicts_of(a="ppff", b="p-f", c="pptn", d="PPFF", e="ppFF")
    found = pass_counts(pl.DataFrame({"query_id": list("abcdex")}), verdicts, {"now"})
    assert found.rows() == [
        ("a", 4, 4, 4, 2),
        ("b", 3, 2, 2, 1),  # a gap: asked, not judged
        ("c", 4, 3, 2, 2),  # a timeout is judged again, a missing reference is not
        ("d", 4, 0, 0, 0),  # a former verifier's verdicts say that it was asked, and no more
        ("e", 4, 2, 2, 2),
        ("x", 0, 0, 0, 0),
    ]


def test_each_state_and_what_it_is_due():
    found = due(
        ("new", 0, 0, 0, 0),
        ("late", 4, 3, 3, 1),
        ("all", 4, 4, 4, 4),
        ("none", 4, 4, 4, 0),
        ("half", 4, 4, 4, 2),
        ("blank", 4, 4, 0, 0),
        ("most", 12, 12, 12, 6),
    )
    assert found == {
        "new": ("waiting", 4),
        "late": ("waiting", 4),
        "all": ("settled", 4),
        "none": ("settled", 4),
        "half": ("open", 6),
        "blank": ("without a decision", 4),
        "most": ("exhausted", 12),
    }
    assert {state for state, _ in found.values()} <= STATES.keys()


def test_what_settled_queries_save_goes_to_the_widest_intervals_first_and_then_by_id():
    settled = [(f"s{index}", 4, 4, 4, 4) for index in range(2)]  # they save two passes each
    even, uneven = (6, 6, 6, 3), (6, 6, 6, 2)
    found = due(*settled, ("d", *uneven), ("c", *even), ("b", *even), ("a", 4, 4, 4, 2))
    assert found["a"] == ("open", 6), "within num_passes it lives on its own"
    assert {name: number for name, (_, number) in found.items() if name in "bcd"} == {"b": 8, "c": 8, "d": 6}
    for order in (("c", "b"), ("b", "c")):
        few = due(settled[0], *((name, *even) for name in order))
        assert (few["b"], few["c"]) == (("open", 8), ("open", 6)), "of equal ones the first id"


def test_a_query_that_waits_keeps_its_passes_from_others():
    saved = [(f"s{index}", 4, 4, 4, 4) for index in range(2)]
    assert due(*saved, ("x", 6, 6, 6, 3), ("w", 4, 0, 0, 0))["x"] == ("open", 8)
    assert due(saved[0], ("x", 6, 6, 6, 3), ("w", 0, 0, 0, 0), ("v", 8, 8, 8, 4))["x"] == ("open", 6)


def test_a_budget_that_former_verdicts_spent_is_not_spent_again():
    found = due(("a", 4, 4, 4, 2), ("b", 12, 12, 12, 12), ("c", 4, 4, 4, 2), num_passes=6)
    assert found == {"a": ("open", 4), "b": ("settled", 12), "c": ("open", 4)}, "20 of 18 are spent"


def test_cheaper_distillers_spare_settle_or_hold_back():
    def of(*rows: tuple[str, int, int, bool]) -> pl.DataFrame:
        return pl.DataFrame(
            rows, schema=["query_id", "num_responses", "num_passed", "is_finished"], orient="row"
        ).with_columns(pl.col("num_responses", "num_passed").cast(pl.Int64))

    first = of(("a", 2, 2, True), ("b", 2, 1, True), ("c", 4, 4, True))
    second = of(("a", 2, 2, True), ("b", 2, 1, True), ("c", 2, 2, False))
    cheaper = of_cheaper_distillers([first, second], 0.8)
    assert dict(cheaper.iter_rows()) == {"a": "settled", "b": "open", "c": "waiting"}
    asked = counted(*((name, 0, 0, 0, 0) for name in "abcd"))
    found = due_passes(asked, POLICY, NUM_PASSES, cheaper).select("query_id", "state", "num_due")
    assert found.rows() == [("a", "spared", 0), ("b", "waiting", 4), ("c", "waiting", 0), ("d", "waiting", 4)]
    paid = due_passes(counted(("a", 4, 4, 4, 2)), POLICY, NUM_PASSES, cheaper)
    assert paid["num_due"].to_list() == [4], "what was asked before stays"


def judged_counts(asked: int) -> st.SearchStrategy[tuple[int, int, int, int]]:
    return st.integers(0, asked).flatmap(
        lambda judged: st.integers(0, judged).flatmap(
            lambda decided: st.integers(0, decided).map(lambda passed: (asked, judged, decided, passed))
        )
    )


COUNTS = st.lists(st.integers(0, POLICY.most).flatmap(judged_counts), min_size=1, max_size=12).map(
    lambda rows: counted(*((f"{index:02d}", *row) for index, row in enumerate(rows)))
)


@given(COUNTS, st.integers(4, 12), st.randoms())
def test_what_is_due_keeps_its_bounds_whatever_is_known(counts: pl.DataFrame, num_passes: int, order):
    found = due_passes(counts, POLICY, num_passes)
    held = counts.select(pl.max_horizontal("num_asked", pl.lit(POLICY.first))).to_series()
    assert (found["num_due"] >= held).all(), "never fewer than the first, never fewer than were asked"
    assert (found["num_due"] <= POLICY.most).all()
    assert found["num_due"].sum() <= max(num_passes * counts.height, held.sum()), "the budget is kept"
    quiet = found.filter(pl.col("state") != "open")
    assert quiet["num_due"].equals(held.filter(found["state"] != "open")), "only an open query is due more"
    places = list(range(counts.height))
    order.shuffle(places)
    assert due_passes(counts[places], POLICY, num_passes).sort("query_id").equals(found)


MATRIX = st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=10)


def known(outcomes: list[list[bool]]) -> pl.DataFrame:
    rows = [(f"{place:02d}", index, one) for place, query in enumerate(outcomes) for index, one in enumerate(query)]
    return pl.DataFrame(
        rows, schema={"query_id": pl.String, "pass_index": pl.Int32, "passed": pl.Boolean}, orient="row"
    )


@settings(max_examples=50)
@given(MATRIX, st.integers(5, 12), st.randoms())
def test_rounds_end_within_the_budget_and_whatever_the_order(outcomes: list[list[bool]], num_passes: int, order):
    passed = known(outcomes)
    found = replay(passed, POLICY, num_passes)
    assert found["num_asked"].is_between(POLICY.first, POLICY.most).all()
    assert found["num_asked"].sum() <= num_passes * len(outcomes)
    assert found["num_due"].equals(found["num_asked"]), "nothing is left due"
    early = found.filter((pl.col("num_asked") < num_passes) & (pl.col("state") != "settled"))
    assert early.is_empty(), "an open query has as many passes as a fixed number would give it"
    places = list(range(passed.height))
    order.shuffle(places)
    assert replay(passed[places], POLICY, num_passes).equals(found)
    again = due_passes(found.drop("state", "num_due"), POLICY, num_passes)
    assert again.equals(found), "while verdicts do not change, nothing is owed again"


def test_the_fewest_passes_that_settle_a_tier_are_those_of_the_interval():
    for confidence in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99):
        fewest = fewest_to_settle(confidence)
        numbers = counted(*((str(n), n, n, n, passed) for n in range(1, fewest + 1) for passed in range(n + 1)))
        settled = numbers.filter(is_settled(confidence))
        assert settled.select("num_responses", "num_passed").rows() == [(fewest, 0), (fewest, fewest)]
    assert fewest_to_settle(0.8) == 3
    assert fewest_to_settle(0.95) == 7


def test_what_was_spent_saved_and_moved():
    weak = replace(WEAK, num_passes=4, passes_policy=AdaptivePasses(first=3, step=1, most=8, confidence=0.8))
    queries = pl.DataFrame({"query_id": ["early", "moved", "same", "unasked"]})
    verdicts = verdicts_of(early="ppp", moved="ppfffffff"[:8], same="pfpfpf")
    found = passes_spent(queries, verdicts, {"now"}, weak)
    before, after = found.pop("before"), found.pop("after")
    assert found == {
        "queries": 4,
        "fixed": 16,
        "spent": 17,
        "saved": -1,
        "not asked": 1,
        "settled early": 1,
        "given more": 2,
        "moved": 1,
    }
    assert isinstance(before, float)
    assert isinstance(after, float)
    assert after < before
    nothing = passes_spent(queries, verdicts.clear(), {"now"}, weak)
    assert (nothing["spent"], nothing["before"]) == (0, None)
    assert all_spent([nothing]) == nothing
    shards = [(["early", "moved"], verdicts), (["same", "unasked"], verdicts), ([], verdicts)]
    parts = [
        passes_spent(
            pl.DataFrame({"query_id": names}, schema=queries.schema),
            rows.filter(pl.col("query_id").is_in(names)),
            {"now"},
            weak,
        )
        for names, rows in shards
    ]
    whole = all_spent(parts)
    assert whole | {"before": None, "after": None} == found | {"before": None, "after": None}
    assert whole["before"] == pytest.approx(before)
    assert whole["after"] == pytest.approx(after)


def test_a_policy_only_adds_to_the_identity_of_rows_that_have_one():
    from amr_pipeline.fingerprint import canonical, fingerprint

    assert "passes_policy" not in str(canonical(WEAK))
    deep = replace(WEAK, passes_policy=POLICY)
    assert fingerprint(deep) != fingerprint(WEAK)
    assert deep.distiller_fingerprint == WEAK.distiller_fingerprint, "what it writes in a pass is the same"
    with pytest.raises(AssertionError):
        passes_spent(pl.DataFrame({"query_id": []}), verdicts_of(), {"now"}, WEAK)
