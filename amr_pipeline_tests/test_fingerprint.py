"""Stable identities: equal content, equal hash; no identity, no hash."""

import math
import subprocess
import sys
from dataclasses import dataclass, field, make_dataclass
from enum import Enum, StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.fingerprint import (
    IDENTITY_WHEN_SET,
    NOT_IDENTITY,
    UnstableIdentityError,
    canonical_json,
    content_id,
    files_digest,
    fingerprint,
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    number: float = 1.0
    replicas: int = field(default=1, metadata=NOT_IDENTITY)


@dataclass(frozen=True, kw_only=True)
class OtherRow:
    name: str
    number: float = 1.0


class Plain(Enum):
    ONE = "one"


class Text(StrEnum):
    ONE = "one"


@given(plain)
def test_equal_values_have_equal_fingerprints(value):
    copy = [*value] if isinstance(value, list) else value
    assert fingerprint(value) == fingerprint(copy)
    assert len(fingerprint(value)) == 16


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_order_of_a_mapping_does_not_matter(value):
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


@given(st.lists(plain, min_size=2, max_size=2, unique_by=canonical_json))
def test_order_of_arguments_matters(values):
    first, second = values
    assert fingerprint(first, second) != fingerprint(second, first)


@given(plain, plain)
def test_different_values_differ(first, second):
    assert (canonical_json(first) == canonical_json(second)) == (fingerprint(first) == fingerprint(second))


def test_true_and_one_differ_and_so_do_one_and_one_point_zero():
    assert len({fingerprint(True), fingerprint(1), fingerprint(1.0), fingerprint("1")}) == 4


def test_rows_of_different_types_with_equal_fields_differ():
    assert fingerprint(Row(name="a")) != fingerprint(OtherRow(name="a"))


def test_a_field_that_is_not_identity_changes_nothing_and_others_do():
    assert fingerprint(Row(name="a", replicas=8)) == fingerprint(Row(name="a"))
    assert fingerprint(Row(name="a", number=2.0)) != fingerprint(Row(name="a"))


def test_a_field_that_came_later_changes_nothing_until_it_is_set():
    def grown(**values: object) -> str:
        row = make_dataclass(
            "OtherRow",
            [("name", str), ("number", float, 1.0), ("later", object, field(default=None, metadata=IDENTITY_WHEN_SET))],
            frozen=True,
            kw_only=True,
        )
        return fingerprint(row(**values))

    assert grown(name="a") == fingerprint(OtherRow(name="a"))
    assert len({grown(name="a"), grown(name="a", later=0), grown(name="a", later=1)}) == 3


def test_an_enum_is_its_value():
    assert fingerprint(Plain.ONE) == fingerprint(Text.ONE) == fingerprint("one")


def test_bytes_are_hashed_by_content_and_are_not_text():
    assert fingerprint(b"abc") == fingerprint(bytes([97, 98, 99]))
    assert fingerprint(b"abc") != fingerprint("abc")


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, {1, 2}, object(), {1: "a"}, len, Row, [{"deep": {3}}], lambda: None]
)
def test_what_has_no_identity_is_refused(value):
    with pytest.raises(UnstableIdentityError, match="identity"):
        fingerprint(value)


def test_pinned_values_so_that_a_changed_algorithm_is_noticed():
    assert fingerprint("a", 1, None) == "0ae764bffd3a17b6"
    assert content_id("query", "user: 1 + 1") == "0eb594fd88be1df99ee17cfd99ef6e1a"


def test_the_same_in_another_process_with_another_hash_seed():
    program = "from amr_pipeline.fingerprint import fingerprint; print(fingerprint({'b': 1, 'a': ['x', 2.5]}))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {fingerprint({"b": 1, "a": ["x", 2.5]})}


@given(st.lists(st.text() | st.integers(), min_size=1, max_size=4), st.lists(st.text() | st.integers(), max_size=4))
def test_content_ids_are_32_hex_digits_and_injective(first, second):
    assert len(content_id(*first)) == 32
    assert int(content_id(*first), 16) >= 0
    assert (first == second) == (content_id(*first) == content_id(*second))


def test_parts_do_not_run_together():
    assert content_id("ab", "c") != content_id("a", "bc")
    assert content_id("1") != content_id(1)


def test_a_files_digest_does_not_depend_on_the_folder_or_the_order(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("alpha")
        (tmp_path / folder / "b.txt").write_text("beta")
    one = files_digest([tmp_path / "one" / "a.txt", tmp_path / "one" / "b.txt"])
    two = files_digest([tmp_path / "two" / "b.txt", tmp_path / "two" / "a.txt"])
    assert one == two
    assert one.startswith("sha256:")


@pytest.mark.parametrize("change", [("a.txt", "alphabet"), ("c.txt", "alpha")])
def test_a_files_digest_changes_with_a_byte_or_a_name(tmp_path, change):
    name, text = change
    (tmp_path / "a.txt").write_text("alpha")
    before = files_digest([tmp_path / "a.txt"])
    (tmp_path / name).write_text(text)
    assert files_digest([tmp_path / name]) != before


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        files_digest([tmp_path / "absent"])
