"""What a partition was made from, and whether that is still what it would be made from today.

Every commit record names three fingerprints: of the study rows that decided it, of the code that computed it, and
of the content of the partitions it read. A partition whose record names today's fingerprints, and says that no row
of it is due, owes nothing. This is what lets a second run finish in seconds, an added distiller touch only its own
partitions, and a changed verifier reach exactly what it touched. Responses of an adaptive distiller name a fourth: of
the passes that each query is due by its verdicts.

Belongs here: which rows, code and inputs each table depends on. Does not belong here: computing or storing a table.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import amr_pipeline
from amr_pipeline.assets.adaptive_passes import passes_due
from amr_pipeline.assets.partitions import ALL, distiller_and_shard, response_partition, stored_partitions
from amr_pipeline.fingerprint import files_digest, fingerprint
from amr_pipeline.studies.study import Distiller, Study
from amr_pipeline.verdicts.registry import verifier_fingerprint

if TYPE_CHECKING:
    from amr_pipeline.engines.commits import Commit
    from amr_pipeline.engines.tables_on_disk import TableStore

PACKAGE = Path(amr_pipeline.__file__).parent

Inputs = Iterable[tuple[str, str]]

FEW = 8
"""Partitions up to which records are read one by one; a listing of a whole table costs more."""


@dataclass(frozen=True, kw_only=True)
class Dependence:
    """What one table's partitions depend on.

    Attributes:
        rows: study rows (or plain values) that decide a partition.
        code: files and folders, relative to the package, whose text decides it.
        inputs: (table, partition) pairs that are read.
    """

    rows: Callable[[Study, str], object]
    code: tuple[str, ...]
    inputs: Callable[[Study, str], Inputs]


@cache
def code_digest(*parts: str) -> str:
    """Digest of the Python and prompt files at `parts` (files or folders, relative to the package)."""
    paths: list[Path] = []
    for part in parts:
        place = PACKAGE / part
        paths += [place] if place.is_file() else [*place.glob("*.py"), *place.glob("*.txt")]
    return files_digest(paths)


def verifier_fingerprints(study: Study) -> dict[str, str]:
    """Fingerprint of today's verifier of each category, by category name."""
    return {str(row.category): verifier_fingerprint(row) for row in study.verifiers}


def verifiers_behind(study: Study, store: "TableStore", inputs: Inputs) -> dict[str, object]:
    """`{"verifiers": ...}` for a commit record: today's verifiers, or None while an input still rests on others."""
    today = verifier_fingerprints(study)
    commits = [store.latest(table, partition) for table, partition in inputs if table in ("verdicts", "difficulty")]
    return {"verifiers": today if all(commit and _rests_on(commit, today) for commit in commits) else None}


def _rests_on(commit: "Commit", today: dict[str, str]) -> bool:
    noted = commit.notes.get("verifiers")
    if commit.table != "verdicts" or noted is None:
        return noted == today
    # A verifier of a category that the partition does not hold decided nothing in it.
    held = {label.split(" ")[0] for label in commit.counts}
    return all(noted.get(category) == today.get(category) for category in held)


def _all(table: str) -> Callable[[Study, str], Inputs]:
    return lambda study, _: [(table, key) for key in stored_partitions(study, table)]


def _shard_of(partition: str) -> str:
    return distiller_and_shard(partition)[1]


def _subset_inputs(study: Study, recipe: str) -> Inputs:
    yield from _all("difficulty")(study, recipe)
    yield from _all("queries")(study, recipe)
    for distiller in study.selection_recipe(recipe).distillers:
        for shard in study.shards:
            yield ("verdicts", response_partition(distiller, shard))
            yield ("response_quality", response_partition(distiller, shard))


def _release_inputs(study: Study, recipe: str) -> Inputs:
    yield ("subsets", recipe)
    yield ("second_opinions", recipe)
    yield from _subset_inputs(study, recipe)
    for distiller in study.selection_recipe(recipe).distillers:
        for shard in study.shards:
            yield ("responses", response_partition(distiller, shard))


def _checkpoint_inputs(study: Study, name: str) -> Inputs:
    recipe = study.training_recipe(name)
    yield ("subsets", recipe.subset)
    if recipe.continues is not None:
        yield ("checkpoints", recipe.continues)


def _expected_of(row: Distiller) -> tuple[object, ...]:
    """What decides which responses of a distiller count."""
    return row.name, row.distiller_fingerprint, row.most_passes, row.categories


def benchmarks_of(study: Study, name: str) -> tuple[str, ...]:
    """Names of the benchmarks a training recipe is measured on: its own, or every scored one."""
    return study.training_recipe(name).benchmarks or tuple(row.name for row in study.benchmarks if row.scored)


_STILL_EXPECTED = ("responses/expected.py", "responses/generation.py", "categories.py")
"""Code of every table that leaves out responses which are not expected any more."""
_DRAWN = ("difficulty.py", "subsets.py", "queries/identity.py")
"""Code of tables that draw a few rows: the draw, and the intervals beside it."""
_READING = ("sources", "queries/identity.py", "categories.py", "studies/file_contents.py")

DEPENDENCES: dict[str, Dependence] = {
    "raw_queries": Dependence(
        rows=lambda study, key: ({row.name: row for row in study.sources}[key], study.num_shards),
        code=_READING,
        inputs=lambda study, key: (),
    ),
    "benchmark_queries": Dependence(
        rows=lambda study, key: study.benchmark(key),
        code=_READING,
        inputs=lambda study, key: (),
    ),
    "near_duplicates": Dependence(
        rows=lambda study, _: study.query_rules,
        code=("queries",),
        inputs=lambda study, key: [*_all("raw_queries")(study, key), *_all("benchmark_queries")(study, key)],
    ),
    "queries": Dependence(
        rows=lambda study, _: study.query_rules,
        code=("queries",),
        inputs=lambda study, key: [
            *_all("raw_queries")(study, key),
            *_all("benchmark_queries")(study, key),
            ("near_duplicates", ALL),
        ],
    ),
    "responses": Dependence(
        rows=lambda study, key: _expected_of(study.distiller(distiller_and_shard(key)[0])),
        # A stored response is never made again by other code: what changes a response is in its id, prompts included.
        code=_STILL_EXPECTED,
        inputs=lambda study, key: [("queries", _shard_of(key))],
    ),
    "frequent_ngrams": Dependence(
        rows=lambda study, _: (
            study.quality_rules.ngram_tokens,
            study.quality_rules.ngram_occurrences,
            [_expected_of(row) for row in study.distillers],
        ),
        code=("responses/quality.py", "responses/parsing.py", *_STILL_EXPECTED),
        inputs=lambda study, key: [*_all("responses")(study, key), *_all("queries")(study, key)],
    ),
    "response_quality": Dependence(
        rows=lambda study, key: (
            study.quality_rules,
            _expected_of(study.distiller(distiller_and_shard(key)[0])),
        ),
        code=("responses/quality.py", "responses/parsing.py", "responses/prompts.py", *_STILL_EXPECTED),
        inputs=lambda study, key: [("responses", key), ("queries", _shard_of(key)), ("frequent_ngrams", ALL)],
    ),
    "verdicts": Dependence(
        rows=lambda study, key: (
            verifier_fingerprints(study),
            _expected_of(study.distiller(distiller_and_shard(key)[0])),
        ),
        # The code that decides a verdict is in its verifier's fingerprint, by which each row is judged again or not.
        code=(),
        inputs=lambda study, key: [("responses", key), ("queries", _shard_of(key))],
    ),
    "audit": Dependence(
        rows=lambda study, _: ([_expected_of(row) for row in study.distillers], verifier_fingerprints(study)),
        code=("audit.py", *_DRAWN, *_STILL_EXPECTED),
        inputs=lambda study, key: [
            *_all("verdicts")(study, key),
            *_all("responses")(study, key),
            *_all("queries")(study, key),
        ],
    ),
    "difficulty": Dependence(
        rows=lambda study, _: ([_expected_of(row) for row in study.distillers], verifier_fingerprints(study)),
        code=("difficulty.py", "queries/identity.py", *_STILL_EXPECTED),
        inputs=lambda study, key: [
            ("queries", key),
            *(("verdicts", response_partition(row.name, key)) for row in study.distillers),
        ],
    ),
    "subsets": Dependence(
        rows=lambda study, key: (
            study.selection_recipe(key),
            [_expected_of(study.distiller(name)) for name in study.selection_recipe(key).distillers],
            verifier_fingerprints(study),
        ),
        code=("subsets.py", "difficulty.py", "queries/identity.py", *_STILL_EXPECTED),
        inputs=_subset_inputs,
    ),
    "second_opinions": Dependence(
        rows=lambda study, key: [
            (row, verifier_fingerprint(row.verifier)) for row in study.second_opinions if row.recipe == key
        ],
        code=("second_opinions.py", *_DRAWN, *_STILL_EXPECTED),
        inputs=lambda study, key: [("subsets", key)],
    ),
    "checkpoints": Dependence(
        rows=lambda study, key: study.training_recipe(key),
        code=(
            "training",
            "engines/deepspeed_loop.py",
            "engines/deepspeed_training.py",
            "responses/prompts.py",
        ),
        inputs=_checkpoint_inputs,
    ),
    "benchmark_responses": Dependence(
        rows=lambda study, key: (
            [(row.name, row.num_samples, row.sampling) for row in map(study.benchmark, benchmarks_of(study, key))],
            study.training_recipe(key).system_prompt,
            study.training_recipe(key).prompt_suffixes,
            study.training_recipe(key).evaluation_context_tokens,
        ),
        code=("responses/generation.py", "responses/prompts.py", "categories.py"),
        inputs=lambda study, key: [
            ("checkpoints", key),
            *(("benchmark_queries", name) for name in benchmarks_of(study, key)),
        ],
    ),
    "benchmark_scores": Dependence(
        rows=lambda study, key: (benchmarks_of(study, key), verifier_fingerprints(study)),
        code=("evaluation.py",),
        inputs=lambda study, key: [
            ("checkpoints", key),
            ("benchmark_responses", key),
            *(("benchmark_queries", name) for name in benchmarks_of(study, key)),
        ],
    ),
    "release": Dependence(
        rows=lambda study, key: (
            # The card prints them all, the reasons that licences give to publish included.
            [(row, row.unknown_licence_accepted_because) for row in study.sources],
            (study.name, study.title, study.num_shards, study.distillers, study.quality_rules),
            (study.selection_recipe(key), study.verifiers, verifier_fingerprints(study)),
        ),
        code=(
            *("release.py", "report/card.py", "report/layouts.py", "report/summary.py", "evaluation.py"),
            *("subsets.py", "difficulty.py", "queries/identity.py", *_STILL_EXPECTED),
        ),
        inputs=_release_inputs,
    ),
}
"""What each stored table depends on; `dropped_queries` is written together with `queries`."""


class Lineage:
    """Fingerprints of partitions as they would be today, against those of their newest commit.

    Digests of inputs are read once per object, so that what is recorded about a partition is what was there before
    its inputs were read; make a new one after something was written.
    """

    def __init__(self, study: Study, store: "TableStore") -> None:
        self._study = study
        self._store = store
        self._digests: dict[tuple[str, str], str | None] = {}

    def fingerprints(self, table: str, partition: str) -> dict[str, object]:
        """`{"rows": ..., "code": ..., "inputs": {"table/partition": digest or None}}` as of now.

        And `"passes"`, where verdicts decide how many passes a query is due.
        """
        table = "queries" if table == "dropped_queries" else table
        depends = DEPENDENCES[table]
        inputs = list(depends.inputs(self._study, partition))
        self._look_up(inputs)
        return {
            "rows": fingerprint(depends.rows(self._study, partition)),
            "code": code_digest(*depends.code),
            "inputs": {f"{upstream}/{key}": self._digests[upstream, key] for upstream, key in inputs},
            **(self._passes(partition) if table == "responses" else {}),
        }

    def _passes(self, partition: str) -> dict[str, object]:
        """What queries are due, not the verdicts behind it: while these ask for nothing more, nothing is owed."""
        due = passes_due(self._study, self._store, partition)
        return {} if due is None else {"passes": fingerprint(due.select("query_id", "num_due").sort("query_id").rows())}

    def _look_up(self, inputs: Inputs) -> None:
        """Read the digests that were not read yet, many of one table together."""
        waiting: dict[str, list[str]] = {}
        for table, key in dict.fromkeys(inputs):
            if (table, key) not in self._digests:
                waiting.setdefault(table, []).append(key)
        for table, keys in waiting.items():
            if len(keys) <= FEW:
                found = {key: self._store.digest(table, key) for key in keys}
            else:
                made = self._store.summary(table, keys).partitions
                found = {key: made[key].digest if key in made else None for key in keys}
            self._digests.update({(table, key): digest for key, digest in found.items()})

    def is_current(self, table: str, partition: str) -> bool:
        """Whether the newest complete commit is whole and was made from exactly today's rows, code and inputs."""
        commit = self._store.latest(table, partition)
        if commit is None or commit.owed:
            return False
        return commit.fingerprints == self.fingerprints(table, partition)

    def owed(self, table: str) -> list[str]:
        """Partitions of `table` that do not exist, lack rows, or were made from something else, in order."""
        keys = stored_partitions(self._study, table)
        if len(keys) <= FEW:
            return [key for key in keys if not self.is_current(table, key)]
        found = self._store.summary(table, keys).partitions
        made = [key for key in keys if key in found and not found[key].owed]
        self.look_up(table, made)
        current = {key for key in made if found[key].fingerprints == self.fingerprints(table, key)}
        return [key for key in keys if key not in current]

    def look_up(self, table: str, partitions: Iterable[str]) -> None:
        """Read together what the fingerprints of many partitions will ask for."""
        self._look_up(one for key in partitions for one in DEPENDENCES[table].inputs(self._study, key))
