"""Tables as Parquet parts and commit records: readers see whole partitions or none.

    {root}/{table}/{partition}/parts/{sha256}.parquet      immutable, page checksums on
    {root}/{table}/{partition}/commits/00000007.json       created exclusively; the only thing readers trust

A commit lists its parts with their sha256, row counts, and the fingerprints of the rows, code and inputs that made
it. `complete` commits are what readers see. A long step publishes `partial` commits as it goes, which only a writer
that resumes reads. A killed writer leaves unreferenced files, which nobody sees and `amr collect-garbage` removes.

Source: design promises 4 and 5.
"""

import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Literal
from urllib.parse import quote, unquote

import polars as pl
import pyarrow.parquet as pq

from amr_pipeline.engines.commits import (
    Commit,
    CommitConflict,
    CommitSummary,
    DamagedPart,
    Part,
    PartitionMissing,
    TableSummary,
)
from amr_pipeline.engines.partition_writer import PartitionWriter
from amr_pipeline.engines.storage import Storage, open_storage
from amr_pipeline.tables import TABLES, Table

_AGAIN = "; its rows stand, materialize the partition again for what is still owed"


MOST_SUMMARIES = 50_000
"""Summaries of commits that a process remembers, a kilobyte or two each."""

_seen: dict[tuple[str, str, str, float], CommitSummary | None] = {}
"""By place, table, name and time of a record, since a place that was emptied has the same names again."""
_remembering = threading.Lock()
"""Sensors and schedules of a code server ask side by side."""


def _commit(content: bytes) -> Commit:
    record = json.loads(content)
    return Commit(**{**record, "parts": tuple(Part(**part) for part in record["parts"])})


class TableStore:
    """All tables under one root.

    Attributes:
        root: local folder or URL.
        files: the bytes below it, for products that are files rather than rows (releases, pages).
    """

    def __init__(self, root: str, storage_options: Mapping[str, object] | None = None) -> None:
        self.root = root
        self.files: Storage = open_storage(root, storage_options)
        self._place = f"{root} {sorted((storage_options or {}).items())}"

    # ------------------------------------------------------------------------------------------------------ commits

    def latest(self, table: str, partition: str) -> Commit | None:
        """Newest complete commit, or None."""
        return next((commit for commit in self._newest_first(table, partition) if commit.state == "complete"), None)

    def latest_any(self, table: str, partition: str) -> Commit | None:
        """Newest commit of any state, or None; what a resuming writer goes on from."""
        return next(self._newest_first(table, partition), None)

    def digest(self, table: str, partition: str) -> str | None:
        """Content digest of the newest complete commit, or None."""
        commit = self.latest(table, partition)
        return commit.digest if commit else None

    def summary(self, table: str, partitions: Sequence[str]) -> TableSummary:
        """What the newest complete commits of many partitions say.

        Names are listed together and records read together; a record never changes, so that a process which asks again
        reads only those that it has not seen.
        """
        folders = {f"{quote(partition, safe='')}/commits": partition for partition in partitions}
        waiting: dict[str, list[tuple[str, float]]] = {}
        for name, changed in sorted(self.files.names_below(table).items()):
            folder, _, file = name.rpartition("/")
            if folder in folders and file.endswith(".json"):
                waiting.setdefault(folder, []).append((name, changed))
        made_at = max((changed for names in waiting.values() for _, changed in names), default=None)
        found: dict[str, CommitSummary] = {}
        while waiting:  # a round for the newest of each, and further ones for those that were not complete
            newest = {folder: names.pop() for folder, names in waiting.items()}
            read = self._summarized(table, list(newest.values()))
            found |= {folders[folder]: one for folder, name in newest.items() if (one := read[name]) is not None}
            waiting = {folder: names for folder, names in waiting.items() if names and folders[folder] not in found}
        return TableSummary(partitions=found, made_at=made_at)

    def _summarized(self, table: str, names: list[tuple[str, float]]) -> dict[tuple[str, float], CommitSummary | None]:
        """Summaries of records by name and time; None for one that is not complete, or gone since it was listed."""
        keys = {one: (self._place, table, *one) for one in names}
        with _remembering:
            found = {one: _seen[key] for one, key in keys.items() if key in _seen}
        unseen = [one for one in names if one not in found]
        for one, content in zip(unseen, self.files.read_each([f"{table}/{name}" for name, _ in unseen]), strict=True):
            commit = None if content is None else _commit(content)
            found[one] = CommitSummary.of(commit) if commit and commit.state == "complete" else None
        with _remembering:
            _seen.update({keys[one]: found[one] for one in unseen})
            while len(_seen) > MOST_SUMMARIES:
                del _seen[next(iter(_seen))]
        return found

    def versions(self, table: str, partition: str) -> list[Commit]:
        """Every complete commit, oldest first."""
        return [commit for commit in self._newest_first(table, partition) if commit.state == "complete"][::-1]

    def partitions(self, table: str) -> list[str]:
        """Partitions with a complete commit, sorted."""
        return [name for name in map(unquote, self.files.folders(table)) if self.latest(table, name)]

    # ------------------------------------------------------------------------------------------------------ reading

    def read(
        self,
        table: str,
        partitions: str | Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        bucket: str | None = None,
        missing: Literal["error", "empty"] = "error",
    ) -> pl.DataFrame:
        """Rows of the newest complete commits of some partitions, each part checked against its sha256.

        Raises:
            PartitionMissing: a partition has no complete commit and `missing` is "error".
            DamagedPart: a part is gone, shortened or altered.
        """
        frames = list(self.scan(table, partitions, columns=columns, bucket=bucket, missing=missing))
        return pl.concat(frames) if frames else _empty(table, columns)

    def scan(
        self,
        table: str,
        partitions: str | Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        bucket: str | None = None,
        missing: Literal["error", "empty"] = "error",
    ) -> Iterator[pl.DataFrame]:
        """The same rows one part at a time, for tables larger than memory."""
        for partition in [partitions] if isinstance(partitions, str) else partitions:
            commit = self.latest(table, partition)
            if commit is None and missing == "error":
                raise PartitionMissing(
                    f"{table} {partition}: no complete commit under {self.root}; materialize that partition first"
                )
            yield from self._frames(commit, columns, bucket)

    def read_any(self, table: str, partition: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Rows of the newest commit of any state; empty when there is none. For writers that resume."""
        while True:
            commit = self.latest_any(table, partition)
            try:
                frames = list(self._frames(commit, columns, None))
            except DamagedPart:
                # A writer that completed meanwhile dropped the parts that its partial commits alone named.
                if self.latest_any(table, partition) == commit:
                    raise
                continue
            return pl.concat(frames) if frames else _empty(table, columns)

    def read_version(self, table: str, partition: str, version: int) -> pl.DataFrame:
        """Rows of one complete version.

        Raises:
            PartitionMissing: that version is not there or not complete.
        """
        found = [commit for commit in self.versions(table, partition) if commit.version == version]
        if not found:
            raise PartitionMissing(f"{table} {partition}: no complete version {version}")
        frames = list(self._frames(found[0], None, None))
        return pl.concat(frames) if frames else _empty(table, None)

    def verify(self, table: str, partition: str) -> list[str]:
        """Parts of the newest complete commit that are gone or differ from its record; empty when all is well."""
        commit = self.latest(table, partition)
        wrong = []
        for part in commit.parts if commit else ():
            try:
                content = self.files.read(self._part(table, partition, part.name))
            except FileNotFoundError:
                wrong.append(part.name)
                continue
            if hashlib.sha256(content).hexdigest() != part.sha256:
                wrong.append(part.name)
        return wrong

    # ------------------------------------------------------------------------------------------------------ writing

    def writer(
        self, table: str, partition: str, *, fingerprints: Mapping[str, object], replace: bool = False
    ) -> "PartitionWriter":
        """A writer that goes on from the newest commit's parts, or from nothing when `replace`."""
        return PartitionWriter(self, TABLES[table], partition, dict(fingerprints), replace)

    def write(
        self,
        table: str,
        partition: str,
        frame: pl.DataFrame,
        *,
        fingerprints: Mapping[str, object],
        counts: Mapping[str, int] | None = None,
        notes: Mapping[str, object] | None = None,
        bucket_by: str | None = None,
    ) -> Commit:
        """Publish `frame` as the whole of a partition; one part per value of `bucket_by`.

        Raises:
            ValueError: the frame breaks the data dictionary; nothing is published.
            CommitConflict: another writer was faster.
        """
        writer = self.writer(table, partition, fingerprints=fingerprints, replace=True)
        if bucket_by is None:
            writer.append(frame)
        else:
            for (bucket,), share in sorted(frame.partition_by(bucket_by, as_dict=True).items()):
                writer.append(share, bucket=str(bucket))
        return writer.complete(counts=counts, notes=notes)

    def collect_garbage(self, older_than_seconds: float) -> int:
        """Delete files that no commit refers to and that are older than that; count them.

        The age protects a living writer's parts that are written but not yet committed, so it must exceed the
        longest time between a writer's commits.
        """
        horizon, removed = time.time() - older_than_seconds, 0
        for table in TABLES:
            for folder in self.files.folders(table):
                partition = unquote(folder)
                wanted = {part.name for commit in self._newest_first(table, partition) for part in commit.parts}
                for place in ("parts", "commits"):
                    for name, changed in self.files.names(f"{table}/{folder}/{place}").items():
                        orphan = name.startswith(".unfinished-") or (place == "parts" and name not in wanted)
                        if orphan and changed < horizon:
                            self.files.remove(f"{table}/{folder}/{place}/{name}")
                            removed += 1
        return removed

    # ----------------------------------------------------------------------------------------------------- internals

    def _newest_first(self, table: str, partition: str) -> Iterator[Commit]:
        folder = f"{table}/{quote(partition, safe='')}/commits"
        for name in sorted((name for name in self.files.names(folder) if name.endswith(".json")), reverse=True):
            try:
                content = self.files.read(f"{folder}/{name}")
            except FileNotFoundError:  # a partial commit pruned since it was listed
                continue
            yield _commit(content)

    def _frames(
        self, commit: Commit | None, columns: Sequence[str] | None, bucket: str | None
    ) -> Iterator[pl.DataFrame]:
        for part in commit.parts if commit else ():
            if commit is not None and (bucket is None or part.bucket == bucket):
                yield self.read_part(commit.table, commit.partition, part, columns)

    def read_part(self, table: str, partition: str, part: Part, columns: Sequence[str] | None) -> pl.DataFrame:
        """Rows of one part, checked against its record."""
        where = f"{table} {partition} {part.name}"
        try:
            content = self.files.read(self._part(table, partition, part.name))
        except FileNotFoundError as error:
            raise DamagedPart(f"{where}: the part is gone; materialize the partition again") from error
        if len(content) != part.num_bytes:
            raise DamagedPart(f"{where}: {len(content)} bytes, its commit says {part.num_bytes}; materialize it again")
        # Page checksums cover neither page headers nor the footer, whose damage ends in anything up to a panic.
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise DamagedPart(f"{where}: its sha256 is not the one in its commit; materialize the partition again")
        # In this thread alone: one of Arrow's that still lets go of `content` aborts a process that ends meanwhile.
        with pq.ParquetFile(io.BytesIO(content), pre_buffer=False) as file:
            arrow = file.read(columns=list(columns) if columns else None, use_threads=False)
        frame = pl.DataFrame(pl.from_arrow(arrow))
        # Columns that were added to the dictionary after this part was written are null in it.
        schema = {name: kind for name, kind in TABLES[table].schema.items() if columns is None or name in columns}
        return frame.select(
            pl.col(name).cast(kind) if name in frame.columns else pl.lit(None, dtype=kind).alias(name)
            for name, kind in schema.items()
        )

    @staticmethod
    def _part(table: str, partition: str, name: str) -> str:
        return f"{table}/{quote(partition, safe='')}/parts/{name}"

    def store_part(self, table: Table, partition: str, frame: pl.DataFrame, bucket: str | None) -> Part:
        """Write rows as a part; nobody sees it until a commit names it."""
        buffer = io.BytesIO()
        pq.write_table(frame.to_arrow(), buffer, compression="zstd", write_page_checksum=True)
        content = buffer.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"{sha256[:40]}.parquet"
        self.files.put(self._part(table.name, partition, name), content)
        return Part(name=name, rows=frame.height, num_bytes=len(content), sha256=sha256, bucket=bucket)

    def commit(self, commit: Commit) -> Commit:
        """Publish a version, exclusively.

        Raises:
            CommitConflict: another writer published this version, or a later one.
        """
        folder = f"{commit.table}/{quote(commit.partition, safe='')}/commits"
        name = f"{commit.version:08d}.json"
        content = json.dumps(asdict(commit), sort_keys=True, indent=1).encode()
        if not self.files.create(f"{folder}/{name}", content):
            raise CommitConflict(
                f"{commit.table} {commit.partition}: version {commit.version} was committed by another writer{_AGAIN}"
            )
        if max(other for other in self.files.names(folder) if other.endswith(".json")) != name:
            # A faster writer went past this version and pruned what was in between; this record must not stay.
            self.files.remove(f"{folder}/{name}")
            raise CommitConflict(
                f"{commit.table} {commit.partition}: a version newer than {commit.version} exists already{_AGAIN}"
            )
        return commit

    def prune(self, table: str, partition: str, before: int, superseded: Sequence[Part]) -> None:
        """Drop partial commits older than a complete one, and parts that compaction replaced and nobody refers to."""
        folder = f"{table}/{quote(partition, safe='')}/commits"
        wanted: set[str] = set()
        for commit in self._newest_first(table, partition):
            if commit.state == "partial" and commit.version < before:
                self.files.remove(f"{folder}/{commit.version:08d}.json")
            else:
                wanted.update(part.name for part in commit.parts)
        for part in superseded:
            if part.name not in wanted:
                self.files.remove(self._part(table, partition, part.name))


def _empty(table: str, columns: Sequence[str] | None) -> pl.DataFrame:
    frame = TABLES[table].empty()
    return frame.select(columns) if columns else frame
