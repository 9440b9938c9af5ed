"""Writing one partition, in parts that survive a kill, up to the commit that readers see."""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from amr_pipeline.engines.commits import Commit, Part
from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.tables import Table

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

LARGEST_COMPACTION_BYTES = 256 * 2**20
"""A partition up to this size becomes one part sorted by key when it is completed; larger ones keep their parts."""


class PartitionWriter:
    """Writes one partition, in parts; use as a context manager or call `complete` yourself.

    It goes on from, or replaces, the version that was newest when it was opened: what `found` gives. A version that
    another writer commits in between wins, and this one's next commit raises. Leaving it without `complete`
    publishes nothing more; what `commit_part` published stays for a resume.

    Attributes:
        found_notes: what the record of that version notes; every version notes its own.
    """

    def __init__(
        self, store: "TableStore", table: Table, partition: str, fingerprints: dict[str, object], replace: bool
    ) -> None:
        self._store, self._table, self._partition, self._fingerprints = store, table, partition, fingerprints
        newest = store.latest_any(table.name, partition)
        self._version = newest.version if newest else 0
        self._found = newest.parts if newest else ()
        self.found_notes: Mapping[str, Any] = newest.notes if newest else {}
        self._parts = [] if replace else list(self._found)
        self._keys = None if self._parts else table.empty().select(table.key)
        self._writer = uuid.uuid4().hex
        self._waiting: list[tuple[pl.DataFrame, str | None]] = []
        self._superseded: list[Part] = []

    def __enter__(self) -> "PartitionWriter":
        """The writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is published by leaving."""

    def found(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Rows of the version that was newest when this writer was opened, complete or not; what a resume goes on from.

        To be read before anything is completed, which drops the parts of an unfinished version.
        """
        frames = [self._store.read_part(self._table.name, self._partition, part, columns) for part in self._found]
        empty = self._table.empty()
        # Columns come as the file has them.
        return (
            pl.concat([empty, *frames])
            if columns is None
            else pl.concat(one.select(columns) for one in [empty, *frames])
        )

    def append(self, frame: pl.DataFrame, bucket: str | None = None) -> None:
        """Take rows; they become durable with `commit_part` or `complete`.

        Raises:
            tables.TableMismatchError: columns or types are not the table's.
        """
        if not frame.is_empty():
            self._waiting.append((self._table.conform(frame), bucket))

    def commit_part(self, notes: Mapping[str, object] | None = None) -> None:
        """Make everything appended so far durable, visible to a writer that resumes but not to readers.

        Raises:
            ValueError: rows repeat a key; nothing of them is committed, so that the partition stays usable.
            CommitConflict: another writer was faster.
        """
        self._flush()
        self._publish("partial", {}, notes or {}, owed=0)

    def complete(
        self,
        counts: Mapping[str, int] | None = None,
        notes: Mapping[str, object] | None = None,
        owed: int = 0,
    ) -> Commit:
        """Publish the partition whole; `owed` rows of it are still due (`Commit.owed`).

        Writing what the newest complete commit already says leaves that commit as it is.

        Raises:
            ValueError: rows break the data dictionary; nothing is published.
            CommitConflict: another writer was faster.
        """
        self._flush()
        self._compact()
        self._refuse_violations()
        newest = self._store.latest_any(self._table.name, self._partition)
        if (
            newest is not None
            and newest.state == "complete"
            and newest.version == self._version
            and newest.parts == tuple(self._parts)
            and newest.owed == owed
            and newest.fingerprints == json.loads(json.dumps(self._fingerprints))
        ):
            return newest
        commit = self._publish("complete", counts or {}, notes or {}, owed)
        self._store.prune(self._table.name, self._partition, commit.version, self._superseded)
        return commit

    def _flush(self) -> None:
        self._refuse_repeated_keys()
        by_bucket: dict[str | None, list[pl.DataFrame]] = {}
        for frame, bucket in self._waiting:
            by_bucket.setdefault(bucket, []).append(frame)
        for bucket, frames in by_bucket.items():
            # Sorted, so that equal rows make equal parts however they arrived.
            rows = pl.concat(frames).sort(self._table.key)
            self._parts.append(self._store.store_part(self._table, self._partition, rows, bucket))
        self._waiting = []

    def _refuse_repeated_keys(self) -> None:
        """Raise before a row is written whose key is there already; a committed one would block every later resume."""
        key = list(self._table.key)
        if self._keys is None:
            self._keys = self.found(key)
        fresh = pl.concat([self._keys.clear(), *(frame.select(key) for frame, _ in self._waiting)])
        once = fresh.unique()
        if repeated := fresh.height - once.height + once.join(self._keys, on=key, how="semi").height:
            self._waiting = []
            raise self._refusal({"repeated key": repeated})
        self._keys = pl.concat([self._keys, fresh], rechunk=True)

    def _refusal(self, violations: Mapping[str, int]) -> ValueError:
        return ValueError(
            f"{self._table.name} {self._partition}: rows break the data dictionary: {violations}; nothing published"
        )

    def _compact(self) -> None:
        """One part per bucket, sorted by key, so that equal rows have equal digests however they arrived."""
        is_compact = len({part.bucket for part in self._parts}) == len(self._parts)
        if is_compact or sum(part.num_bytes for part in self._parts) > LARGEST_COMPACTION_BYTES:
            return
        compacted = []
        for bucket in sorted({part.bucket for part in self._parts}, key=str):
            mine = [part for part in self._parts if part.bucket == bucket]
            frames = [self._store.read_part(self._table.name, self._partition, part, None) for part in mine]
            rows = pl.concat(frames).sort(self._table.key)
            compacted.append(self._store.store_part(self._table, self._partition, rows, bucket))
        self._superseded += [part for part in self._parts if part not in compacted]
        self._parts = compacted

    def _refuse_violations(self) -> None:
        found: dict[str, int] = {}
        for part in self._parts:
            found.update(self._table.violations(self._store.read_part(self._table.name, self._partition, part, None)))
        if found:
            raise self._refusal(found)

    def _publish(
        self, state: Literal["partial", "complete"], counts: Mapping[str, int], notes: Mapping[str, object], owed: int
    ) -> Commit:
        commit = self._store.commit(
            Commit(
                table=self._table.name,
                partition=self._partition,
                version=self._version + 1,
                state=state,
                parts=tuple(self._parts),
                rows=sum(part.rows for part in self._parts),
                schema_fingerprint=fingerprint([(column.name, str(column.dtype)) for column in self._table.columns]),
                created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                fingerprints=self._fingerprints,
                counts=dict(counts),
                notes=dict(notes),
                owed=owed,
                writer=self._writer,
            )
        )
        self._version = commit.version
        return commit
