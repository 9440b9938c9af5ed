"""Filters: each looks at one query and gives a reason with evidence, or nothing.

`clean_shard` runs them in order over one shard and conserves rows: in = kept + dropped.

Source: DeepDistill 2.2.1.
# ours: the thresholds, the patterns, and rules instead of an LLM for incomplete queries; the paper prints none.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from amr_pipeline import tables
from amr_pipeline.queries.decontamination import BenchmarkIndex
from amr_pipeline.queries.identity import question_text
from amr_pipeline.queries.near_duplicates import near_duplicates
from amr_pipeline.studies.study import QueryRules

LONGEST_EVIDENCE = 2_000

_URL = re.compile(r"(?:https?|ftp)://\S+|\bwww\.\S+\.\S+", re.IGNORECASE)
_TABLE = re.compile(
    r"^\s*\|.*\|\s*$\n^\s*\|?[\s:|-]*-{3,}[\s:|-]*$|<table\b|\\begin\{tabular\}", re.MULTILINE | re.IGNORECASE
)
_IMAGE = re.compile(
    r"!\[[^\]]*\]\(|<img\b|\\includegraphics|\b(?:figure|image|picture|diagram) (?:below|above)\b", re.IGNORECASE
)
_CUT_OFF = re.compile(
    r"(?:\b(?:and|or|the|a|an|of|to|with|then|that|if|is|are|in|for|by)|[,;(\[{\\]|\.\.\.|…)\s*$", re.IGNORECASE
)
# UTF-8 read as Latin-1 or Windows-1252 shows as these pairs.
_MOJIBAKE = re.compile(r"Ã[\u0080-\u00bf©¨ª«¡³±¶¼]|â€[™œ“”¢\u009d]|Â[\u00a0-\u00bf]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """Why a query is dropped, and what shows it."""

    reason: str
    evidence: str


def wrong_unicode(text: str, rules: QueryRules) -> Rejection | None:
    """Replacement characters, control characters, or UTF-8 that was read as another encoding."""
    for name, pattern in (
        ("replacement character", re.compile("\ufffd")),
        ("mojibake", _MOJIBAKE),
        ("control", _CONTROL),
    ):
        if found := pattern.search(text):
            return Rejection(reason="wrong unicode", evidence=f"{name} {found.group()!r} in {text!r}")
    return None


def non_ascii(text: str, rules: QueryRules) -> Rejection | None:
    """Share of characters outside ASCII above the study's limit."""
    limit = rules.highest_non_ascii_ratio
    ratio = sum(not letter.isascii() for letter in text) / max(1, len(text))
    if limit is None or ratio <= limit:
        return None
    return Rejection(reason="non-ASCII ratio", evidence=f"{ratio:.2f} > {limit} in {text!r}")


def wrong_length(text: str, rules: QueryRules) -> Rejection | None:
    """Empty, too short or too long."""
    length = len(text.strip())
    if length < rules.shortest_characters:
        return Rejection(reason="too short", evidence=f"{length} characters: {text!r}")
    if rules.longest_characters is not None and length > rules.longest_characters:
        return Rejection(
            reason="too long", evidence=f"{length:,} > {rules.longest_characters:,} characters: {text[:200]!r}"
        )
    return None


def incomplete(text: str, rules: QueryRules) -> Rejection | None:
    """Ends in the middle of a sentence: on a connecting word, an open bracket, a comma or dots."""
    if not rules.drop_incomplete or not (found := _CUT_OFF.search(text)):
        return None
    return Rejection(reason="incomplete", evidence=f"ends with {found.group().strip()!r}: {text[-200:]!r}")


def special_content(text: str, rules: QueryRules) -> Rejection | None:
    """A URL, a table or a reference to an image, which a text model cannot see."""
    tests = (("url", rules.drop_urls, _URL), ("table", rules.drop_tables, _TABLE), ("image", rules.drop_images, _IMAGE))
    for reason, wanted, pattern in tests:
        if wanted and (found := pattern.search(text)):
            return Rejection(reason=reason, evidence=f"{found.group()[:200]!r} in {text[:1000]!r}")
    return None


FILTERS: tuple[Callable[[str, QueryRules], Rejection | None], ...] = (
    wrong_length,
    wrong_unicode,
    non_ascii,
    special_content,
    incomplete,
)
"""In this order; the first that objects gives the reason."""


def first_rejection(text: str, rules: QueryRules) -> Rejection | None:
    """The first filter's objection to the last user turn, or None."""
    return next((rejection for test in FILTERS if (rejection := test(text, rules)) is not None), None)


def represented(raw: pl.DataFrame, benchmarks: BenchmarkIndex, rules: QueryRules) -> pl.DataFrame:
    """`near_duplicates` rows among the queries that no other rule drops, so that whoever stands for others is kept.

    Empty where the rules set no similarity. Decontamination, which costs most, is asked only about queries that
    resemble another one.

    Args:
        raw: `query_id`, `category` and `messages` of every source.
        benchmarks: what queries must not resemble.
        rules: the study's query rules.
    """
    if rules.near_duplicate_similarity is None:
        return tables.NEAR_DUPLICATES.empty()
    texts = (messages[-1]["content"] for messages in raw.get_column("messages").to_list())
    passing = raw.filter(pl.Series([first_rejection(text, rules) is None for text in texts], dtype=pl.Boolean))
    found = near_duplicates(passing, rules.near_duplicate_similarity)
    alike = {*found.get_column("query_id"), *found.get_column("stands_for_it")}
    members = passing.filter(pl.col("query_id").is_in(alike))
    contaminated = [said is not None for said in benchmarks.contaminations(members.get_column("messages").to_list())]
    if not any(contaminated):
        return found
    return near_duplicates(members.filter(~pl.Series(contaminated, dtype=pl.Boolean)), rules.near_duplicate_similarity)


def clean_shard(
    raw: pl.DataFrame, stand_ins: pl.DataFrame, benchmarks: BenchmarkIndex, rules: QueryRules
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    """One shard's (`queries`, `dropped_queries`, counts by reason); kept + dropped = `raw` rows.

    Equal texts keep the row of the alphabetically first source; a conflict of references is said in the evidence.

    Args:
        raw: all `raw_queries` rows of the shard, every source.
        stand_ins: `near_duplicates` rows of all shards (`represented`).
        benchmarks: what queries must not resemble.
        rules: the study's query rules.
    """
    ordered = raw.sort("source", "source_row")
    stands_for = dict(stand_ins.select("query_id", "stands_for_it").iter_rows())
    contaminations = benchmarks.contaminations(ordered.get_column("messages").to_list())
    kept: dict[str, dict[str, object]] = {}
    dropped: list[dict[str, object]] = []
    for row, contamination in zip(ordered.iter_rows(named=True), contaminations, strict=True):
        rejection = first_rejection(row["messages"][-1]["content"], rules)
        if rejection is None and contamination is not None:
            rejection = Rejection(reason="contaminated", evidence=contamination.evidence)
        if rejection is None and row["query_id"] in kept:
            rejection = _repeats(kept[row["query_id"]], row)
        if rejection is None and row["query_id"] in stands_for:
            rejection = Rejection(reason="near duplicate", evidence=f"of {stands_for[row['query_id']]}")
        if rejection is None:
            kept[row["query_id"]] = row
        else:
            dropped.append(
                {
                    **row,
                    "reason": rejection.reason,
                    "evidence": rejection.evidence[:LONGEST_EVIDENCE],
                    "question": question_text(row["messages"]),
                }
            )
    counts = Counter({"kept": len(kept)}) + Counter(f"dropped: {row['reason']}" for row in dropped)
    return _frame(list(kept.values()), tables.QUERIES), _frame(dropped, tables.DROPPED_QUERIES), dict(counts)


def _repeats(first: dict[str, object], row: dict[str, object]) -> Rejection:
    conflict = (
        ""
        if first["reference"] == row["reference"]
        else f"; references differ: {first['reference']!r}, {row['reference']!r}"
    )
    return Rejection(reason="exact duplicate", evidence=f"of {first['source']} {first['source_row']}{conflict}")


def _frame(rows: list[dict[str, object]], table: tables.Table) -> pl.DataFrame:
    names = list(table.schema)
    return pl.DataFrame([{name: row[name] for name in names} for row in rows], schema=table.schema)
