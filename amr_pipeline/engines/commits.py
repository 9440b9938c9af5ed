"""What a commit record says, and what can be wrong with one."""

from dataclasses import dataclass, field
from typing import Any, Literal

from amr_pipeline.fingerprint import fingerprint


class CommitConflict(RuntimeError):
    """Another writer committed this partition first; nothing of this writer's became visible."""


class PartitionMissing(LookupError):
    """A partition was read that has no complete commit."""


class DamagedPart(OSError):
    """A part's bytes are not what its commit record says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One Parquet file of a commit; `bucket` lets a reader fetch only its share."""

    name: str
    rows: int
    num_bytes: int
    sha256: str
    bucket: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One version of one partition.

    Attributes:
        version: from 1, one more for each commit.
        state: "complete", or "partial" while a step is under way.
        created_at: UTC in microseconds, since versions of several partitions are put in order by it.
        fingerprints: of rows, code and inputs (`assets.lineage`).
        counts: rows by reason, as the step reported them.
        owed: rows that should be here and are not, or that another attempt may settle; above 0 the partition stays
            owed although it was made from today's rows, code and inputs.
        writer: drawn anew by every writer, so that equal content from two writers is two records.
        notes: anything else a step wants to find again.
    """

    table: str
    partition: str
    version: int
    state: Literal["partial", "complete"]
    parts: tuple[Part, ...]
    rows: int
    schema_fingerprint: str
    created_at: str
    fingerprints: dict[str, object] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    owed: int = 0
    writer: str = ""

    @property
    def digest(self) -> str:
        """Identity of the content: equal rows in equal order have equal digests, whatever made them."""
        return fingerprint(self.schema_fingerprint, [part.sha256 for part in self.parts])


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitSummary:
    """Of a newest complete commit what decides whether its partition is current; small, where thousands are held.

    Attributes:
        digest, fingerprints, owed: as those of the commit.
    """

    digest: str
    fingerprints: dict[str, object]
    owed: int

    @classmethod
    def of(cls, commit: Commit) -> "CommitSummary":
        """The summary of a commit."""
        return cls(digest=commit.digest, fingerprints=commit.fingerprints, owed=commit.owed)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSummary:
    """Many partitions of a table at once.

    Attributes:
        partitions: those that have a complete commit.
        made_at: when anything was last committed to one of them, partial commits too; unix seconds, None for never.
    """

    partitions: dict[str, CommitSummary]
    made_at: float | None
