"""What Dagster's catalog shows of each asset beside what its function says: columns, grain, key, owners.

Belongs here: the data dictionary and the deployment's owners in Dagster's words. Does not belong here: the dictionary
itself (`tables`), what a run measured (`publication`).
"""

from collections.abc import Mapping

import dagster as dg

from amr_pipeline.tables import TABLES, Column, Table


def in_catalog(assets: list[dg.AssetsDefinition], owners: Mapping[str, tuple[str, ...]]) -> list[dg.AssetsDefinition]:
    """The assets with their tables' columns, and the owners of their group or else those of every group."""

    def described(spec: dg.AssetSpec) -> dg.AssetSpec:
        table = TABLES.get(spec.key.to_user_string())
        spec = spec.merge_attributes(metadata=metadata_of(table)) if table is not None else spec
        return spec.replace_attributes(owners=list(owners.get(str(spec.group_name)) or owners.get("") or ()))

    return [asset.map_asset_specs(described) for asset in assets]


def metadata_of(table: Table) -> dict[str, object]:
    """What a row of a table is, what identifies it, and its columns."""
    columns = [_column(column, is_key=table.key == (column.name,)) for column in table.columns]
    return {
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "a row is": table.grain,
        "key": ", ".join(table.key),
    }


def _column(column: Column, *, is_key: bool) -> dg.TableColumn:
    ends = (("at least", column.lowest), ("at most", column.highest))
    rules = [f"{name} {end:g}" for name, end in ends if end is not None]
    if column.values is not None:
        rules.append(f"one of {', '.join(column.values)}")
    return dg.TableColumn(
        name=column.name,
        type=str(column.dtype),
        description=column.meaning if column.null is None else f"{column.meaning}; null: {column.null}",
        constraints=dg.TableColumnConstraints(nullable=column.null is not None, unique=is_key, other=rules),
    )
