"""release: the published files of a subset, visible only when every one of them loads."""

import io

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.lineage import DEPENDENCES, verifier_fingerprints
from amr_pipeline.assets.partitions import StudyPartitions, response_partition
from amr_pipeline.assets.publication import Built, dictionary_check, publish
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.second_opinions import rates_of
from amr_pipeline.assets.subsets import selection_of
from amr_pipeline.fingerprint import content_id, fingerprint
from amr_pipeline.release import (
    ReleaseFile,
    difference,
    passports,
    published_rows,
    release_files,
    release_rows,
    require_licences,
    require_loadable,
)
from amr_pipeline.report.card import release_card
from amr_pipeline.report.summary import counts_plot
from amr_pipeline.studies.study import Study
from amr_pipeline.subsets import Selection

ROWS_FILE = "rows.parquet"
"""All published rows in one file, which the next release is compared with."""


class StaleSubsetError(RuntimeError):
    """A subset that its recipe would not choose from the tables as they are now is not published."""


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The release asset of a study."""
    everything = dg.AllPartitionMapping()

    @dg.asset(
        partitions_def=partitions.selection_recipes,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            "subsets",
            "second_opinions",
            *(
                dg.AssetDep(name, partition_mapping=everything)
                for name in ("responses", "queries", "verdicts", "difficulty", "response_quality")
            ),
        ],
        check_specs=[dictionary_check("release")],
        group_name="release",
        kinds={"parquet"},
    )
    def release(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """Files in the layout of the published data set, with licences rolled up and the difference to the last one."""
        done = publish(context, platform, study, tables.RELEASE, lambda name: _release(study, platform, name))
        folders = {f"{name} is in": dg.MetadataValue.path(_folder(platform, name)) for name in done.rows}
        return done.result(
            metadata={"against the last release": dg.MetadataValue.md(counts_plot(done.counts)), **folders}
        )

    return [release]


def _release(study: Study, platform: Platform, name: str) -> Built:
    store = platform.tables()
    subset = store.read("subsets", name)
    shards = sorted(subset.get_column("shard").unique())
    keys = [response_partition(row, shard) for row in study.selection_recipe(name).distillers for shard in shards]
    queries, responses = store.read("queries", shards), store.read("responses", keys)
    origins = passports(
        subset, queries=queries, responses=responses, verdicts=store.read("verdicts", keys), distillers=study.distillers
    )
    require_licences(origins, study.sources)
    rows = published_rows(
        subset,
        queries=queries,
        responses=responses,
        difficulty=store.read("difficulty", shards),
        response_quality=store.read("response_quality", keys),
        distillers=study.distillers,
    )
    changed = difference(_last_rows(platform, name), rows)
    card = release_card(
        study,
        study.selection_recipe(name),
        selection=_selection(study, platform, name, subset),
        origins=origins,
        changes=changed,
        fingerprints=verifier_fingerprints(study),
        made_from=_made_from(study, platform, name),
        second=rates_of(platform, name),
    )
    files = [*release_files(rows, origins, {"README.md": card}), _whole(rows)]
    for file in files:
        require_loadable(file)
    listed = release_rows(name, files)
    # A folder of its own per content: the commit record that names these files is what makes them visible.
    folder = f"release_files/{name}/{content_id(*listed.get_column('sha256'))[:16]}"
    for file in files:
        store.files.put(f"{folder}/{file.path}", file.content)
    return listed.with_columns(path=pl.concat_str(pl.lit(folder + "/"), "path")), changed.counts


def _selection(study: Study, platform: Platform, name: str, subset: pl.DataFrame) -> Selection:
    """The selection that made the subset, with what it rejected.

    Raises:
        StaleSubsetError: verdicts or difficulty changed since the subset was chosen.
    """
    selection = selection_of(study, platform, name)
    now, then = (set(frame.get_column("response_id")) for frame in (selection.chosen, subset))
    if now != then:
        raise StaleSubsetError(
            f"subset {name} has {len(then):,} responses, of which its recipe would not choose {len(then - now):,} from "
            f"today's tables, and {len(now - then):,} others instead; materialize subsets for {name}, then release"
        )
    return selection


def _whole(rows: pl.DataFrame) -> ReleaseFile:
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return ReleaseFile(path=ROWS_FILE, content=buffer.getvalue(), num_rows=rows.height)


def _last_rows(platform: Platform, name: str) -> pl.DataFrame | None:
    """Published rows of the newest release of this recipe, or None for the first."""
    store = platform.tables()
    listed = store.read("release", name, missing="empty").filter(pl.col("path").str.ends_with(f"/{ROWS_FILE}"))
    return pl.read_parquet(io.BytesIO(store.files.read(listed.row(0, named=True)["path"]))) if listed.height else None


def _folder(platform: Platform, name: str) -> str:
    store = platform.tables()
    path = store.read("release", name).row(0, named=True)["path"]
    return f"{store.root}/{'/'.join(path.split('/')[:3])}"


def _made_from(study: Study, platform: Platform, name: str) -> dict[str, str]:
    """Digests of the partitions that the release was made from, one per table."""
    store = platform.tables()
    subset = store.latest("subsets", name)
    read: dict[str, list[tuple[str, str | None]]] = {}
    for table, key in DEPENDENCES["release"].inputs(study, name):
        read.setdefault(table, []).append((key, store.digest(table, key)))
    digests = {table: fingerprint(found) for table, found in sorted(read.items())}
    return digests | {"subsets": f"version {subset.version}, {subset.digest[:16]}" if subset else "none"}
