"""What is owed, laid out for a terminal and for machines.

Belongs here: tables of what was counted. Does not belong here: counting (`assets.owed`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from amr_pipeline.report.summary import text_table

SHARDS_SHOWN = 4
"""Ranges of shards that one line names; a line says how many more there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwedPartition:
    """One partition that owes something.

    Attributes:
        distiller, shard: None where the table is not partitioned by them.
        rows: rows owed, by cause; None where nobody can count them before the step has run.
        because: what its record lacks or says otherwise, in words.
    """

    asset: str
    partition: str
    distiller: str | None = None
    shard: str | None = None
    rows: Mapping[str, int] | None = None
    because: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int | None:
        """Rows owed for all causes together, or None where they are not counted."""
        return None if self.rows is None else sum(self.rows.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Owed:
    """What a study owes.

    Attributes:
        partitions: how many each asset that was asked about has, in the order of the pipeline.
        owed: those that owe something, in the same order.
    """

    study: str
    shards: tuple[str, ...]
    partitions: Mapping[str, int]
    owed: tuple[OwedPartition, ...] = field(default=())

    def of(self, asset: str) -> list[OwedPartition]:
        """The owed partitions of one asset."""
        return [one for one in self.owed if one.asset == asset]

    def as_json(self) -> dict[str, object]:
        """The same as plain data: sums by asset, and every partition that owes something."""
        return {
            "study": self.study,
            "assets": {
                name: {"partitions": count, "owed": len(self.of(name)), "rows": _sums(self.of(name))}
                for name, count in self.partitions.items()
            },
            "owed": [
                {
                    "asset": one.asset,
                    "partition": one.partition,
                    "distiller": one.distiller,
                    "shard": one.shard,
                    "rows": None if one.rows is None else dict(one.rows),
                    "because": list(one.because),
                }
                for one in self.owed
            ],
        }


def owed_text(found: Owed) -> str:
    """A line and a table per asset that owes something; tables of distiller x shard have a line per distiller."""
    if not found.owed:
        return "Nothing is owed: every partition was made from today's rows, code and inputs."
    return "\n\n".join(_asset_text(found, name) for name in found.partitions if found.of(name))


def owed_table(found: Owed, name: str) -> tuple[str, list[str], list[list[object]]]:
    """What one asset owes: a sentence, the head of a table, and its lines; none where nothing is owed."""
    owed = found.of(name)
    counted = [one.num_rows for one in owed if one.num_rows is not None]
    said = f", {sum(counted):,} rows" if counted else ""
    title = f"{name}: {len(owed):,} of {found.partitions[name]:,} partitions owed{said}"
    by_response = bool(owed) and owed[0].distiller is not None
    return title, *(_by_distiller(found, owed) if by_response else _by_partition(owed))


def _asset_text(found: Owed, name: str) -> str:
    title, header, rows = owed_table(found, name)
    return f"{title}\n{text_table(header, rows)}"


def _by_distiller(found: Owed, owed: Sequence[OwedPartition]) -> tuple[list[str], list[list[object]]]:
    causes = list(dict.fromkeys(cause for one in owed for cause in one.rows or ()))
    rows: list[list[object]] = []
    for distiller in dict.fromkeys(one.distiller for one in owed):
        mine = [one for one in owed if one.distiller == distiller]
        sums = _sums(mine) or {}
        shards = _ranges(found.shards, {one.shard for one in mine})
        rows.append([distiller, len(mine), shards, *(sums.get(cause, 0) for cause in causes), _why(mine)])
    return ["distiller", "partitions", "shards", *causes, "the record"], rows


def _by_partition(owed: Sequence[OwedPartition]) -> tuple[list[str], list[list[object]]]:
    """Partitions that owe something for the same reasons share a line."""
    groups: dict[str, list[str]] = {}
    for one in owed:
        groups.setdefault(_why([one]), []).append(one.partition)
    rows: list[list[object]] = [[_shortened(names), len(names), why] for why, names in groups.items()]
    return ["partitions", "number", "the record"], rows


def _sums(owed: Iterable[OwedPartition]) -> dict[str, int] | None:
    counted = [one.rows for one in owed if one.rows is not None]
    sums = Counter[str]()
    for rows in counted:
        sums.update(rows)
    return dict(sums) if counted else None


def _why(owed: Sequence[OwedPartition]) -> str:
    """What records say, with in how many partitions where not in all."""
    counts = Counter(reason for one in owed for reason in one.because)
    return "; ".join(reason if count == len(owed) else f"{reason} ({count})" for reason, count in counts.items())


def _ranges(shards: Sequence[str], owed: set[str | None]) -> str:
    """Neighbouring shards as `00-0f`, and a number for what is too much for a line."""
    if owed == set(shards) and len(shards) > 1:
        return "all"
    return _shortened([first if first == last else f"{first}-{last}" for first, last in _neighbours(shards, owed)])


def _neighbours(shards: Sequence[str], owed: set[str | None]) -> Iterator[tuple[str, str]]:
    first = previous = None
    for shard in [*shards, None]:
        is_owed = shard is not None and shard in owed
        if is_owed and first is None:
            first = shard
        elif not is_owed and first is not None and previous is not None:
            yield first, previous
            first = None
        previous = shard


def _shortened(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHARDS_SHOWN])
    return f"{shown} and {len(names) - SHARDS_SHOWN} more" if len(names) > SHARDS_SHOWN else shown
