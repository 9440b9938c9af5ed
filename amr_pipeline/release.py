"""Releases: the files of a published subset, what changed since the last one, and whether it may be published.

The layout is that of the published data set: one file per category, distiller and pass, as JSON lines and as Parquet,
with its field names and its spelling of categories. Two things are added because readers ask for them: `response_id`
on every row, so that rows can be joined and releases compared, and a passport file with where each row came from.

Pure: frames in, bytes out. The caller reads the tables, stores the files, and lets them be seen only when all loaded.

Belongs here: fields, file names, licences, differences, smoke loading. Does not belong here: the card's text
(`report.card`), or which responses are chosen (`subsets`).
Source: DeepDistill, layout of AM-DeepSeek-Distilled-40M.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from amr_pipeline import tables
from amr_pipeline.categories import Category, published_name
from amr_pipeline.queries.identity import question_text
from amr_pipeline.studies.study import Distiller, Source

PASSPORTS = "passports.parquet"
"""Where each released row came from, one row per response."""

UNKNOWN = "unknown"

_FILE_PREFIXES = {
    Category.MATH: "math",
    Category.CODE: "code",
    Category.SCIENCE: "science",
    Category.INSTRUCTION_FOLLOWING: "if",
    Category.CONVERSATION: "other",
}


_PUBLISHED_AS = {
    "text": "answer",
    "source": "question_source",
    "reference": "ground_truth",
    "test_cases": "test_case",
    "constraints": "instruction_constrain",
}
"""Columns that the published data set calls something else."""


class ReleaseError(ValueError):
    """A release may not be published; the message says why and what to do."""


class LicenceError(ReleaseError):
    """Rows of a source whose licence is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseFile:
    """One file of a release, `path` relative to the release's folder; `num_rows` 0 for text."""

    path: str
    content: bytes
    num_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseDiff:
    """What changed between two releases, by response id.

    Attributes:
        added, removed: published rows that only the newer, or only the older release has.
        changed: one row per (response_id, field) whose value differs, with `before` and `after` as text.
        added_fields, removed_fields: columns only one of the two has; they make no row `changed`.
        num_unchanged: responses in both whose common fields are equal.
    """

    added: pl.DataFrame
    removed: pl.DataFrame
    changed: pl.DataFrame
    added_fields: tuple[str, ...]
    removed_fields: tuple[str, ...]
    num_unchanged: int

    @property
    def counts(self) -> dict[str, int]:
        """Responses added, removed, changed and unchanged."""
        return {
            "added": self.added.height,
            "removed": self.removed.height,
            "changed": self.changed.get_column("response_id").n_unique(),
            "unchanged": self.num_unchanged,
        }


def published_fields(distillers: Sequence[str]) -> list[str]:
    """Fields of a published row, in order; `pass_rate_<distiller>` for every distiller of the study."""
    rates = [f"pass_rate_{name}" for name in distillers]
    return [
        *("question", "answer", "question_source", "answer_source", "category", "ground_truth", "test_case"),
        *("instruction_constrain", *rates, "verify_score", "ppl", "model_name", "response_id"),
    ]


def published_rows(
    subset: pl.DataFrame,
    *,
    queries: pl.DataFrame,
    responses: pl.DataFrame,
    difficulty: pl.DataFrame,
    response_quality: pl.DataFrame,
    distillers: Sequence[Distiller],
) -> pl.DataFrame:
    """Published rows of chosen responses, sorted by response id.

    Fields are `published_fields`; absent references, tests and constraints are null, `pass_rate_*` is null where
    that distiller has nothing decided, `ppl` where there is no scorer. `category` is spelled as published.

    `subset` holds the `tables.SUBSETS` rows of one recipe, the other frames rows of the tables they are named after;
    rows that belong to no chosen response are ignored. `distillers` are all of the study, in its order.

    Raises:
        ReleaseError: a chosen response or its query is not among the rows given.
    """
    joined = _joined(subset, queries, responses)
    names = {str(category): published_name(category) for category in Category}
    models = {row.name: row.model.rstrip("/").rsplit("/", 1)[-1] for row in distillers}
    origins = {row.name: f"{row.model}@{row.revision}" for row in distillers}
    for row in distillers:
        joined = joined.join(_pass_rates(difficulty, row.name), on="query_id", how="left")
    perplexities = response_quality.select("response_id", pl.col("perplexity").alias("ppl"))
    return (
        joined.join(perplexities, on="response_id", how="left", maintain_order="left")
        .with_columns(
            pl.Series("question", [question_text(turns) for turns in joined.get_column("messages")], dtype=pl.String),
            pl.col("category").replace_strict(names, return_dtype=pl.String),
            answer_source=pl.col("distiller").replace_strict(origins, return_dtype=pl.String),
            model_name=pl.col("distiller").replace_strict(models, return_dtype=pl.String),
        )
        .rename(_PUBLISHED_AS)
        .select(published_fields([row.name for row in distillers]))
        .sort("response_id")
    )


def passports(
    subset: pl.DataFrame,
    *,
    queries: pl.DataFrame,
    responses: pl.DataFrame,
    verdicts: pl.DataFrame,
    distillers: Sequence[Distiller],
) -> pl.DataFrame:
    """Where each chosen response came from, sorted by response id.

    Columns: response_id, query_id, source, source_row, licence, distiller, model, revision, distiller_fingerprint,
    pass_index, seed (null: imported), engine, finish_reason, response_tokens, chosen_because, and `verdicts`: every
    verdict ever given on it (verifier, verifier_fingerprint, verdict, verify_score, cause).

    Raises:
        ReleaseError: as `published_rows`.
    """
    models = {row.name: row.model for row in distillers}
    revisions = {row.name: row.revision for row in distillers}
    said = ("verifier", "verifier_fingerprint", "verdict", "verify_score", "cause")
    every = (
        verdicts.sort("verifier_fingerprint")
        .group_by("response_id", maintain_order=True)
        .agg(pl.struct(said).alias("verdicts"))
    )
    return (
        _joined(subset, queries, responses)
        .join(every, on="response_id", how="left")
        .with_columns(
            model=pl.col("distiller").replace_strict(models, return_dtype=pl.String),
            revision=pl.col("distiller").replace_strict(revisions, return_dtype=pl.String),
        )
        .select(
            *("response_id", "query_id", "source", "source_row", "licence", "distiller", "model", "revision"),
            *("distiller_fingerprint", "pass_index", "seed", "engine", "finish_reason", "response_tokens"),
            *("chosen_because", "verdicts"),
        )
        .sort("response_id")
    )


def licence_counts(origins: pl.DataFrame) -> dict[str, int]:
    """Released rows by licence, most first; `origins` has a column `licence`."""
    counted = origins.group_by("licence").len().sort(["len", "licence"], descending=[True, False])
    return dict(counted.iter_rows())


def require_licences(origins: pl.DataFrame, sources: Sequence[Source]) -> None:
    """Refuse a release that holds rows under an unknown licence.

    A source whose row says `unknown_licence_accepted_because` is let through; the card prints that sentence.

    Args:
        origins: one row per released response, with `source` and `licence`.
        sources: the study's sources.

    Raises:
        LicenceError: some rows have no known licence; the message names their sources and how many.
    """
    accepted = [row.name for row in sources if row.unknown_licence_accepted_because]
    blocked = (
        origins.filter((pl.col("licence") == UNKNOWN) & ~pl.col("source").is_in(accepted))
        .group_by("source")
        .len()
        .sort("source")
    )
    if blocked.height:
        named = ", ".join(f"{source} ({count:,} rows)" for source, count in blocked.iter_rows())
        raise LicenceError(
            f"licence unknown: {named}; set licence= of these sources to an SPDX identifier, drop them, or say in "
            "unknown_licence_accepted_because= why their rows may be published"
        )


def release_files(
    rows: pl.DataFrame, origins: pl.DataFrame, texts: Mapping[str, str] | None = None
) -> Iterator[ReleaseFile]:
    """Every file of a release, one at a time and in the order of their paths within a kind.

    Per category, distiller and pass (counted from 1) `data/<category>_<distiller>_<n>pass` as `.jsonl` and
    `.parquet`; then `passports.parquet`; then `texts` as given (the card as `README.md`).

    Args:
        rows: `published_rows`.
        origins: `passports` of the same responses.
        texts: path to content.
    """
    placed = rows.join(origins.select("response_id", "distiller", "pass_index"), on="response_id", how="inner")
    prefixes = {published_name(category): prefix for category, prefix in _FILE_PREFIXES.items()}
    groups = placed.select("category", "distiller", "pass_index").unique().sort("category", "distiller", "pass_index")
    for category, distiller, index in groups.iter_rows():
        mine = placed.filter(
            (pl.col("category") == category) & (pl.col("distiller") == distiller) & (pl.col("pass_index") == index)
        ).select(rows.columns)
        stem = f"data/{prefixes[category]}_{distiller}_{index + 1}pass"
        yield ReleaseFile(path=f"{stem}.jsonl", content=_json_lines(mine), num_rows=mine.height)
        yield ReleaseFile(path=f"{stem}.parquet", content=_parquet(mine), num_rows=mine.height)
    yield ReleaseFile(path=PASSPORTS, content=_parquet(origins), num_rows=origins.height)
    for path, text in (texts or {}).items():
        yield ReleaseFile(path=path, content=text.encode(), num_rows=0)


def require_loadable(file: ReleaseFile) -> None:
    """Read a file back as a user would, before it becomes visible.

    Raises:
        ReleaseError: it cannot be read, or has other rows than it should.
    """
    try:
        found = _rows_of(file)
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise ReleaseError(f"{file.path} cannot be read back: {error}") from error
    if found != file.num_rows:
        raise ReleaseError(f"{file.path} reads back with {found} rows; wanted {file.num_rows}")


def release_rows(recipe: str, files: Sequence[ReleaseFile]) -> pl.DataFrame:
    """`tables.RELEASE` rows of files, sorted by path."""
    rows = [
        {
            "selection_recipe": recipe,
            "path": file.path,
            "num_rows": file.num_rows,
            "num_bytes": len(file.content),
            "sha256": hashlib.sha256(file.content).hexdigest(),
        }
        for file in files
    ]
    return pl.DataFrame(rows, schema=tables.RELEASE.schema).sort("path")


def difference(before: pl.DataFrame | None, after: pl.DataFrame) -> ReleaseDiff:
    """What changed from one release to the next; with None before, everything is added.

    Both are published rows with `response_id`. Fields are compared by their text, where both releases have them.
    """
    if before is None:
        before = after.clear()
    common = [name for name in after.columns if name in before.columns and name != "response_id"]
    removed = before.join(after.select("response_id"), on="response_id", how="anti").sort("response_id")
    added = after.join(before.select("response_id"), on="response_id", how="anti").sort("response_id")
    both = after.join(before, on="response_id", how="inner", suffix=" before")
    changes = [
        both.select(
            "response_id",
            pl.lit(name).alias("field"),
            pl.col(f"{name} before").cast(pl.String).alias("before"),
            pl.col(name).cast(pl.String).alias("after"),
        ).filter(pl.col("before").ne_missing(pl.col("after")))
        for name in common
    ]
    none = pl.DataFrame(schema=dict.fromkeys(("response_id", "field", "before", "after"), pl.String))
    changed = pl.concat([none, *changes]).sort("response_id", "field")
    return ReleaseDiff(
        added=added,
        removed=removed,
        changed=changed,
        added_fields=tuple(name for name in after.columns if name not in before.columns),
        removed_fields=tuple(name for name in before.columns if name not in after.columns),
        num_unchanged=both.height - changed.get_column("response_id").n_unique(),
    )


def _joined(subset: pl.DataFrame, queries: pl.DataFrame, responses: pl.DataFrame) -> pl.DataFrame:
    of_query = queries.select(
        "query_id", "messages", "reference", "test_cases", "constraints", "source", "source_row", "licence"
    )
    of_response = responses.select("response_id", "distiller_fingerprint", "seed", "text", "finish_reason", "engine")
    joined = subset.join(of_response, on="response_id", how="inner").join(of_query, on="query_id", how="inner")
    if joined.height != subset.height:
        raise ReleaseError(
            f"{subset.height} responses are chosen, {joined.height} rows have their text and query; "
            "the tables given are not those the subset was made from"
        )
    return joined


def _pass_rates(difficulty: pl.DataFrame, distiller: str) -> pl.DataFrame:
    """Pass rate of one distiller on every query it was asked, as `pass_rate_<distiller>`."""
    mine = difficulty.filter(pl.col("distiller") == distiller)
    return mine.select("query_id", pl.col("pass_rate").alias(f"pass_rate_{distiller}"))


def _json_lines(rows: pl.DataFrame) -> bytes:
    # json instead of polars' writer: its escaping of control characters is the one every reader agrees on.
    return "".join(
        json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows.iter_rows(named=True)
    ).encode()


def _parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _rows_of(file: ReleaseFile) -> int:
    """Rows a reader finds in a file; 0 for a text, which has to be UTF-8."""
    if file.path.endswith(".parquet"):
        return pl.read_parquet(io.BytesIO(file.content)).height
    text = file.content.decode()
    if file.path.endswith(".jsonl"):
        # Only "\n" ends a record; str.splitlines would also split at separators that may stand inside a text.
        return sum(isinstance(json.loads(line), dict) for line in text.split("\n") if line)
    return 0
