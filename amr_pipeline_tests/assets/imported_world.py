"""A study of files in a folder, whose whole graph runs in seconds: imported responses, a verifier without engines.

A response passes when it holds no comma.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.session import Session
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline.studies.loading import load_study
from amr_pipeline.studies.study import Study

STUDY = """
from pathlib import Path
from amr_pipeline.categories import Category
from amr_pipeline.studies.study import *

HERE = Path(__file__).parent
NO_COMMA = Category.INSTRUCTION_FOLLOWING

def columns():
    return QueryColumns(question="q", constraints="c")

def distiller(name):
    return Distiller(
        name=name, model=name, revision="imported", num_passes=NUM_PASSES, max_model_len=1, engine="imported",
        sampling=Sampling(temperature=0.0, top_p=1.0, max_tokens=1), gpus_per_replica=0,
        reads=JsonLines(path=f"{HERE}/{name}.jsonl"), responses_at=ResponseColumns(response="r", question="q"),
    )

NUM_PASSES = 2
NUM_SHARDS = 1
DISTILLERS = ("one", "two")
STUDY = Study(
    name="files",
    title="Responses in files",
    num_shards=NUM_SHARDS,
    sources=(
        Source(
            name="s", reads=JsonLines(path=f"{HERE}/queries.jsonl"), category=NO_COMMA, columns=columns(), licence="MIT"
        ),
    ),
    benchmarks=(),
    query_rules=QueryRules(),
    distillers=tuple(map(distiller, DISTILLERS)),
    quality_rules=QualityRules(require_think=False, highest_perplexity=None),
    verifiers=(InstructionVerifier(),),
    selection_recipes=(
        SelectionRecipe(
            name="uneven", distillers=DISTILLERS, seed=1,
            rules=(CategoryRule(category=NO_COMMA, lowest_score=0.5, cv_threshold=0.05),),
        ),
    ),
    training_recipes=(),
)
"""

CONSTRAINTS = [{"id": "punctuation:no_comma", "kwargs": {}}]
Answers = Mapping[str, Iterable[str]]
"""Question to the responses of its passes."""


@dataclass(frozen=True)
class ImportedWorld:
    """The study's files, its tables, and the walk over what is owed."""

    folder: Path

    def __post_init__(self) -> None:
        self.file.write_text(STUDY)

    @property
    def file(self) -> Path:
        return self.folder / "files.py"

    @property
    def study(self) -> Study:
        return load_study(str(self.file), {})

    @property
    def store(self) -> TableStore:
        return TableStore(str(self.folder / "home" / "tables"))

    def ask(self, *questions: str) -> None:
        rows = [{"q": question, "c": json.dumps(CONSTRAINTS)} for question in questions]
        (self.folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(self, distiller: str, answers: Answers) -> None:
        rows = [{"q": question, "r": text} for question, texts in answers.items() for text in texts]
        (self.folder / f"{distiller}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def change(self, before: str, after: str) -> None:
        """Edit the study file, as its author would."""
        text = self.file.read_text()
        assert before in text
        self.file.write_text(text.replace(before, after))

    def session(self, variables: Mapping[str, str] | None = None) -> "Opened":
        return Opened(self, variables or {})

    def materialize(self, variables: Mapping[str, str] | None = None, **walk: object) -> dict[str, int]:
        """Walk over what is owed; partitions run, by asset."""
        with self.session(variables) as session:
            walked = session.materialize_owed(say=lambda _: None, **walk)  # type: ignore[arg-type]
        return {turn.asset: turn.partitions for turn in walked if turn.partitions}

    def owed(self, table: str) -> list[str]:
        return Lineage(self.study, self.store).owed(table)


class Opened:
    """A session on the world's home, with a Dagster instance of its own that is gone afterwards."""

    def __init__(self, world: ImportedWorld, variables: Mapping[str, str]) -> None:
        deployment = deployment_from_environment({"AMR_HOME": str(world.folder / "home"), **variables})
        self._opening = Session.open(deployment, world.study, instance=False)
        self._instance = dg.DagsterInstance.ephemeral()

    def __enter__(self) -> Session:
        return replace(self._opening.__enter__(), instance=self._instance.__enter__())

    def __exit__(self, *error: object) -> None:
        self._instance.__exit__(None, None, None)
        self._opening.__exit__(None, None, None)
