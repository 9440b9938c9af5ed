import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.regrading import Version, flip_counts, regrades, subset_changes, tier_changes
from amr_pipeline.verdicts.ledger import flips
from amr_pipeline_tests.verdict_rows import query, response, verdicts

A, B, C = {"math": "m1", "code": "c1"}, {"math": "m2", "code": "c1"}, {"math": "m2", "code": "c2"}


def history(*verifiers: dict[str, str] | None, table: str = "verdicts", partition: str = "weak|00") -> list[Version]:
    return [
        Version(table=table, partition=partition, number=number, created_at=f"2025-01-0{number}", verifiers=one)
        for number, one in enumerate(verifiers, start=1)
    ]


def numbers(pairs: list[tuple[Version, Version]]) -> list[tuple[int, int]]:
    return [(before.number, after.number) for before, after in pairs]


def test_a_re_grade_lies_between_the_last_version_before_and_the_first_after():
    (found,) = regrades([history(A, A, B, B)])
    assert found.categories == ("math",)
    assert numbers(found.of("verdicts")) == [(2, 3)]
    assert regrades([history(A, A), history(), history(B)]) == []


def test_versions_made_half_way_are_passed_over():
    (found,) = regrades([history(A, None, None, B, table="difficulty", partition="00")])
    assert numbers(found.of("difficulty")) == [(1, 4)]


def test_partitions_of_one_change_are_one_re_grade_and_the_latest_comes_first():
    found = regrades([history(A, B, C), history(A, A, B, partition="weak|01"), history(A, B, table="subsets")])
    assert [one.categories for one in found] == [("code",), ("math",)]
    assert len(found[1].of("verdicts")) == 2
    assert len(found[1].of("subsets")) == 1
    assert found[1].begun_at == "2025-01-02"


def test_going_back_is_a_re_grade_of_its_own():
    back, forth = regrades([history(A, B, A)])
    assert (back.before, back.after) == (B, A)
    assert (forth.before, forth.after) == (A, B)
    again, _, first = regrades([history(A, B, A, B), history(A, B, A, partition="weak|01")])
    assert numbers(again.of("verdicts")) == [(3, 4)]
    assert numbers(first.of("verdicts")) == [(1, 2), (1, 2)]


def test_flips_are_counted_by_verifier_and_direction():
    before = verdicts([(query(0), "weak", [1.0, 0.0, 0.0, None])], fingerprint="old")
    after = verdicts([(query(0), "weak", [0.0, 1.0, 1.0, 1.0])], fingerprint="new")
    counted = flip_counts(flips(before, after))
    assert counted.drop("category", "verifier").rows() == [("failed", "passed", 2, 1), ("passed", "failed", 1, 1)]


def graded(tiers: dict[tuple[str, str], str]) -> pl.DataFrame:
    rows = [
        dict.fromkeys(tables.DIFFICULTY.schema)
        | {"query_id": name, "distiller": who, "tier": tier, "category": "math", "pass_rate": 0.5}
        for (name, who), tier in tiers.items()
    ]
    return pl.DataFrame(rows, schema=tables.DIFFICULTY.schema)


def test_tiers_change_only_for_rows_on_both_sides():
    before = graded({("q1", "joint"): "easy", ("q2", "joint"): "hard", ("gone", "joint"): "hard"})
    after = graded({("q1", "joint"): "medium", ("q2", "joint"): "hard", ("new", "joint"): "easy"})
    assert tier_changes(before, after).select("query_id", "tier_before", "tier_after").rows() == [
        ("q1", "easy", "medium")
    ]


def subset(ids: set[int]) -> pl.DataFrame:
    rows = [
        dict.fromkeys(tables.SUBSETS.schema)
        | {"selection_recipe": "stage1", "response_id": response(query(index), "weak", 0), "query_id": query(index)}
        for index in ids
    ]
    return pl.DataFrame(rows, schema=tables.SUBSETS.schema)


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_before_plus_entering_minus_leaving_is_after(before: set[int], after: set[int]):
    changed = subset_changes(subset(before), subset(after))
    names = {change: set(changed.filter(pl.col("change") == change)["response_id"]) for change in ("enters", "leaves")}
    old, new = (set(subset(ids)["response_id"]) for ids in (before, after))
    assert (old - names["leaves"]) | names["enters"] == new
    assert names["leaves"] <= old
    assert not names["enters"] & old
