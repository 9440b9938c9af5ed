"""The audit of a stored study: drawn, filled in by a person, imported, and held against today's verifiers."""

import json
from collections.abc import Iterator

import pytest

from amr_pipeline.assets.audit import FORM, PAGE, agreement_now, import_human_verdicts
from amr_pipeline.studies.study import InstructionVerifier
from amr_pipeline_tests.assets.conftest import undone
from amr_pipeline_tests.assets.judged import Stored, instruction_study


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    told = Stored(tmp_path_factory.mktemp("audit"), instruction_study())
    told.walk(("verdicts", "audit"))
    return told


@pytest.fixture
def stored(walked: Stored) -> Iterator[Stored]:
    with undone(walked.deployment.home):
        yield walked


def lines_of(stored: Stored) -> list[dict]:
    return [json.loads(line) for line in stored.store.files.read(FORM).decode().splitlines()]


def test_every_stratum_is_there_with_texts_and_nothing_is_owed_afterwards(stored: Stored):
    rows = stored.store.read("audit", "all")
    assert dict(rows.group_by("verdict").len().iter_rows()) == {"passed": 5, "failed": 5}
    assert set(rows["stratum_responses"]) == {24}
    assert rows["question"].str.contains("without a comma").all()
    assert {line["response_id"] for line in lines_of(stored)} == set(rows["response_id"])
    assert b"strict" in stored.store.files.read(PAGE)
    assert stored.walk(("verdicts", "audit")) == []


def test_a_person_disagrees_and_agreement_follows_todays_verifiers(stored: Stored):
    said: list[str] = []
    # The person reads as the loose verifier does.
    filled = [
        {**line, "human_verdict": "failed" if "One, two" in line["response_end"] else "passed"}
        for line in lines_of(stored)
    ]
    text = [json.dumps(line) for line in filled] + ["{broken", json.dumps({"response_id": "nobody"})]
    assert import_human_verdicts(stored.study, stored.platform, text, said.append)
    told = "\n".join(said)
    assert "10 verdicts taken, 0 left open, 2 lines rejected" in told
    assert "line 11: not JSON" in told
    assert "line 12: unknown response_id: 'nobody'" in told
    strict = {row["verdict"]: row for row in agreement_now(stored.study, stored.platform).iter_rows(named=True)}
    assert strict["passed"]["agreement"] == 1.0
    assert strict["failed"]["agreement"] < 1.0

    lenient = instruction_study(verifiers=(InstructionVerifier(reading="loose"),))
    stored.walk(("verdicts", "audit"), lenient)
    loose = {row["category"]: row for row in agreement_now(lenient, stored.platform).iter_rows(named=True)}
    assert (loose["all"]["num_judged"], loose["all"]["agreement"]) == (10, 1.0)


def test_a_later_verdict_replaces_the_earlier_one_and_ids_of_former_audits_are_known(stored: Stored):
    first = lines_of(stored)[0]["response_id"]
    lenient = instruction_study(verifiers=(InstructionVerifier(reading="loose"),))
    stored.walk(("verdicts", "audit"), lenient)
    for verdict in ("passed", "failed"):
        line = json.dumps({"response_id": first, "human_verdict": verdict, "note": verdict})
        assert import_human_verdicts(lenient, stored.platform, [line], lambda said: None)
    assert stored.store.read("human_verdicts", "all").rows() == [(first, "failed", "failed")]
    assert not import_human_verdicts(lenient, stored.platform, ["{}"], lambda said: None)
