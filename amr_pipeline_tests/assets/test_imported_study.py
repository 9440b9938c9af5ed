"""Real responses that nobody here wrote, through the whole graph."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.studies.imported import study
from amr_pipeline.studies.study import StudyError
from benchmarks.agreement import agreements

IMPORTED = {"gsm8k": 5276, "math": 800, "prime-rl": 112, "humaneval": 492, "ifeval": 60}
LEAST_AGREEMENT = {"gsm8k": 0.999, "math": 0.97, "humaneval": 0.985, "ifeval": 0.95}
"""With the labels that came with the responses; the README lists where they differ."""

MISLABELLED = (
    'def sum_squares(lst): """You are given a list of numbers. Yo',
    'def words_in_sentence(sentence): """ You are given a string ',
    'def x_or_y(n, x, y): """A simple program which should return',
)
"""HumanEval/133, 143 and 150, labelled solved: the solutions use `math` and `is_prime` without importing or defining
them."""


def test_parameters_are_checked():
    with pytest.raises(StudyError, match="root"):
        study({})
    with pytest.raises(StudyError, match="am40m"):
        study({"root": "/x", "set": "nothing"})
    assert {row.name for row in study({"root": "/x", "set": "am40m"}).sources} == {
        "math",
        "code",
        "science",
        "if",
        "other",
    }


@pytest.mark.real_data
@pytest.mark.timeout(2400)
def test_every_imported_response_is_graded_or_undecided_with_a_cause(real_data: Path, tmp_path: Path):
    environment = {
        **os.environ,
        "AMR_HOME": str(tmp_path),
        "AMR_STUDY": "imported",
        "AMR_STUDY_PARAMETERS": f"root={real_data},set=all",
        "PYTHONWARNINGS": "ignore",
    }
    environment.pop("DAGSTER_HOME", None)
    done = subprocess.run(
        [sys.executable, "-m", "amr_pipeline.command_line", "demo"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows, store = study({"root": str(real_data), "set": "all"}), TableStore(str(tmp_path / "tables"))
    verdicts = store.read("verdicts", stored_partitions(rows, "verdicts"))
    for prefix, count in IMPORTED.items():
        mine = verdicts.filter(verdicts["distiller"].str.starts_with(prefix))
        assert mine.height == count
        assert not mine.filter((mine["verdict"] == "undecided") & mine["cause"].is_null()).height
    measured = agreements(store, str(real_data))
    for name, least in LEAST_AGREEMENT.items():
        assert measured[name].share >= least, measured[name].disagreements
        assert measured[name].undecided == 0
    assert measured["humaneval"].compared == IMPORTED["humaneval"]
    assert sorted(one[:4] for one in measured["humaneval"].disagreements) == [
        ("humaneval-text-davinci-003", 0, start, True) for start in MISLABELLED
    ]
    unfinished = verdicts.filter(verdicts["distiller"] == "prime-rl")
    assert unfinished.filter(unfinished["verifier"] == "math_answers/truncated").height == 52
