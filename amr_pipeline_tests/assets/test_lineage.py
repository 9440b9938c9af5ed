"""What a partition is made from is all there: code by its imports, inputs by what is read."""

import ast
from pathlib import Path

import pytest

from amr_pipeline.assets.lineage import DEPENDENCES, PACKAGE, Lineage
from amr_pipeline_tests.assets.imported_world import ImportedWorld

DECIDES_OTHERWISE = {
    "tables.py": "the schema is fingerprinted in every commit",
    "fingerprint.py": "its outcomes are pinned by tests, and everything would be owed with them",
    "studies/study.py": "rows are fingerprinted by their values",
    "studies/contradictions.py": "refuses rows, makes none",
    "responses/generation.py": "identity; listed where it decides which rows count",
    "verdicts/verifier.py": "in every verifier's fingerprint, which is in the rows",
}
TRAINING = {"checkpoints", "benchmark_scores"}
"""Their code runs in engines, whose imports are not the package's alone."""


def modules(node: ast.ImportFrom) -> list[str]:
    """Files of the package that an import names: a module, or the members of a folder."""
    name = (node.module or "").removeprefix("amr_pipeline").strip(".").replace(".", "/")
    found = [f"{name}.py", *(f"{name}/{alias.name}.py" for alias in node.names)]
    return [file for file in found if (PACKAGE / file).is_file()]


def imported_by(path: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {file for node in nodes if (node.module or "").startswith("amr_pipeline") for file in modules(node)}


def files_of(parts: tuple[str, ...]) -> set[Path]:
    return {
        file for part in parts for file in ([PACKAGE / part] if part.endswith(".py") else (PACKAGE / part).glob("*"))
    }


@pytest.mark.parametrize("table", sorted(DEPENDENCES.keys() - TRAINING))
def test_what_listed_code_imports_is_listed_too(table: str):
    listed = files_of(DEPENDENCES[table].code)
    assert all(path.exists() for path in listed)
    used = {name for path in listed if path.suffix == ".py" for name in imported_by(path)}
    assert {name for name in used if PACKAGE / name not in listed} - DECIDES_OTHERWISE.keys() == set()


def test_digests_of_inputs_are_read_once(world: ImportedWorld):
    world.materialize(assets=("raw_queries", "near_duplicates", "queries"))
    lineage = Lineage(world.study, world.store)
    was = lineage.fingerprints("responses", "one|00")
    world.store.write("queries", "00", world.store.read("queries", "00")[:1], fingerprints={})
    assert lineage.fingerprints("responses", "one|00") == was
    assert Lineage(world.study, world.store).fingerprints("responses", "one|00") != was


def test_a_release_is_owed_after_anything_its_card_or_files_show(finished: ImportedWorld):
    assert finished.owed("release") == []
    commit = finished.store.latest("release", "uneven")
    assert commit is not None
    tables = {name.split("/")[0] for name in commit.fingerprints["inputs"]}  # type: ignore[attr-defined]
    assert tables == {
        "subsets",
        "second_opinions",
        "difficulty",
        "verdicts",
        "response_quality",
        "responses",
        "queries",
    }
    judged, verdicts = finished.store.latest("verdicts", "one|00"), finished.store.read("verdicts", "one|00")
    assert judged is not None
    other = verdicts.with_columns(evidence=verdicts["evidence"] + "!")
    finished.store.write("verdicts", "one|00", other, fingerprints=judged.fingerprints, notes=judged.notes)
    assert finished.owed("release") == ["uneven"]
    finished.materialize()
    assert finished.owed("release") == []
    finished.change('title="Responses in files"', 'title="Another title"')
    assert finished.materialize() == {"release": 1}
