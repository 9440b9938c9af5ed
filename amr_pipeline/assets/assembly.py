"""All assets of a study, with their jobs, schedule and resources, as one `Definitions`."""

import dagster as dg

from amr_pipeline.assets import (
    alerting,
    audit,
    automation,
    benchmark_responses,
    costs,
    difficulty,
    evaluation,
    flips,
    overdue,
    owed_report,
    queries,
    release,
    responses,
    second_opinions,
    sources,
    subsets,
    training,
    verdicts,
)
from amr_pipeline.assets.adaptive_passes import adaptive_distillers
from amr_pipeline.assets.catalog import in_catalog
from amr_pipeline.assets.deployment import Deployment, study_of
from amr_pipeline.assets.partitions import partitions_of
from amr_pipeline.assets.resources import Platform
from amr_pipeline.studies.study import Study
from amr_pipeline.verdicts.known_constraints import require_known_constraints


def assets_of(study: Study) -> list[dg.AssetsDefinition]:
    """Every asset of the study, in pipeline order; chapters without a row (no training recipe) have none."""
    partitions = partitions_of(study)
    assets = [*sources.build(study, partitions), *queries.build(study, partitions), *responses.build(study, partitions)]
    assets += [*verdicts.build(study, partitions), *audit.build(study), *difficulty.build(study, partitions)]
    if study.selection_recipes:
        assets += [*subsets.build(study, partitions), *second_opinions.build(study, partitions)]
        assets += release.build(study, partitions)
    assets += [*flips.build(study), *costs.build(study)]
    if study.training_recipes:
        assets += [*training.build(study, partitions), *benchmark_responses.build(study, partitions)]
        assets += evaluation.build(study, partitions)
    last = ("release", "flip_report", "cost_report", "sweep_report")
    made = {key.to_user_string() for asset in assets for key in asset.keys}
    return [*assets, *owed_report.build(study, [name for name in last if name in made])]


def assemble(deployment: Deployment, study: Study | None = None) -> dg.Definitions:
    """The code location of one deployment; `study` overrides the one it names (tests, the demo)."""
    given = None if study is None else require_known_constraints(study)
    study = given or study_of(deployment)

    def of_today() -> Study:
        return given or study_of(deployment)

    assets = in_catalog(assets_of(study), deployment.owners)
    names = {key.to_user_string() for asset in assets for key in asset.keys}
    jobs, outbox = automation.jobs_of(names), alerting.Outbox()
    return dg.Definitions(
        assets=assets,
        jobs=jobs,
        schedules=[
            make(study, jobs, deployment.regrade_cron, deployment.regrade_partitions)
            for make in (
                automation.regrade_schedule,
                *([automation.deepen_schedule] if adaptive_distillers(study) else []),
            )
        ],
        sensors=[
            automation.source_sensor(jobs, of_today),
            overdue.owed_sensor(of_today, deployment.overdue_hours, outbox),
            *([alerting.failure_sensor(outbox)] if deployment.sends_alerts else []),
        ],
        resources={"platform": Platform.of(deployment)},
        executor=dg.in_process_executor,
    )
