"""Materializing the report asks now, of every table, and reads no row."""

import dagster as dg
import pytest

from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.owed_report import NAME, check_name, tables_of
from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines.tables_on_disk import TableStore
from amr_pipeline_tests.assets.imported_world import ImportedWorld


def answers(world: ImportedWorld) -> dict[str, dg.AssetCheckEvaluation]:
    deployment = deployment_from_environment({"AMR_HOME": str(world.folder / "home")})
    definitions = assemble(deployment, world.study)
    with dg.DagsterInstance.ephemeral() as instance:
        ended = dg.materialize(
            [asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition)],
            selection=[NAME],
            instance=instance,
            resources={"platform": Platform.of(deployment)},
        )
    assert ended.success
    return {found.check_name: found for found in ended.get_asset_check_evaluations()}


def test_a_new_world_owes_everything_and_a_finished_one_nothing(world: ImportedWorld, monkeypatch: pytest.MonkeyPatch):
    before = answers(world)
    assert set(before) == {check_name(table) for table in tables_of(world.study)}
    assert not any(found.passed for found in before.values())
    world.materialize()

    def read_part(*_: object) -> None:
        raise AssertionError("records say it")

    monkeypatch.setattr(TableStore, "read_part", read_part)
    after = answers(world)
    assert all(found.passed for found in after.values())
    assert after[check_name("responses")].metadata["partitions"].value == 2
