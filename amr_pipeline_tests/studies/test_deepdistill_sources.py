"""Every source the paper names has a row, and none lets a benchmark in by the front door."""

import re
from collections import Counter

import pytest

from amr_pipeline.categories import Category
from amr_pipeline.sources.records import Raw, UnreadableRowError, first_group, query_row
from amr_pipeline.studies.deepdistill_sources import LAST_BOXED, SOURCES
from amr_pipeline.studies.study import HubDataset

NAMED = {
    Category.MATH: "OpenR1-Math Big-Math full59K NuminaMath MetaMathQA 2023_amc_data DeepMath AIME_1983_2024",
    Category.CODE: "Eurus DeepCoder KodCode code_generation codeforces-cots verifiable-coding opc-sft "
    "OpenThoughts-114k-Code AceCode",
    Category.SCIENCE: "task_mmmlu chemistry_qa Nemotron LOGIC-701 NCERT_Physics_11th NCERT_Physics_12th "
    "NCERT_Chemistry_11th NCERT_Chemistry_12th NCERT_Biology_11th NCERT_Biology_12th logicLM",
    Category.INSTRUCTION_FOLLOWING: "Nemotron tulu-3 if_eval_like autoif",
    Category.CONVERSATION: "Infinity OpenHermes tulu-3 ultrachat evol OpenOrca natural_reasoning FLAN",
}


def address(row) -> str:
    return row.reads.repository if isinstance(row.reads, HubDataset) else row.reads.path


@pytest.mark.parametrize("category", Category)
def test_every_source_that_the_paper_names_has_a_row(category):
    found = " ".join(address(row) for row in SOURCES if row.category is category)
    assert [name for name in NAMED[category].split() if name.lower() not in found.lower()] == []


def test_names_and_addresses_are_unique():
    assert max(Counter(row.name for row in SOURCES).values()) == 1
    reads = Counter(
        (address(row), getattr(row.reads, "name", None), getattr(row.reads, "split", None)) for row in SOURCES
    )
    assert max(reads.values()) == 1


def test_the_problems_of_aime_2024_are_left_out_with_a_reason():
    aime = next(row for row in SOURCES if row.name == "aime_1983_2023")
    record = {"Year": 2024, "Question": "What is 1 + 1?", "Answer": "2"}
    with pytest.raises(UnreadableRowError, match="left out by the source row"):
        query_row(Raw(place="row 0", record=record), aime)
    kept = query_row(Raw(place="row 0", record=record | {"Year": 2023}), aime)
    assert (kept["reference"], kept["category"]) == ("2", "math")


def test_a_reference_is_the_last_box_of_a_worked_solution():
    solution = r"So \boxed{1} first, then \boxed{\frac{1}{\sqrt{2}}} follows."
    assert first_group(LAST_BOXED, solution) == r"\frac{1}{\sqrt{2}}"
    assert first_group(LAST_BOXED, "no box") is None


def test_a_reference_is_what_follows_the_announcement():
    row = next(row for row in SOURCES if row.name == "meta_math_qa")
    assert first_group(row.columns.reference_pattern, "So it is 7.\nThe answer is: 7 apples\n") == "7 apples"


def test_licences_are_identifiers_or_unknown():
    assert {row.licence for row in SOURCES} == {"unknown", "Apache-2.0", "MIT", "CC-BY-NC-4.0", "ODC-By-1.0"}


def test_revisions_are_commits_or_not_known():
    revisions = [row.reads.revision for row in SOURCES if isinstance(row.reads, HubDataset)]
    assert all(revision is None or re.fullmatch("[0-9a-f]{40}", revision) for revision in revisions)
