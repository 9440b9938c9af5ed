"""checkpoints: one training run per recipe, on the exact subset version that its row records."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.lineage import Lineage
from amr_pipeline.assets.partitions import StudyPartitions, response_partition
from amr_pipeline.assets.publication import (
    Publication,
    dictionary_check,
    note_current,
    note_written,
    partitions_of_run,
    progress_log,
)
from amr_pipeline.assets.reporting import picture
from amr_pipeline.assets.resources import Platform
from amr_pipeline.categories import Category
from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.report import plots
from amr_pipeline.responses.cost import Cost, with_run
from amr_pipeline.responses.prompts import prompt_messages
from amr_pipeline.studies.study import Study, TrainingRecipe
from amr_pipeline.training.packing import PackedRows, pack
from amr_pipeline.training.recipes import mean_of_tenth
from amr_pipeline.training.rendering import render

if TYPE_CHECKING:
    from amr_pipeline.engines.commits import Commit
    from amr_pipeline.engines.deepspeed_loop import TrainingJob
    from amr_pipeline.engines.deepspeed_training import TrainingResult
    from amr_pipeline.engines.mlflow_runs import MlflowRuns, TrainedOn
    from amr_pipeline.engines.tables_on_disk import TableStore


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The checkpoints asset of a study."""

    @dg.asset(
        partitions_def=partitions.training_recipes,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            dg.AssetDep(
                "subsets",
                partition_mapping=dg.StaticPartitionMapping(
                    {
                        recipe.name: [run.name for run in study.training_recipes if run.subset == recipe.name]
                        for recipe in study.selection_recipes
                    }
                ),
            )
        ],
        check_specs=[dictionary_check("checkpoints")],
        group_name="training",
        kinds={"deepspeed", "ray", "mlflow"},
        pool="training",
    )
    def checkpoints(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """A model folder per training recipe, trained with DeepSpeed under Ray Train; curves are in MLflow."""
        return Training(context, platform, study).result()

    return [checkpoints]


def waves(recipes: Sequence[TrainingRecipe]) -> Iterator[list[TrainingRecipe]]:
    """Recipes in groups of which each only continues recipes of earlier groups or none of these."""
    left = list(recipes)
    while left:
        names = {recipe.name for recipe in left}
        ready = [recipe for recipe in left if recipe.continues not in names]
        assert ready, "the study's rows would continue each other in a circle"
        yield ready
        left = [recipe for recipe in left if recipe not in ready]


def workers_of(recipes: Sequence[TrainingRecipe]) -> tuple[int, int]:
    """(workers, GPUs of each) of one group that trains recipes one after another: what the largest of them wants."""
    return max(one.num_workers for one in recipes), max(one.gpus_per_worker for one in recipes)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A recipe with everything its run is made from, read before it starts.

    Attributes:
        fingerprints: what its commit will name.
        subset: the version whose responses are in `rows`, whatever was committed since.
        job: its identity holds the recipe, the weights it starts from, the subset's content and the training code, so
            that a finished or interrupted run of anything else is not taken for this one.
    """

    recipe: TrainingRecipe
    fingerprints: Mapping[str, object]
    subset: "Commit"
    job: "TrainingJob"
    rows: PackedRows


class Training:
    """One run's work on the checkpoints table."""

    def __init__(self, context: dg.AssetExecutionContext, platform: Platform, study: Study) -> None:
        self._context, self._platform, self._study = context, platform, study
        self._store = platform.tables()
        self._done = Publication(table=tables.CHECKPOINTS)
        self._curves: dict[str, list[dict[str, float]]] = {}
        self._pages: dict[str, str | None] = {}

    def result(self) -> dg.MaterializeResult:
        """Train every recipe of the run that owes something, parents before children."""
        for wave in waves([self._study.training_recipe(key) for key in partitions_of_run(self._context)]):
            lineage = Lineage(self._study, self._store)
            owed = [recipe for recipe in wave if not lineage.is_current("checkpoints", recipe.name)]
            for recipe in wave:
                if recipe not in owed:
                    note_current(self._done, self._store, recipe.name)
            self.train(owed)
        curves = {"loss": picture(plots.loss_curves(self._curves))} if self._curves else {}
        pages = {f"MLflow, {name}": dg.MetadataValue.url(page) for name, page in self._pages.items() if page}
        return self._done.result(metadata={**curves, **pages})

    def train(self, recipes: Sequence[TrainingRecipe]) -> None:
        """Side by side as far as engines may be, each worker group taking its share one after another."""
        if not recipes:
            return
        # Prepared one by one: the tokenizer library's lazy imports do not bear two threads.
        prepared = [self.prepare(recipe) for recipe in recipes]
        # Opened here, since two threads would each make an experiment and a sweep.
        tracking = self._platform.tracking(self._study.name)
        for sweep in sorted({recipe.sweep for recipe in recipes if recipe.sweep}):
            tracking.open_sweep(sweep)
        shares = [prepared[start :: self._platform.max_engines] for start in range(self._platform.max_engines)]
        groups = [(share, *workers_of([one.recipe for one in share])) for share in shares if share]
        self._platform.make_room_for_training(
            sum(workers for _, workers, _ in groups), max(gpus for _, _, gpus in groups)
        )
        with ThreadPoolExecutor(max_workers=len(groups)) as side_by_side:
            for finished in [side_by_side.submit(self._share, *group, tracking) for group in groups]:
                finished.result()

    def prepare(self, recipe: TrainingRecipe) -> Prepared:
        """Fingerprints first, then exactly the versions that they name, as packed rows."""
        from amr_pipeline.engines.deepspeed_training import load_tokenizer

        fingerprints = Lineage(self._study, self._store).fingerprints("checkpoints", recipe.name)
        subset = version_read(self._store, fingerprints, "subsets", recipe.subset)
        model, revision = self._start(recipe, fingerprints)
        tokenizer = load_tokenizer(model, revision)
        pairs = training_pairs(self._store, recipe, subset.version)
        rows = pack(
            list(render(pairs, tokenizer.chat_tokens, tokenizer.text_tokens, tokenizer.end_token)),
            sequence_tokens=recipe.sequence_tokens,
            pad_token=tokenizer.pad_token,
            packing=recipe.packing,
            epochs=recipe.epochs,
            seed=recipe.seed,
        )
        if not len(rows.tokens):
            raise ValueError(
                f"{recipe.name}: subset {recipe.subset!r} has no example of at most {recipe.sequence_tokens} tokens"
            )
        identity = fingerprint(recipe, revision, subset.digest, fingerprints["code"])
        job = self._job(recipe, model, revision, identity)
        return Prepared(recipe=recipe, fingerprints=fingerprints, subset=subset, job=job, rows=rows)

    def _share(self, share: Sequence[Prepared], num_workers: int, gpus_per_worker: int, tracking: "MlflowRuns") -> None:
        from amr_pipeline.engines.deepspeed_training import prepare, train

        for one in share:
            prepare(one.job, one.rows)
        results = train(
            [one.job for one in share],
            num_workers=num_workers,
            gpus_per_worker=gpus_per_worker,
            ray_address=self._platform.ray_address,
            say=progress_log.info,
        )
        for one, result in zip(share, results, strict=True):
            self._publish(one, result, tracking)

    def _job(self, recipe: TrainingRecipe, model: str, revision: str | None, identity: str) -> "TrainingJob":
        """The recipe in plain values, in a folder of its own."""
        from amr_pipeline.engines.deepspeed_loop import TrainingJob
        from amr_pipeline.engines.model_folders import model_address

        address, commit = model_address(model, revision)
        return TrainingJob(
            name=recipe.name,
            identity=identity,
            folder=str(self._platform.folder("training") / f"{recipe.name}-{identity}"),
            model=address,
            revision=commit,
            learning_rate=recipe.learning_rate,
            warmup_ratio=recipe.warmup_ratio,
            batch_rows=recipe.batch_rows,
            micro_batch_rows=recipe.micro_batch_rows,
            adam_betas=recipe.adam_betas,
            weight_decay=recipe.weight_decay,
            gradient_clip=recipe.gradient_clip,
            zero_stage=recipe.zero_stage,
            precision=recipe.precision,
            seed=recipe.seed,
        )

    def _start(self, recipe: TrainingRecipe, fingerprints: Mapping[str, object]) -> tuple[str, str | None]:
        """(model, revision) a recipe starts from; a continued recipe's checkpoint must exist."""
        if recipe.continues is None:
            assert recipe.starts_from is not None, "study.py checks that one of the two is given"
            return recipe.starts_from, recipe.revision
        version = version_read(self._store, fingerprints, "checkpoints", recipe.continues).version
        parent = self._store.read_version("checkpoints", recipe.continues, version).row(0, named=True)
        return str(self._platform.checkpoint(parent)), parent["digest"]

    def _publish(self, one: Prepared, result: "TrainingResult", tracking: "MlflowRuns") -> None:
        recipe = one.recipe
        run_id = tracking.record_training(
            recipe,
            identity=one.job.identity,
            subset=self._trained_on(one),
            tags={
                "amr.subset_version": str(one.subset.version),
                "amr.subset_digest": one.subset.digest,
                "amr.study": self._study.name,
            },
            curve=result.curve,
        )
        address = self._platform.keep_checkpoint(recipe.name, result.checkpoint, result.digest)
        of_checkpoint = {"amr.checkpoint": f"{self._store.root}/{address}", "amr.checkpoint_digest": result.digest}
        tracking.tag(run_id, {**of_checkpoint, "amr.dagster_run": self._context.run.run_id})
        self._pages[recipe.name] = tracking.page(run_id)
        frame = _checkpoint_row(one, result, address, run_id)
        took = Cost(
            runs=1,
            response_tokens=one.rows.num_loss_tokens,
            engine_seconds=result.spent_seconds,
            gpu_seconds=result.gpu_seconds,
        )
        found = self._store.latest_any("checkpoints", recipe.name)
        # By identity: a finished run that is committed again has taken its time once.
        notes = with_run(found.notes if found else {}, one.job.identity, took)
        self._store.write("checkpoints", recipe.name, frame, fingerprints=one.fingerprints, notes=notes)
        note_written(self._done, recipe.name, frame, {})
        self._curves[recipe.name] = result.curve
        self._context.log.info(f"checkpoints {recipe.name}: {result.num_steps} steps in {result.seconds:.0f} s")

    def _trained_on(self, one: Prepared) -> "TrainedOn":
        from amr_pipeline.engines.mlflow_runs import TrainedOn

        return TrainedOn(
            name=one.recipe.subset,
            version=one.subset.version,
            digest=one.subset.digest,
            address=f"{self._store.root}/subsets/{one.recipe.subset}",
            num_responses=one.subset.rows,
            num_examples=one.rows.num_examples,
            num_tokens=one.rows.num_loss_tokens,
        )


def version_read(store: "TableStore", fingerprints: Mapping[str, object], table: str, partition: str) -> "Commit":
    """The version of an input that `fingerprints` name (`Lineage.fingerprints`), whatever was committed since.

    Raises:
        LookupError: the input had no complete version.
    """
    inputs = fingerprints["inputs"]
    assert isinstance(inputs, dict), "as Lineage makes them"
    digest = inputs[f"{table}/{partition}"]
    found = next((commit for commit in reversed(store.versions(table, partition)) if commit.digest == digest), None)
    if found is None:
        raise LookupError(f"{table} {partition}: no complete version; materialize that partition first")
    return found


def _checkpoint_row(one: Prepared, result: "TrainingResult", path: str, run_id: str) -> pl.DataFrame:
    losses = [point["loss"] for point in result.curve]
    return pl.DataFrame(
        [
            {
                "training_recipe": one.recipe.name,
                "path": path,
                "digest": result.digest,
                "subset_version": one.subset.version,
                "subset_digest": one.subset.digest,
                "num_examples": one.rows.num_examples,
                "num_dropped": one.rows.num_dropped,
                "num_steps": result.num_steps,
                "trained_tokens": one.rows.num_loss_tokens,
                "first_loss": mean_of_tenth(losses, "first"),
                "last_loss": mean_of_tenth(losses, "last"),
                "resumed_from_step": result.resumed_from_step,
                "mlflow_run_id": run_id,
            }
        ],
        schema=tables.CHECKPOINTS.schema,
    )


def training_pairs(
    store: "TableStore", recipe: TrainingRecipe, version: int
) -> list[tuple[tuple[tuple[str, str], ...], str]]:
    """(turns, response text) of every response of one version of the recipe's subset, in the order of its key."""
    subset = store.read_version("subsets", recipe.subset, version).sort("response_id")
    shards = subset.select("distiller", "shard").unique().rows()
    texts = {
        row[0]: row[1]
        for distiller, shard in shards
        for row in store.read(
            "responses", response_partition(distiller, shard), columns=["response_id", "text"]
        ).iter_rows()
    }
    messages = {
        row[0]: row[1]
        for shard in sorted({shard for _, shard in shards})
        for row in store.read("queries", shard, columns=["query_id", "messages"]).iter_rows()
    }
    return [
        (
            prompt_messages(
                messages[row["query_id"]], Category(row["category"]), recipe.system_prompt, recipe.prompt_suffixes
            ),
            texts[row["response_id"]],
        )
        for row in subset.iter_rows(named=True)
    ]
