"""Where a response went: subsets, training runs, releases; and what kept it out of a subset.

Subsets store what was chosen. Why another response was not is asked of the recipe again, with the rows of that query
alone; only a category's quota needs all of them, and then the answer says so.

Belongs here: what followed from one response. Does not belong here: what it is (`passport`).
"""

import io
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.lineage import Lineage, verifier_fingerprints
from amr_pipeline.assets.partitions import distiller_and_shard, response_partition
from amr_pipeline.release import PASSPORTS
from amr_pipeline.responses.expected import still_expected
from amr_pipeline.studies.study import SelectionRecipe, Study, TrainingRecipe
from amr_pipeline.subsets import OVER_QUOTA, considered, decide
from amr_pipeline.verdicts.ledger import current_verdicts

if TYPE_CHECKING:
    from amr_pipeline.engines.commits import Commit
    from amr_pipeline.engines.tables_on_disk import TableStore

OTHER_DISTILLER = "the recipe takes no responses of its distiller"
NOT_EXPECTED = "it is not expected any more: its query or its distiller's row changed"
NOT_JUDGED = "today's verifier has not judged it"
NOT_MADE = "the subset is not materialized"
STALE = "nothing today; the subset is older than its tables, materialize it again"

Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One response, and the rows around it that recipes ask for.

    Attributes:
        row: its row of `responses`.
        partition: where that row stands.
        places: (table, partition) of everything it is in.
    """

    study: Study
    store: "TableStore"
    row: Facts
    partition: str
    places: list[tuple[str, str]] = field(default_factory=list)

    @property
    def identity(self) -> str:
        """Its id."""
        return self.row["response_id"]

    @property
    def identity_row(self) -> pl.DataFrame:
        """The row, as far as it says whether it still counts."""
        return pl.DataFrame([self.row], schema=tables.RESPONSES.schema)

    @cached_property
    def lineage(self) -> Lineage:
        """What partitions would be made from today."""
        return Lineage(self.study, self.store)

    def is_in(self, frame: pl.DataFrame) -> bool:
        """Whether rows of a subset hold it."""
        return not frame.filter(pl.col("response_id") == self.identity).is_empty()


def subsets(standing: Standing, recipes: list[str]) -> list[Facts]:
    """One row per recipe: whether it chose the response, and why or why not."""
    return [_subset(standing, standing.study.selection_recipe(name)) for name in recipes]


def _subset(standing: Standing, recipe: SelectionRecipe) -> Facts:
    store, commit = standing.store, standing.store.latest("subsets", recipe.name)
    frame = store.read("subsets", recipe.name, missing="empty").filter(pl.col("response_id") == standing.identity)
    if frame.height:
        standing.places.append(("subsets", recipe.name))
        return {
            "selection_recipe": recipe.name,
            "is_in": True,
            "because": frame["chosen_because"][0],
            "pass_rate": frame["pass_rate"][0],
            "coefficient_of_variation": frame["coefficient_of_variation"][0],
            "version": commit.version if commit else None,
        }
    because = NOT_MADE if commit is None else kept_out(standing, recipe)
    facts = {"selection_recipe": recipe.name, "is_in": False, "because": because}
    return facts | {"pass_rate": None, "coefficient_of_variation": None, "version": commit.version if commit else None}


def kept_out(standing: Standing, recipe: SelectionRecipe) -> str:
    """The first rule that keeps the response out of what the recipe would choose today."""
    name, shard = distiller_and_shard(standing.partition)
    if name not in recipe.distillers:
        return OTHER_DISTILLER
    study, store, query = standing.study, standing.store, pl.col("query_id") == standing.row["query_id"]
    keys = [response_partition(distiller, shard) for distiller in recipe.distillers]
    stored = store.read("verdicts", keys, missing="empty").filter(query)
    queries = store.read("queries", shard, columns=["query_id"], missing="empty")
    if still_expected(standing.identity_row, queries, study.distillers).is_empty():
        return NOT_EXPECTED
    verdicts = still_expected(stored, queries, study.distillers)
    fingerprints = verifier_fingerprints(study)
    if not standing.is_in(current_verdicts(verdicts, fingerprints)):
        return NOT_JUDGED
    facts = considered(
        recipe,
        difficulty=store.read("difficulty", shard, missing="empty").filter(query).lazy(),
        verdicts=verdicts.lazy(),
        response_quality=store.read("response_quality", keys, missing="empty").filter(query).lazy(),
        fingerprints=list(fingerprints.values()),
    )
    decided = decide(recipe, facts).filter(pl.col("response_id") == standing.identity).collect()
    reason = decided["reason"][0]
    if reason is not None:
        return reason
    has_quota = decided["quota"][0] is not None
    return OVER_QUOTA if has_quota and standing.lineage.is_current("subsets", recipe.name) else STALE


def trainings(standing: Standing, recipes: list[str]) -> list[Facts]:
    """One row per training run whose subset held the response in the version it was trained on, or that continues one.

    A run may still have left it out as longer than a row; how many it left out is in `num_dropped`.
    """
    study, store = standing.study, standing.store
    found: dict[str, Facts] = {}
    for run in study.training_recipes:
        row = store.read("checkpoints", run.name, missing="empty")
        if row.height and run.subset in recipes and _was_in(standing, run, row["subset_version"][0]):
            found[run.name] = _training(run, row, f"version {row['subset_version'][0]} of {run.subset}")
    for run in _by_chain(study):
        row = store.read("checkpoints", run.name, missing="empty")
        if row.height and run.continues in found and run.name not in found:
            found[run.name] = _training(run, row, f"goes on from {run.continues}")
    standing.places.extend(("checkpoints", name) for name in found)
    return list(found.values())


def _by_chain(study: Study) -> list[TrainingRecipe]:
    """Runs that continue others, each after the one it continues."""
    left, done, ordered = [run for run in study.training_recipes if run.continues], set[str](), list[TrainingRecipe]()
    names = {run.name for run in left}
    while left:
        ready = [run for run in left if run.continues not in names - done]
        ordered += ready
        done |= {run.name for run in ready}
        left = [run for run in left if run not in ready]
    return ordered


def _was_in(standing: Standing, run: TrainingRecipe, version: int) -> bool:
    known = {commit.version for commit in standing.store.versions("subsets", run.subset)}
    return version in known and standing.is_in(standing.store.read_version("subsets", run.subset, version))


def _training(run: TrainingRecipe, row: pl.DataFrame, because: str) -> Facts:
    told = row.row(0, named=True)
    names = ("path", "digest", "num_examples", "num_dropped", "mlflow_run_id")
    return {"training_recipe": run.name, "because": because} | {name: told[name] for name in names}


def releases(standing: Standing, recipes: list[str]) -> list[Facts]:
    """One row per released recipe of the response's distiller: the folder, and whether its files hold the response."""
    store, found = standing.store, []
    for name in recipes:
        listed = store.read("release", name, missing="empty").filter(pl.col("path").str.ends_with(f"/{PASSPORTS}"))
        if listed.is_empty() or standing.row["distiller"] not in standing.study.selection_recipe(name).distillers:
            continue
        path, commit = listed["path"][0], store.latest("release", name)
        is_in = _may_be_released(standing, name, commit) and _is_released(standing, path)
        if is_in:
            standing.places.append(("release", name))
        found.append(
            {
                "selection_recipe": name,
                "is_in": is_in,
                "folder": path.removesuffix(f"/{PASSPORTS}"),
                "version": commit.version if commit else None,
            }
        )
    return found


def _may_be_released(standing: Standing, name: str, release: "Commit | None") -> bool:
    """Whether a release has to be read: it is older than the subset, or the subset holds the response."""
    subset = standing.store.latest("subsets", name)
    if subset is None or release is None or release.created_at < subset.created_at:
        return True
    return ("subsets", name) in standing.places


def _is_released(standing: Standing, path: str) -> bool | None:
    """None: the release's files are gone."""
    try:
        content = standing.store.files.read(path)
    except FileNotFoundError:
        return None
    return standing.is_in(pl.read_parquet(io.BytesIO(content), columns=["response_id"]))
