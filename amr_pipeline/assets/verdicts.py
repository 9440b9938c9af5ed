"""verdicts: one row per response and verifier fingerprint.

A partition keeps the verdicts of every verifier version that ever judged it. What is owed is what today's verifiers
have not judged, plus what a transient cause left undecided; stored responses are read, nothing is generated.

Every batch carries canaries, cases of known outcome. A batch is committed once its canaries held; a verifier that
drifted ends the run before anything of its batch is stored, and readers keep the version before.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.engine_times import EngineTimes, model_of
from amr_pipeline.assets.lineage import Lineage, verifier_fingerprints
from amr_pipeline.assets.partitions import StudyPartitions, distiller_and_shard, stored_partitions
from amr_pipeline.assets.publication import (
    Publication,
    counts_table,
    dictionary_check,
    note_current,
    note_written,
    partitions_of_run,
    progress_log,
)
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.responses import current_responses
from amr_pipeline.categories import Category
from amr_pipeline.report.summary import markdown_table
from amr_pipeline.responses.cost import EngineTime, timed
from amr_pipeline.responses.progress import Progress
from amr_pipeline.studies.study import JudgeModel, Scorer, Study, VerifierRow
from amr_pipeline.verdicts.canaries import CanaryDrift, CanaryWatch, canaries_of
from amr_pipeline.verdicts.ledger import (
    FLIPS,
    KEY,
    cases_of,
    current_verdicts,
    flips,
    owed_verdicts,
    verdict_rows,
)
from amr_pipeline.verdicts.registry import build_verifier
from amr_pipeline.verdicts.verifier import AskJudge, RateReplies, Verdict, Verifier

if TYPE_CHECKING:
    from amr_pipeline.engines.commits import Commit
    from amr_pipeline.engines.tables_on_disk import TableStore

VERDICTS_PER_BATCH = 500
"""Responses judged together with one set of canaries, and committed together: what a kill can cost. A canary's hang
takes one worker a deadline per batch, about one percent of what 500 programs of ten tests take."""

CANARIES = "canaries_could_be_judged"

FLIPS_SHOWN = 50
"""Flips listed in the asset's metadata; all of them are in the partitions themselves."""


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The verdicts asset of a study."""

    @dg.asset(
        partitions_def=partitions.responses,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            dg.AssetDep("responses"),
            dg.AssetDep("queries", partition_mapping=dg.MultiToSingleDimensionPartitionMapping("shard")),
        ],
        check_specs=[
            dictionary_check("verdicts"),
            dg.AssetCheckSpec(
                "every_response_has_a_verdict",
                asset="verdicts",
                description="responses of judged categories = decided + undecided, by today's verifiers",
            ),
            dg.AssetCheckSpec(
                CANARIES,
                asset="verdicts",
                description="cases of known outcome were judged in every batch; a wrong outcome refuses the partition",
            ),
        ],
        code_version="-".join(sorted(verifier_fingerprints(study).values())),
        group_name="verdicts",
        kinds={"python"},
        pool="sandbox",
    )
    def verdicts(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """passed, failed or undecided(cause) for every response, by today's verifier of its category."""
        judging = Judging(context, platform, study)
        for key in partitions_of_run(context):
            judging.settle(key)
        return judging.result()

    return [verdicts]


Judged = dict[str, "Commit | None"]
"""The newest verdicts of each partition at some moment."""


def judged_now(study: Study, store: "TableStore") -> Judged:
    """The newest verdicts of every partition."""
    return {key: store.latest("verdicts", key) for key in stored_partitions(study, "verdicts")}


def flips_since(study: Study, store: "TableStore", before: Judged) -> pl.DataFrame:
    """`verdicts.ledger.flips` rows between verdicts of that moment and today's, over the partitions judged since."""
    today, found = verifier_fingerprints(study), [pl.DataFrame(schema=FLIPS)]
    for key, earlier in before.items():
        commit = store.latest("verdicts", key)
        if earlier is not None and commit is not None and commit.version > earlier.version:
            verdicts = store.read("verdicts", key)
            then = current_verdicts(verdicts, dict(earlier.notes["verifiers"]))
            found.append(flips(then, current_verdicts(verdicts, today)))
    return pl.concat(found)


def judge_of(platform: Platform, judge: JudgeModel | None) -> AskJudge | None:
    """The judge a verifier row names, answered by the engine pools; None where it names none."""
    if judge is None:
        return None
    return lambda requests: platform.pools().ask_judge(judge.scorer, requests)


def reward_model_of(platform: Platform, scorer: Scorer | None) -> RateReplies | None:
    """The reward model a verifier row names, served by the engine pools; None where it names none."""
    if scorer is None:
        return None
    return lambda requests: platform.pools().rate_replies(scorer, requests)


def verifier_of(platform: Platform, row: VerifierRow, clock: EngineTime | None = None) -> Verifier:
    """The verifier of a row on this deployment's engines, which open when first needed.

    What its model takes is counted by the clock, for the row's category.
    """
    ask = judge_of(platform, getattr(row, "judge", None))
    rate = reward_model_of(platform, getattr(row, "reward_model", None))
    if clock is not None:
        share = (str(row.category), 0)
        ask = ask and timed(ask, clock, lambda _: share)
        rate = rate and timed(rate, clock, lambda _: share)
    return build_verifier(
        row,
        compare_answers=platform.compare_answers,
        run_programs=platform.run_programs,
        ask_judge=ask,
        rate_replies=rate,
    )


def judge_responses(
    platform: Platform, row: VerifierRow, owed: pl.DataFrame, clock: EngineTime | None = None
) -> Iterator[Verdict]:
    """Verdicts of one category's verifier on rows that join responses with queries, without canaries."""
    return verifier_of(platform, row, clock).judge(list(cases_of(owed)))


class Judging:
    """One run's work on the verdicts table."""

    def __init__(self, context: dg.AssetExecutionContext, platform: Platform, study: Study) -> None:
        self._context, self._platform, self._study = context, platform, study
        self._store = platform.tables()
        self._today = verifier_fingerprints(study)
        self._done, self._times = Publication(table=tables.VERDICTS), EngineTimes(platform, "verdicts")
        self._flips: list[pl.DataFrame] = []
        self._responses = self._verdicts = self._judged = self._canaries = 0
        self._unsettled: list[str] = []

    def settle(self, key: str) -> None:
        """Judge what one partition owes and commit it together with the verdicts of earlier verifiers.

        What a transient cause left undecided is committed as owed. Fingerprints are taken and the version to go on
        from is fixed before anything is read, so that what is read is never older than what the record says.
        """
        lineage = Lineage(self._study, self._store)
        writer = self._store.writer("verdicts", key, fingerprints=lineage.fingerprints("verdicts", key), replace=True)
        responses = current_responses(self._study, self._store, *distiller_and_shard(key))
        present = writer.found()
        owed = owed_verdicts(responses, present, self._today)
        if owed.is_empty() and lineage.is_current("verdicts", key):
            note_current(self._done, self._store, key)
            self._count(responses, current_verdicts(present, self._today))
            return
        earlier = self._store.latest("verdicts", key)
        before = current_verdicts(present, dict(earlier.notes["verifiers"])) if earlier else present.clear()
        # Undecided rows about to be judged again must not keep their key.
        kept = present.join(owed.select(KEY), on=KEY, how="anti") if not owed.is_empty() else present
        writer.append(kept)
        frames = [kept]
        for frame in self._judge(key, owed):
            writer.append(frame)
            writer.commit_part(self._times.on_top(key, writer.found_notes))
            frames.append(frame)
        everything = pl.concat(frames)
        current = current_verdicts(everything, self._today)
        counts = _counts(current)
        still_owed = owed_verdicts(responses, everything, self._today).height
        notes = self._times.on_top(key, {**writer.found_notes, "verifiers": self._today})
        writer.complete(counts=counts, notes=notes, owed=still_owed)
        note_written(self._done, key, everything, counts)
        self._count(responses, current)
        self._flips.append(flips(before, current))

    def result(self) -> dg.MaterializeResult:
        """Counts by outcome and cause, and the verdicts that flipped."""
        found = pl.concat(self._flips) if self._flips else pl.DataFrame()
        complete = self._responses == self._verdicts
        shown = found.head(FLIPS_SHOWN)
        return self._done.result(
            metadata={
                "verdicts judged in this run": self._judged,
                "flips": found.height,
                "flipped verdicts": dg.MetadataValue.md(
                    markdown_table(shown.columns, shown.rows()) if found.height else "none"
                ),
                "verdicts by category": dg.MetadataValue.md(counts_table(self._done.counts, "verdict")),
            },
            checks=(
                dg.AssetCheckResult(
                    check_name="every_response_has_a_verdict",
                    asset_key="verdicts",
                    passed=complete,
                    metadata={"responses": self._responses, "verdicts": self._verdicts},
                ),
                dg.AssetCheckResult(
                    check_name=CANARIES,
                    asset_key="verdicts",
                    passed=not self._unsettled,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={"canaries": self._canaries, "not judged": ", ".join(self._unsettled) or "none"},
                ),
            ),
        )

    def _judge(self, key: str, owed: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Verdict rows in frames of `VERDICTS_PER_BATCH`, each vouched for by its canaries.

        Raises:
            CanaryDrift: a verifier does not judge as it should; frames given before are sound.
        """
        progress = Progress(total=owed.height, what=f"verdicts {key}", say=progress_log.info)
        for category in sorted(owed.get_column("category").unique()):
            row = self._study.verifier(Category(category))
            assert row is not None, "owed_verdicts leaves out categories without a verifier"
            verifier = verifier_of(self._platform, row, self._times.clock(key, model_of(row)))
            for batch in owed.filter(pl.col("category") == category).iter_slices(VERDICTS_PER_BATCH):
                yield verdict_rows(batch, self._judge_batch(key, verifier, row, batch, progress), row.name)
        self._judged += owed.height

    def _judge_batch(
        self, key: str, verifier: Verifier, row: VerifierRow, batch: pl.DataFrame, progress: Progress
    ) -> Sequence[Verdict]:
        watch, verdicts = CanaryWatch(canaries=canaries_of(row)), []
        try:
            for verdict in watch.judge(verifier, list(cases_of(batch))):
                verdicts.append(verdict)
                progress.add(1)
        except CanaryDrift as drift:
            raise CanaryDrift(f"verdicts {key} refused, nothing of it published: {drift}") from drift
        self._canaries += len(watch.canaries)
        self._unsettled += watch.unsettled
        return verdicts

    def _count(self, responses: pl.DataFrame, verdicts: pl.DataFrame) -> None:
        judged = responses.filter(pl.col("category").is_in(list(self._today)))
        self._responses += judged.height
        self._verdicts += verdicts.join(judged.select("response_id"), on="response_id", how="semi").height


def _counts(verdicts: pl.DataFrame) -> dict[str, int]:
    """Verdicts by category and outcome, undecided ones by cause."""
    label = pl.concat_str(
        "category",
        pl.lit(" "),
        "verdict",
        pl.when(pl.col("cause").is_null()).then(pl.lit("")).otherwise(pl.concat_str(pl.lit(": "), "cause")),
    )
    return dict(Counter(verdicts.select(label.alias("label")).get_column("label").to_list()))
