"""The catalog shows the data dictionary and the owners of each asset."""

from dataclasses import replace

import dagster as dg

from amr_pipeline import tables
from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import deployment_from_environment
from amr_pipeline.assets.variables import GROUPS
from amr_pipeline.studies.micro import STUDY


def specs(**variables: str) -> dict[str, dg.AssetSpec]:
    found = assemble(deployment_from_environment(variables), STUDY)
    return {spec.key.to_user_string(): spec for spec in found.resolve_all_asset_specs()}


def columns_of(spec: dg.AssetSpec) -> dict[str, dg.TableColumn]:
    shown = spec.metadata["dagster/column_schema"]
    schema = shown.value if isinstance(shown, dg.MetadataValue) else shown
    assert isinstance(schema, dg.TableSchema)
    return {column.name: column for column in schema.columns}


def test_every_table_shows_its_columns_with_their_meaning():
    found = specs()
    for name in found.keys() & tables.TABLES.keys():
        shown = columns_of(found[name])
        assert list(shown) == tables.TABLES[name].schema.names()
        assert all(column.description for column in shown.values())
        assert found[name].metadata["a row is"] == tables.TABLES[name].grain
    assert found.keys() - tables.TABLES.keys() == {name for name in found if name.endswith("_report")}


def test_a_column_shows_its_range_its_values_and_what_null_means():
    columns = columns_of(specs()["verdicts"])
    cause, verdict = columns["cause"], columns["verdict"]
    assert cause.constraints.nullable
    assert "; null: " in str(cause.description)
    assert "timeout" in cause.constraints.other[0]
    assert not verdict.constraints.nullable
    assert verdict.constraints.other == ["one of passed, failed, undecided"]
    of_queries = columns_of(specs()["queries"]).values()
    assert [column.name for column in of_queries if column.constraints.unique] == ["query_id"]


def test_assets_have_the_owners_of_their_group():
    found = {name: (spec.group_name, list(spec.owners)) for name, spec in specs(AMR_OWNERS=OWNERS).items()}
    assert found["checkpoints"] == ("training", ["ann@example.org"])
    assert found["queries"] == ("queries", ["team:data"])
    assert {tuple(owners) for _, owners in found.values()} == {("team:data",), ("ann@example.org",)}
    assert {tuple(spec.owners) for spec in specs().values()} == {()}
    assert {group for group, _ in found.values()} == set(GROUPS)


def test_owners_of_a_group_that_the_study_lacks_are_nobodys_business():
    deployment = deployment_from_environment({"AMR_OWNERS": OWNERS})
    found = assemble(deployment, replace(STUDY, training_recipes=(), selection_recipes=(), second_opinions=()))
    assert {tuple(spec.owners) for spec in found.resolve_all_asset_specs()} == {("team:data",)}


OWNERS = "team:data,training=ann@example.org"
