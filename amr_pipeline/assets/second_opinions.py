"""second_opinions: rows of a subset, judged again by the different verifier that the study names for it."""

from collections.abc import Mapping

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.engine_times import EngineTimes, model_of
from amr_pipeline.assets.partitions import StudyPartitions
from amr_pipeline.assets.publication import Built, dictionary_check, publish
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.responses import texts_of
from amr_pipeline.assets.verdicts import verifier_of
from amr_pipeline.report.layouts import false_pass_rows
from amr_pipeline.report.summary import markdown_table
from amr_pipeline.responses.cost import EngineTime
from amr_pipeline.second_opinions import drawn, false_pass_rates
from amr_pipeline.studies.study import SecondOpinion, Study
from amr_pipeline.verdicts.canaries import CanaryWatch, canaries_of
from amr_pipeline.verdicts.ledger import cases_of, settled, verdict_rows
from amr_pipeline.verdicts.registry import verifier_fingerprint

MEASURED = "estimated false-pass rate"


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The second opinions of a study; recipes for which it names no second verifier have none."""
    everything = dg.AllPartitionMapping()

    @dg.asset(
        partitions_def=partitions.selection_recipes,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=["subsets", *(dg.AssetDep(name, partition_mapping=everything) for name in ("responses", "queries"))],
        check_specs=[dictionary_check("second_opinions")],
        automation_condition=dg.AutomationCondition.eager(),
        group_name="subsets",
        kinds={"python"},
        pool="sandbox",
    )
    def second_opinions(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Chosen rows judged again by a different verifier, and the false-pass rate that this suggests."""
        times = EngineTimes(platform, "second_opinions")
        done = publish(
            context,
            platform,
            study,
            tables.SECOND_OPINIONS,
            lambda name: _judge(study, platform, name, times),
            notes=times.notes,
        )
        rates = {name: measured(platform, name) for name in done.rows}
        for name, rows in rates.items():
            # On the subset's own page too: that is where a person asks how pure it is.
            context.log_event(dg.AssetObservation(asset_key="subsets", partition=name, metadata={MEASURED: rows}))
        return done.result(metadata={f"{MEASURED}, {name}": rows for name, rows in rates.items()})

    return [second_opinions]


def measured(platform: Platform, name: str) -> dg.MarkdownMetadataValue:
    """The estimated false-pass rates of one subset, as a table."""
    return dg.MetadataValue.md(markdown_table(*false_pass_rows(rates_of(platform, name))))


def rates_of(platform: Platform, name: str) -> pl.DataFrame:
    """`second_opinions.false_pass_rates` of one subset; no row where it has no second verifier."""
    store = platform.tables()
    return false_pass_rates(store.read("second_opinions", name), store.read("subsets", name))


def _judge(study: Study, platform: Platform, name: str, times: EngineTimes) -> Built:
    rows = [row for row in study.second_opinions if row.recipe == name]
    frames = [_opinions(study, platform, row, times.clock(name, model_of(row.verifier))) for row in rows]
    frame = pl.concat([tables.SECOND_OPINIONS.empty(), *frames])
    return frame, _counts(frame)


def _opinions(study: Study, platform: Platform, row: SecondOpinion, clock: EngineTime) -> pl.DataFrame:
    """The rows that one second verifier has to say something about; what it said before is not asked again."""
    store = platform.tables()
    chosen = drawn(store.read("subsets", row.recipe), row)
    mine = verifier_fingerprint(row.verifier)
    before = store.read("second_opinions", row.recipe, missing="empty").filter(pl.col("verifier_fingerprint") == mine)
    kept = settled(before).join(chosen.select("response_id"), on="response_id", how="semi")
    owed = chosen.join(kept.select("response_id"), on="response_id", how="anti")
    if owed.is_empty():
        return kept
    judged = texts_of(study, store, owed).with_columns(pl.lit(mine).alias("verifier_fingerprint"))
    watch = CanaryWatch(canaries=canaries_of(row.verifier))
    verdicts = list(watch.judge(verifier_of(platform, row.verifier, clock), list(cases_of(judged))))
    said = verdict_rows(judged, verdicts, row.verifier.name).with_columns(pl.lit(row.recipe).alias("selection_recipe"))
    return pl.concat([kept, said.select(tables.SECOND_OPINIONS.schema.names())])


def _counts(frame: pl.DataFrame) -> Mapping[str, int]:
    return dict(frame.group_by("verdict").len().sort("verdict").iter_rows())
