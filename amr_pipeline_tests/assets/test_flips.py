"""A verifier changes, the stored study is re-graded, and the flip report says what that did."""

from collections.abc import Iterator

import pytest

from amr_pipeline.assets.flips import report
from amr_pipeline.studies.study import InstructionVerifier
from amr_pipeline_tests.assets.conftest import undone
from amr_pipeline_tests.assets.judged import Stored, instruction_study

BEFORE = ("frequent_ngrams", "response_quality", "verdicts", "difficulty", "subsets", "flip_report")
AFTER = ("verdicts", "difficulty", "subsets", "flip_report")


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    told = Stored(tmp_path_factory.mktemp("flips"), instruction_study())
    told.walk(BEFORE)
    return told


@pytest.fixture
def stored(walked: Stored) -> Iterator[Stored]:
    with undone(walked.deployment.home):
        yield walked


def page_of(stored: Stored) -> str:
    return stored.store.files.read("reports/flip_report.html").decode()


def test_before_any_change_the_page_says_so_and_owes_nothing(stored: Stored):
    assert "No verifier has changed" in page_of(stored)
    assert stored.walk(BEFORE) == []


def test_a_re_grade_is_reported_with_flips_tiers_and_rows(stored: Stored):
    lenient = instruction_study(verifiers=(InstructionVerifier(reading="loose"),))
    assert stored.walk(AFTER, lenient) == list(AFTER)
    metadata = report(lenient, stored.platform).metadata or {}
    # Two distillers, two shards, three queries: the second of four passes is followed when read loosely.
    assert (metadata["flips"], metadata["responses compared"], metadata["re-grades"]) == (12, 48, 1)
    assert (
        "instruction_constraints/loose | failed to passed | 12 | 6" in metadata["flips by verifier and direction"].value
    )
    assert "| instruction_following | medium | easy | 6 |" in metadata["queries that changed tier"].value
    assert "| stage1 | instruction_following | enters | 6 |" in metadata["rows that enter or leave a subset"].value
    page = page_of(stored)
    assert "failed to passed" in page
    assert "Re-grade of instruction_following" in page

    strict = instruction_study(verifiers=(InstructionVerifier(name="strict_again"),))
    stored.walk(AFTER, strict)
    metadata = report(strict, stored.platform).metadata or {}
    assert (metadata["flips"], metadata["re-grades"]) == (12, 2)
    assert "| stage1 | instruction_following | leaves | 6 |" in metadata["rows that enter or leave a subset"].value
    assert "passed to failed" in page_of(stored)
    assert "failed to passed" in page_of(stored), "the re-grade before stays on the page"


def test_half_a_re_grade_moves_no_tier_on_the_page(stored: Stored):
    lenient = instruction_study(verifiers=(InstructionVerifier(reading="loose"),))
    stored.judge("weak|00", study=lenient)
    stored.walk(("difficulty", "subsets"), lenient)
    metadata = report(lenient, stored.platform).metadata or {}
    assert metadata["flips"] == 3
    assert "easy" not in metadata["queries that changed tier"].value
    stored.walk(AFTER, lenient)
    metadata = report(lenient, stored.platform).metadata or {}
    assert metadata["flips"] == 12
    assert "| instruction_following | medium | easy | 6 |" in metadata["queries that changed tier"].value
