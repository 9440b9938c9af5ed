"""Row types: identity, lookups, and what a study says about itself."""

import ast
import re
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path

import pytest

import amr_pipeline
from amr_pipeline.categories import Category
from amr_pipeline.studies import study as rows
from amr_pipeline.studies.study import PromptSuffix, Sampling
from amr_pipeline_tests.studies.small import BENCHMARK, FIRST, RECIPE, SAMPLING, STRONG, WEAK, small_study


def test_rows_are_frozen():
    with pytest.raises(FrozenInstanceError):
        WEAK.num_passes = 8


def test_rows_are_looked_up_by_name():
    study = small_study()
    assert study.distiller("strong") is STRONG
    assert study.selection_recipe("stage1") is RECIPE
    assert study.training_recipe("first") is FIRST
    assert study.benchmark("exam") is BENCHMARK
    assert study.verifier(Category.MATH) is study.verifiers[0]
    assert study.verifier(Category.CODE) is None
    with pytest.raises(KeyError):
        study.distiller("absent")


@pytest.mark.parametrize(("num_shards", "last"), [(1, "00"), (4, "03"), (64, "3f")])
def test_shards_are_two_hex_digits_in_order(num_shards, last):
    shards = small_study(num_shards=num_shards).shards
    assert len(shards) == num_shards
    assert shards[-1] == last
    assert list(shards) == sorted(shards)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "models/other"},
        {"revision": "2"},
        {"sampling": Sampling(temperature=0.7, top_p=0.95, max_tokens=100)},
        {"max_model_len": 300},
        {"engine": "transformers"},
        {"engine": "http"},
        {"system_prompt": "Think first."},
        {"prompt_suffixes": (PromptSuffix(category=Category.MATH, text="Box it."),)},
        {"dtype": "float32"},
        {"regeneration": 1},
    ],
)
def test_what_changes_the_text_changes_the_distillers_identity(changed):
    assert replace(WEAK, **changed).distiller_fingerprint != WEAK.distiller_fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "renamed"},
        {"num_passes": 8},
        {"categories": (Category.MATH,)},
        {"tensor_parallel_size": 8},
        {"gpus_per_replica": 16},
        {"mean_response_tokens": 9.0},
    ],
)
def test_what_does_not_change_the_text_keeps_the_identity_so_nothing_is_paid_twice(changed):
    assert replace(WEAK, **changed).distiller_fingerprint == WEAK.distiller_fingerprint


def test_the_identity_is_pinned_so_that_stored_responses_are_found_again():
    assert WEAK.distiller_fingerprint == "37e976c080e6d1d2"
    assert WEAK.sampling == SAMPLING


def test_a_distiller_answers_the_categories_it_names_or_all():
    assert WEAK.answers(Category.CODE)
    only_math = replace(WEAK, categories=(Category.MATH,))
    assert only_math.answers(Category.MATH)
    assert not only_math.answers(Category.CODE)


ROW_TYPES = [kind for kind in vars(rows).values() if isinstance(kind, type) and is_dataclass(kind)]


def test_every_field_of_a_row_decides_something():
    package = Path(amr_pipeline.__file__).parent
    trees = [ast.parse(path.read_text()) for path in package.rglob("*.py") if path.name != "study.py"]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    unread = [f"{kind.__name__}.{field.name}" for kind in ROW_TYPES for field in fields(kind) if field.name not in read]
    # Imported passes are numbered by their order; regenerating is in the identity of what is written, and nowhere else.
    assert set(unread) <= {"ResponseColumns.pass_index", "Distiller.regeneration"}


@pytest.mark.parametrize("kind", ROW_TYPES, ids=lambda kind: kind.__name__)
def test_documented_attributes_are_fields(kind: type):
    _, _, listed = (kind.__doc__ or "").partition("Attributes:\n")
    named = re.findall(r"^ {8}(\w+(?:, \w+)*):", listed, re.MULTILINE)
    assert {name for line in named for name in line.split(", ")} <= {field.name for field in fields(kind)}
