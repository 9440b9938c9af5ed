"""What each partition owes, and why: `amr owed`.

`Lineage` says which partitions owe something; only these are read, slim columns of one partition at a time. Nothing is
written, and no engine is started.

Belongs here: reading what the counts need, and what a record says otherwise than today. Does not belong here: which
rows are owed (`responses.expected`, `verdicts.ledger`), tables for people (`report.owed_table`).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from amr_pipeline.assets.adaptive_passes import passes_due
from amr_pipeline.assets.lineage import Lineage, verifier_fingerprints
from amr_pipeline.assets.materialization import BY_RESPONSE, ORDER
from amr_pipeline.assets.partitions import ALL, distiller_and_shard, stored_partitions
from amr_pipeline.assets.reporting import REPORTS, report_is_current
from amr_pipeline.report.owed_table import Owed, OwedPartition
from amr_pipeline.responses.expected import still_expected
from amr_pipeline.responses.owed_causes import owed_by_cause
from amr_pipeline.studies.study import Study
from amr_pipeline.verdicts import ledger

if TYPE_CHECKING:
    from amr_pipeline.engines.commits import Commit, CommitSummary
    from amr_pipeline.engines.tables_on_disk import TableStore

_IDENTITY = ["response_id", "query_id", "category", "distiller", "distiller_fingerprint", "pass_index"]

LACKING = "lacking"
"""Rows that a record itself says are not there, in tables whose rows nobody can count before the step has run."""

INPUTS_NAMED = 2
"""Changed inputs that a reason names, before it only counts them."""


class UnknownAssetError(LookupError):
    """A name that no asset of the pipeline has."""


def what_is_owed(study: Study, store: "TableStore", names: Sequence[str] = ()) -> Owed:
    """What some assets owe, by default all, in the order of the pipeline.

    Raises:
        UnknownAssetError: there is no such asset; the message lists those that there are.
    """
    if strangers := sorted(set(names) - set(ORDER)):
        raise UnknownAssetError(f"there is no asset {', '.join(strangers)}; wanted some of {', '.join(ORDER)}")
    lineage = Lineage(study, store)
    asked = [name for name in ORDER if (not names or name in names) and _partitions(study, name)]
    return Owed(
        study=study.name,
        shards=study.shards,
        partitions={name: len(_partitions(study, name)) for name in asked},
        owed=tuple(one for name in asked for one in _owed(study, store, lineage, name)),
    )


def _partitions(study: Study, name: str) -> list[str]:
    """Partitions of an asset; none where the study has no row for it."""
    if name in REPORTS:
        return [ALL] if any(stored_partitions(study, table) for table in REPORTS[name]) else []
    return stored_partitions(study, name)


def _owed(study: Study, store: "TableStore", lineage: Lineage, name: str) -> Iterator[OwedPartition]:
    if name in REPORTS:
        if not report_is_current(study, store, name):
            yield OwedPartition(asset=name, partition=ALL, because=("the tables it shows changed",))
        return
    for key in lineage.owed(name):
        because = tuple(why_owed(lineage, store, name, key))
        if name not in BY_RESPONSE:
            commit = store.latest(name, key)
            rows = {LACKING: commit.owed} if commit and commit.owed else None
            yield OwedPartition(asset=name, partition=key, rows=rows, because=because)
            continue
        distiller, shard = distiller_and_shard(key)
        count = {"responses": _responses, "verdicts": _verdicts}.get(name)
        rows = None if count is None else count(study, store, key)
        yield OwedPartition(asset=name, partition=key, distiller=distiller, shard=shard, rows=rows, because=because)


def why_owed(lineage: Lineage, store: "TableStore", table: str, partition: str) -> Iterator[str]:
    """What keeps a partition from being current (`Lineage.is_current`), in words; nothing where it is."""
    commit = store.latest(table, partition)
    if commit is None:
        is_begun = store.latest_any(table, partition) is not None
        yield "begun and not finished" if is_begun else "never materialized"
        return
    if commit.owed:
        yield "lacks rows"
    yield from _differences(commit, lineage.fingerprints(table, partition))


def owed_by_records(study: Study, store: "TableStore", table: str) -> tuple[Owed, float | None]:
    """What a table owes as far as commit records say, without reading a row, however many partitions it has.

    Rows are those that records themselves lack. Beside it, when anything was last committed to the table (unix seconds,
    None for never).
    """
    lineage, keys = Lineage(study, store), stored_partitions(study, table)
    found = store.summary(table, keys)
    lineage.look_up(table, found.partitions)
    owed: list[OwedPartition] = []
    for key in keys:
        made, because = found.partitions.get(key), ["never completed"]
        if made is not None:
            because = ["lacks rows"] if made.owed else []
            because += _differences(made, lineage.fingerprints(table, key))
        if because:
            distiller, shard = distiller_and_shard(key) if table in BY_RESPONSE else (None, None)
            rows = {LACKING: made.owed} if made is not None and made.owed else None
            one = OwedPartition(
                asset=table, partition=key, distiller=distiller, shard=shard, rows=rows, because=tuple(because)
            )
            owed.append(one)
    return Owed(study=study.name, shards=study.shards, partitions={table: len(keys)}, owed=tuple(owed)), found.made_at


def _differences(commit: "Commit | CommitSummary", today: dict[str, object]) -> Iterator[str]:
    for part, words in (("rows", "of other study rows"), ("code", "of other code"), ("passes", "of other passes due")):
        if commit.fingerprints.get(part) != today.get(part):
            yield words
    before, now = commit.fingerprints.get("inputs"), today.get("inputs")
    if not isinstance(before, dict) or not isinstance(now, dict) or before == now:
        return
    changed = [name for name in {**now, **before} if name not in before or before[name] != now.get(name)]
    tables = sorted({name.split("/")[0] for name in changed})
    if len(changed) <= INPUTS_NAMED:
        yield f"older than {', '.join(changed)}"
    else:
        yield f"older than its {', '.join(tables)}"


def _responses(study: Study, store: "TableStore", key: str) -> dict[str, int] | None:
    name, shard = distiller_and_shard(key)
    if store.latest("queries", shard) is None:
        return None
    queries = store.read("queries", shard, columns=["query_id", "category"])
    # What a run that goes on would find, unfinished versions included.
    present = store.read_any("responses", key, columns=["query_id", "pass_index", "distiller_fingerprint"])
    return owed_by_cause(queries, present, study.distiller(name), passes_due(study, store, key))


def _verdicts(study: Study, store: "TableStore", key: str) -> dict[str, int] | None:
    if store.latest("responses", key) is None:
        return None
    queries = store.read("queries", distiller_and_shard(key)[1], columns=["query_id"], missing="empty")
    responses = store.read("responses", key, columns=_IDENTITY)
    current = still_expected(responses, queries, study.distillers)
    present = store.read_any("verdicts", key, columns=["response_id", "verifier_fingerprint", "verdict", "cause"])
    return ledger.owed_by_cause(current, present, verifier_fingerprints(study))
