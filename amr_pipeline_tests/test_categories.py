"""Score ranges, pass thresholds, and the published spellings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline import tables
from amr_pipeline.categories import FACTS, PUBLISHED_NAMES, Category, from_published_name, passes, published_name


@pytest.mark.parametrize(
    ("category", "threshold", "highest"),
    [
        (Category.MATH, 0.99, 1.0),
        (Category.CODE, 0.99, 1.0),
        (Category.SCIENCE, 4.99, 5.0),
        (Category.INSTRUCTION_FOLLOWING, 0.99, 1.0),
        (Category.CONVERSATION, 0.7, 1.0),
    ],
)
def test_thresholds_and_ranges_are_the_papers(category, threshold, highest):
    assert FACTS[category].pass_threshold == threshold
    assert FACTS[category].highest_score == highest


@pytest.mark.parametrize("category", Category)
def test_a_score_at_the_threshold_does_not_pass_and_the_highest_does(category):
    assert not passes(category, FACTS[category].pass_threshold)
    assert passes(category, FACTS[category].highest_score)
    assert not passes(category, 0.0)


def test_the_data_dictionary_lists_the_same_categories():
    assert tuple(Category) == tables.CATEGORIES
    assert set(FACTS) == set(Category)


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("instruction follow", Category.INSTRUCTION_FOLLOWING),
        ("IF", Category.INSTRUCTION_FOLLOWING),
        ("instruction following", Category.INSTRUCTION_FOLLOWING),
        ("other", Category.CONVERSATION),
        ("multiturn", Category.CONVERSATION),
        (" Math ", Category.MATH),
    ],
)
def test_published_spellings(name, category):
    assert from_published_name(name) is category


@pytest.mark.parametrize("category", Category)
def test_what_we_publish_reads_back(category):
    assert from_published_name(published_name(category)) is category


def test_published_names_are_the_papers_five():
    assert set(PUBLISHED_NAMES.values()) == {"math", "code", "science", "instruction follow", "other"}


@given(st.text().filter(lambda name: name.strip().lower().replace(" ", "_") not in [*Category]))
def test_an_unknown_name_says_what_was_wanted(name):
    if name.strip().lower() in ("instruction follow", "if", "other", "multiturn", "multi-turn"):
        return
    with pytest.raises(ValueError, match="wanted one of: math, code"):
        from_published_name(name)
