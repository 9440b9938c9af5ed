"""Who a query is: an id from its normalized turns, and the shard that follows from the id.

Belongs here: identity and exact equality. Does not belong here: similarity (`near_duplicates`, `decontamination`).
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping

import polars as pl

from amr_pipeline import tables
from amr_pipeline.fingerprint import content_id

_SPACE = re.compile(r"\s+")
_NOT_WORD = re.compile(r"[^\w+\-*/^=<>%.]+|(?<!\d)\.|\.(?!\d)")


def normalized_text(messages: Iterable[Mapping[str, str]]) -> str:
    """The turns as one text: Unicode NFC, runs of white space as one space, `role: content` per line.

    Case is kept, since `x` and `X` may be different unknowns.
    """
    return "\n".join(
        f"{turn['role']}: {_SPACE.sub(' ', unicodedata.normalize('NFC', turn['content'])).strip()}" for turn in messages
    )


def query_id(messages: Iterable[Mapping[str, str]]) -> str:
    """Identity of a query: 32 hex digits of its `normalized_text`; the same question has one id in every source."""
    return content_id("query", normalized_text(messages))


def shard_of(identity: str, num_shards: int) -> str:
    """Shard of a query id: its leading bits as two hex digits, `00` to `num_shards - 1`.

    Raises:
        ValueError: `num_shards` is not a power of two up to 256.
    """
    if num_shards < 1 or num_shards > 256 or num_shards & (num_shards - 1):
        raise ValueError(f"num_shards is {num_shards}; wanted a power of two from 1 to 256")
    return f"{int(identity[:2], 16) * num_shards // 256:02x}"


def question_text(messages: Iterable[Mapping[str, str]]) -> str:
    """What a person reads: the only turn's text, or all turns with their roles."""
    turns = list(messages)
    return turns[0]["content"] if len(turns) == 1 else "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def comparable_text(messages: Iterable[Mapping[str, str]]) -> str:
    """The turns reduced to what makes two questions the same: NFKC, case folded, punctuation and spacing dropped.

    Signs that carry mathematics are kept, so `3-1` and `3+1` stay apart.
    """
    text = " ".join(unicodedata.normalize("NFKC", turn["content"]).casefold() for turn in messages)
    return _SPACE.sub(" ", _NOT_WORD.sub(" ", text)).strip()


def identified(rows: pl.DataFrame, num_shards: int) -> pl.DataFrame:
    """`raw_queries` rows: the rows a source gave (`sources.records.read_queries`), with `query_id` and `shard`."""
    identities = [query_id(messages) for messages in rows.get_column("messages").to_list()]
    shards = [shard_of(identity, num_shards) for identity in identities]
    return rows.with_columns(
        pl.Series("query_id", identities, dtype=pl.String), pl.Series("shard", shards, dtype=pl.String)
    ).select(list(tables.RAW_QUERIES.schema))


def benchmark_problems(rows: pl.DataFrame) -> pl.DataFrame:
    """`benchmark_queries` rows of what a benchmark gave; a problem that occurs twice counts once."""
    return (
        identified(rows, 1)
        .rename({"source": "benchmark"})
        .unique("query_id", keep="first", maintain_order=True)
        .select(list(tables.BENCHMARK_QUERIES.schema))
    )
