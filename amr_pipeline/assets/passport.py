"""Everything that is stored about one response, query or benchmark answer: what `amr trace` prints.

One partition of each table is read, the one that the row's shard and distiller name. Texts are cut; what a terminal
must not see is taken out where it is printed (`report.terminal_text`).

Belongs here: which facts a passport holds. Does not belong here: finding the row (`row_search`), where a response went
(`descendants`), layout (`report.passport_text`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from amr_pipeline.assets.descendants import Standing, releases, subsets, trainings
from amr_pipeline.assets.lineage import verifier_fingerprints
from amr_pipeline.assets.partitions import ALL, distiller_and_shard, response_partition
from amr_pipeline.assets.row_search import Match
from amr_pipeline.difficulty import JOINT
from amr_pipeline.queries.identity import question_text, shard_of
from amr_pipeline.studies.study import Study

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

LONGEST_TEXT = 2_000
"""Characters of a text that a passport holds."""

Facts = dict[str, Any]

_DIFFICULTY = (
    *("distiller", "tier", "num_responses", "num_passed", "num_undecided", "pass_rate", "pass_rate_low"),
    *("pass_rate_high", "mean_score", "coefficient_of_variation"),
)


class RowGoneError(LookupError):
    """A table knows an id whose own row is not stored any more."""


def passport(study: Study, store: "TableStore", match: Match, recipe: str | None = None) -> Facts:
    """The passport of a row that was found, as plain data: section to facts, in the order in which they are printed.

    Args:
        study: today's rows.
        store: where the tables are.
        match: the row.
        recipe: the selection recipe whose row of `subsets` is asked for; None: all recipes.

    Raises:
        RowGoneError: another table still names the row, and nothing else is left of it.
    """
    reader = _Reader(study, store)
    makers: dict[str, Callable[[], Facts]] = {
        "query": lambda: reader.query_passport(match.identity),
        "dropped query": lambda: reader.query_passport(match.identity),
        "benchmark problem": lambda: reader.benchmark_problem(match),
        "response": lambda: reader.response_passport(match, recipe),
        "benchmark response": lambda: reader.benchmark_response(match),
    }
    return {"kind": match.kind, "id": match.identity, **makers[match.kind](), "records": reader.records()}


@dataclass(frozen=True, kw_only=True)
class _Place:
    table: str
    partition: str


@dataclass
class _Reader:
    """Reads single rows and remembers from which partitions they came."""

    study: Study
    store: "TableStore"
    places: dict[_Place, None] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------------- reading

    def rows(self, table: str, partition: str, wanted: pl.Expr, columns: Iterable[str] | None = None) -> pl.DataFrame:
        """Rows of one partition, part by part; where there are any, the partition is one it came from."""
        chosen = None if columns is None else list(columns)
        parts = self.store.scan(table, partition, columns=chosen, missing="empty")
        frames = [found for part in parts if (found := part.filter(wanted)).height]
        if not frames:
            return self.store.read(table, [], columns=chosen)
        self.places[_Place(table=table, partition=partition)] = None
        return pl.concat(frames)

    def required(self, table: str, match: Match, wanted: pl.Expr) -> Facts:
        """The row that a search found.

        Raises:
            RowGoneError: it is not there; a table beside it is older or newer.
        """
        row = self.first(table, match.partition, wanted)
        if row is None:
            raise RowGoneError(
                f"{match.kind} {match.identity} has no row in {table} {match.partition} any more; what names it is of "
                "another version"
            )
        return row

    def first(self, table: str, partition: str, wanted: pl.Expr) -> Facts | None:
        """The first row, after which no part is read."""
        for part in self.store.scan(table, partition, missing="empty"):
            if (found := part.filter(wanted)).height:
                self.places[_Place(table=table, partition=partition)] = None
                return found.row(0, named=True)
        return None

    def records(self) -> list[Facts]:
        """The commit record of every partition that something was read from."""
        commits = ((place, self.store.latest(place.table, place.partition)) for place in self.places)
        return [
            {
                "table": place.table,
                "partition": place.partition,
                "version": commit.version,
                "created_at": commit.created_at,
                "rows": commit.fingerprints.get("rows"),
                "code": commit.fingerprints.get("code"),
                "digest": commit.digest,
                "num_inputs": len(inputs) if isinstance(inputs := commit.fingerprints.get("inputs"), dict) else None,
            }
            for place, commit in commits
            if commit is not None
        ]

    # ------------------------------------------------------------------------------------------------------ passports

    def response_passport(self, match: Match, recipe: str | None) -> Facts:
        name, shard = distiller_and_shard(match.partition)
        mine = pl.col("response_id") == match.identity
        row = self.required("responses", match, mine)
        query = self.query(row["query_id"])
        facts = {
            "response": _response(row),
            "distiller": self.distiller(name, row["distiller_fingerprint"]),
            "query": query,
            "quality": self.quality(match.partition, mine),
            "verdicts": self.verdicts(match.partition, mine),
            **self.opinions(match.identity, recipe),
            "difficulty of the query": self.difficulty(row["query_id"], shard),
        }
        return {**facts, **self.standing(row, match.partition, recipe)}

    def query_passport(self, identity: str) -> Facts:
        shard = shard_of(identity, self.study.num_shards)
        return {
            "query": self.query(identity),
            "difficulty": self.difficulty(identity, shard),
            "responses": [
                row for name in self.study.distillers for row in self.responses_to(identity, name.name, shard)
            ],
        }

    def benchmark_problem(self, match: Match) -> Facts:
        mine = pl.col("query_id") == match.identity
        row = self.required("benchmark_queries", match, mine)
        scores = [
            self.rows("benchmark_scores", run.name, mine & (pl.col("benchmark") == match.partition))
            for run in self.study.training_recipes
        ]
        answered = [
            {
                "training_recipe": frame["training_recipe"][0],
                "responses": frame.height,
                "passed": frame.filter(pl.col("verdict") == "passed").height,
                "undecided": frame.filter(pl.col("verdict") == "undecided").height,
            }
            for frame in scores
            if frame.height
        ]
        return {"benchmark problem": _problem(row), "scores": answered}

    def benchmark_response(self, match: Match) -> Facts:
        mine = pl.col("response_id") == match.identity
        row = self.required("benchmark_responses", match, mine)
        problem = self.first("benchmark_queries", row["benchmark"], pl.col("query_id") == row["query_id"])
        scored = self.first("benchmark_scores", match.partition, mine)
        checkpoint = self.first("checkpoints", match.partition, pl.col("training_recipe") == match.partition)
        told = ("verdict", "verify_score", "cause")
        return {
            "response": _response(row),
            "benchmark problem": _problem(problem) if problem else "it is not among the benchmark's problems any more",
            "verdict": {name: scored[name] for name in told} if scored else "not judged yet",
            "checkpoint": {
                "training_recipe": match.partition,
                "digest": row["digest"],
                "is_todays": bool(checkpoint) and checkpoint["digest"] == row["digest"],
            },
        }

    # -------------------------------------------------------------------------------------------------------- sections

    def query(self, identity: str) -> Facts:
        """A query as it stands, or why it was dropped; with every source row that has its text."""
        shard, mine = shard_of(identity, self.study.num_shards), pl.col("query_id") == identity
        kept = self.first("queries", shard, mine)
        dropped = self.rows("dropped_queries", shard, mine).rows(named=True)
        facts: Facts = {"query_id": identity, "shard": shard}
        if kept is not None:
            self.places[_Place(table="raw_queries", partition=kept["source"])] = None
            facts |= {name: kept[name] for name in ("category", "source", "source_row", "licence")}
            facts |= {"text": _cut(question_text(kept["messages"])), **_references(kept), "filters": "every one passed"}
        elif dropped:
            facts |= {name: dropped[0][name] for name in ("category", "source", "source_row")}
            facts |= {"text": _cut(dropped[0]["question"]), "filters": f"dropped: {dropped[0]['reason']}"}
            facts["evidence"] = _cut(dropped[0]["evidence"])
        else:
            facts["filters"] = "no source holds it any more"
        others = dropped if kept is not None else dropped[1:]
        if others:
            facts["also in"] = [f"{row['source']} {row['source_row']} ({row['reason']})" for row in others]
        return facts

    def distiller(self, name: str, fingerprint: str) -> Facts:
        """The row that wrote a response, as far as today's study still has it."""
        rows = {row.distiller_fingerprint: row for row in self.study.distillers}
        row = rows.get(fingerprint)
        facts: Facts = {"name": name, "distiller_fingerprint": fingerprint, "is_todays": row is not None}
        if row is None:
            return facts | {"row": "the study has no row of this fingerprint any more; its file's history has"}
        facts |= {"model": row.model, "revision": row.revision, "engine": row.engine}
        if row.engine == "imported":
            return facts  # how it was sampled is not known
        sampling = row.sampling
        return facts | {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_tokens,
            "max_model_len": row.max_model_len,
        }

    def quality(self, partition: str, mine: pl.Expr) -> Facts | None:
        """What `response_quality` says, or None."""
        row = self.first("response_quality", partition, mine)
        names = ("think_characters", "answer_characters", "perplexity", "num_frequent_ngrams", "quality_reason")
        return None if row is None else {name: row[name] for name in names}

    def verdicts(self, partition: str, mine: pl.Expr) -> list[Facts]:
        """Every verdict that is stored, today's verifier first."""
        today = set(verifier_fingerprints(self.study).values())
        found = self.rows("verdicts", partition, mine).sort("verifier_fingerprint").rows(named=True)
        said = [
            {
                "verifier": row["verifier"],
                "verifier_fingerprint": row["verifier_fingerprint"],
                "is_todays": row["verifier_fingerprint"] in today,
                **{name: row[name] for name in ("verdict", "verify_score", "cause")},
                "evidence": _cut(row["evidence"]),
            }
            for row in found
        ]
        return sorted(said, key=lambda verdict: not verdict["is_todays"])

    def opinions(self, identity: str, recipe: str | None) -> Facts:
        """What a second verifier and a person said, where they did."""
        mine = pl.col("response_id") == identity
        names = [row.name for row in self.study.selection_recipes if recipe in (None, row.name)]
        frames = [self.rows("second_opinions", name, mine) for name in names]
        shown = ("selection_recipe", "verifier", "verifier_fingerprint", "verdict", "verify_score", "cause", "evidence")
        second = pl.concat([self.store.read("second_opinions", []), *frames]).select(shown).rows(named=True)
        human = self.first("human_verdicts", ALL, mine)
        said = (
            {} if human is None else {"a person's verdict": {name: human[name] for name in ("human_verdict", "note")}}
        )
        return ({"second opinions": second} if second else {}) | said

    def difficulty(self, query: str, shard: str) -> list[Facts]:
        """Of the query under each distiller, and jointly at the end."""
        found = self.rows("difficulty", shard, pl.col("query_id") == query).select(_DIFFICULTY).rows(named=True)
        return sorted(found, key=lambda row: (row["distiller"] == JOINT, row["distiller"]))

    def responses_to(self, query: str, name: str, shard: str) -> list[Facts]:
        """What a distiller wrote to a query, with today's verdicts; slim tables only."""
        key, mine = response_partition(name, shard), pl.col("query_id") == query
        today = list(verifier_fingerprints(self.study).values())
        verdicts = self.rows("verdicts", key, mine).filter(pl.col("verifier_fingerprint").is_in(today))
        measured = self.rows("response_quality", key, mine)
        told = ["response_id", "distiller", "pass_index"]
        every = pl.concat([measured.select(told), verdicts.select(told)]).unique().sort("pass_index", "response_id")
        joined = every.join(
            verdicts.select("response_id", "verdict", "verify_score", "cause"), on="response_id", how="left"
        ).join(
            measured.select("response_id", "finish_reason", "response_tokens", "quality_reason"),
            on="response_id",
            how="left",
        )
        return joined.sort("pass_index", "response_id").rows(named=True)

    def standing(self, row: Facts, partition: str, recipe: str | None) -> Facts:
        """Subsets, training runs and releases, and the partitions that say so."""
        standing = Standing(study=self.study, store=self.store, row=row, partition=partition)
        names = [each.name for each in self.study.selection_recipes if recipe in (None, each.name)]
        found = {"subsets": subsets(standing, names), "training": trainings(standing, names)}
        found["releases"] = releases(standing, names)
        for place in standing.places:
            self.places[_Place(table=place[0], partition=place[1])] = None
        return found


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}... ({len(text):,} characters)"


def _references(row: Facts) -> Facts:
    """What a query is judged by; most queries have one of the three."""
    return {name: _cut(row[name]) for name in ("reference", "test_cases", "constraints") if row[name] is not None}


def _response(row: Facts) -> Facts:
    names = (
        *("response_id", "query_id", "pass_index", "seed", "engine", "finish_reason", "prompt_tokens"),
        *("response_tokens", "attempts", "last_failure"),
    )
    said = {name: row[name] for name in names if name in row}  # attempts of a checkpoint's responses are not counted
    return said | {"characters": len(row["text"]), "text": _cut(row["text"])}


def _problem(row: Facts) -> Facts:
    names = ("benchmark", "query_id", "category", "source_row", "licence")
    return {name: row[name] for name in names} | {"text": _cut(question_text(row["messages"])), **_references(row)}
