"""Each guide, followed literally in a fresh clone: its `bash` blocks pasted in order, its servers started as it says.

What a guide tells to click is clicked in `test_deployed_graph`, whose pictures the guides show (`make pictures`). What
wants a container engine or a cluster has no mark, and is not run.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from mlflow.tracking import MlflowClient

from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline_tests.servers import Program, answers, free_ports
from amr_pipeline_tests.test_repository import REPOSITORY, files, name_of

pytestmark = [pytest.mark.engines, pytest.mark.soak, pytest.mark.timeout(3000)]

SOAK = bool(os.environ.get("AMR_SOAK"))

GUIDES = ("using", "extending", "operating")
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOREIGN = ("AMR_", "RAY_", "DAGSTER", "MLFLOW", "AWS", "PYTHON", "MAKE", "VIRTUAL_ENV")


def text_of(guide: str) -> str:
    return (REPOSITORY / "docs" / f"{guide}.md").read_text()


def blocks(guide: str, language: str) -> list[str]:
    """What is pasted; without AMR_SOAK up to the training of a sweep, which `test_deployed_graph` does as well."""
    text = text_of(guide)
    if not SOAK:
        text = text.partition("\n## 4. Compare learning rates\n")[0]
    return [block for named, block in BLOCK.findall(text) if named == language]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The checkout's files and nothing that a run left behind; installed packages are shared."""
    folder = tmp_path / "clone"
    for path in files():
        copied = folder / name_of(path)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)
    (folder / ".venv").symlink_to(REPOSITORY / ".venv")
    return folder


@pytest.fixture
def environment() -> dict[str, str]:
    """A newcomer's: nothing of this project's is set but where its pages listen."""
    dagster, mlflow = free_ports(2)
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**own, "DAGSTER_PORT": str(dagster), "MLFLOW_PORT": str(mlflow)}


def paste(commands: list[str], clone: Path, environment: dict[str, str]) -> str:
    """What one shell says to all of them, in which the first that fails is the last."""
    said = clone.with_name("said")
    with said.open("wb") as output:
        ended = subprocess.run(
            ["bash", "-euo", "pipefail"],
            input="\n".join(commands).encode(),
            cwd=clone,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    text = said.read_text()
    assert ended.returncode == 0, text[-5000:]
    return text


@contextmanager
def served(command: str, clone: Path, environment: dict[str, str]) -> Iterator[None]:
    """A block that stays: both pages answer, until the block ends."""
    addresses = [f"http://127.0.0.1:{environment[name]}" for name in ("DAGSTER_PORT", "MLFLOW_PORT")]
    pages = Program(
        name="make dev",
        command=["bash", "-euo", "pipefail", "-c", command],
        environment=environment,
        log=clone / "served.log",  # a program runs where its log is
        is_ready=lambda: all(map(answers, addresses)),
    )
    pages.start()
    try:
        yield
    finally:
        pages.stop()


def owed_at_last(said: str) -> list[str]:
    """What each asset owes in the last table of `amr status`."""
    rows = said[said.rindex("partitions  current  owed") :].splitlines()[2:]
    return re.findall(r"^\w+ +\d+ +\d+ +(\d+)$", "\n".join(rows), re.MULTILINE)


def test_using_it_four_ways(clone: Path, environment: dict[str, str]) -> None:
    commands, (server,) = blocks("using", "bash"), blocks("using", "bash server")
    study = commands[1]
    paste([commands[0], study], clone, environment)
    with served(server, clone, environment):
        paste([study, commands[2]], clone, environment)
    said = paste([study, *commands[3:]], clone, environment)
    assert "its verifier changed" in said
    store, shards = TableStore(str(clone / "mine" / "tables")), ["00", "01"]
    queries = store.read("queries", shards)
    responses = store.read("responses", [f"{name}|{shard}" for name in ("middle", "weak") for shard in shards])
    assert responses["response_id"].n_unique() == responses.height == 2 * 4 * queries.height
    joint = store.read("difficulty", shards).filter(pl.col("distiller") == "joint")
    assert set(joint["num_responses"] + joint["num_undecided"]) == {8}, "both distillers are in every query's row"
    verdicts = store.read("verdicts", [f"middle|{shard}" for shard in shards]).filter(pl.col("category") == "code")
    assert verdicts["verifier_fingerprint"].n_unique() == 2, "what the former verifier said stays"
    assert set(store.read("subsets", "stage1")["distiller"]) == {"middle", "weak"}
    if not SOAK:
        return
    assert set(owed_at_last(said)) == {"0"}
    runs = MlflowClient(f"sqlite:///{clone / 'mine' / 'mlflow.db'}")
    assert Path(runs.get_model_version_by_alias("mine.stage1-learning-rate", "best").source).is_dir()


def test_extending_it(clone: Path, environment: dict[str, str]) -> None:
    said = paste(blocks("extending", "bash"), clone, environment)
    assert "instruction_constraints/loose" in said, "the passport has the verdicts of both verifiers"
    assert set(owed_at_last(said)) == {"0"}


def test_operating_it(clone: Path, environment: dict[str, str]) -> None:
    said = paste(blocks("operating", "bash"), clone, environment)
    assert "0 broken" in said
    assert set(owed_at_last(said)) == {"0"}


@pytest.mark.parametrize("guide", GUIDES)
def test_pictures_and_files_that_a_guide_shows_exist(guide: str) -> None:
    shown = re.findall(r"\]\((?!http)([^)]+)\)", text_of(guide)) + re.findall(
        r"`((?:amr_pipeline|docs)/[^`]+)`", text_of(guide)
    )
    places = [REPOSITORY / ("docs" if name.startswith("pictures") else "") / name for name in shown]
    assert [str(place) for place in places if not place.exists()] == []
