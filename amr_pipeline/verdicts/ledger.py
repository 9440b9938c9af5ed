"""Verdicts as rows: what is owed, what flipped, and cases made from stored responses.

Belongs here: arithmetic on `tables.VERDICTS` frames. Does not belong here: judging (the verifiers) or storing.
"""

from collections.abc import Iterable, Iterator, Mapping

import polars as pl

from amr_pipeline import tables, worklist
from amr_pipeline.categories import Category
from amr_pipeline.verdicts.verifier import TRANSIENT_CAUSES, Case, Verdict

KEY = list(tables.VERDICTS.key)


def expected_verdicts(responses: pl.DataFrame, fingerprints: Mapping[str, str]) -> pl.DataFrame:
    """`responses` with the fingerprint of today's verifier of their category as `verifier_fingerprint`.

    Responses of a category without a verifier are left out: nothing can judge them, so nothing is owed.
    """
    today = pl.DataFrame(
        {"category": list(fingerprints), "verifier_fingerprint": list(fingerprints.values())},
        schema={"category": pl.String, "verifier_fingerprint": pl.String},
    )
    return responses.join(today, on="category", how="inner", maintain_order="left")


def settled(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Verdicts that another attempt would not change: decided ones, and those undecided for a lasting cause."""
    transient = [str(cause) for cause in TRANSIENT_CAUSES]
    return verdicts.filter((pl.col("verdict") != "undecided") | ~pl.col("cause").is_in(transient))


def owed_verdicts(responses: pl.DataFrame, present: pl.DataFrame, fingerprints: Mapping[str, str]) -> pl.DataFrame:
    """Responses that today's verifiers still have to judge (one row per response, with `verifier_fingerprint`)."""
    return worklist.owed(expected_verdicts(responses, fingerprints), settled(present), KEY)


NEVER_JUDGED, VERIFIER_CHANGED, UNDECIDED = "never judged", "its verifier changed", "undecided: "
"""Why a verdict is owed; `undecided: ` is followed by the cause that another attempt may settle."""


def owed_by_cause(responses: pl.DataFrame, present: pl.DataFrame, fingerprints: Mapping[str, str]) -> dict[str, int]:
    """How many verdicts `owed_verdicts` gives for each cause above; arguments as there."""
    owed = owed_verdicts(responses, present, fingerprints).select(KEY)
    unsettled = owed.join(present.select(*KEY, "cause"), on=KEY, how="inner")
    rest = owed.join(unsettled, on=KEY, how="anti")
    changed = rest.join(present, on="response_id", how="semi").height
    counts = {NEVER_JUDGED: rest.height - changed, VERIFIER_CHANGED: changed}
    counts |= {f"{UNDECIDED}{cause}": count for cause, count in unsettled.group_by("cause").len().sort("cause").rows()}
    return {cause: count for cause, count in counts.items() if count}


def cases_of(owed: pl.DataFrame) -> Iterator[Case]:
    """Cases from rows that join a response with its query (columns of both tables), in order."""
    for row in owed.iter_rows(named=True):
        yield Case(
            response_id=row["response_id"],
            category=Category(row["category"]),
            messages=tuple((turn["role"], turn["content"]) for turn in row["messages"]),
            text=row["text"],
            finish_reason=row["finish_reason"],
            reference=row["reference"],
            test_cases=row["test_cases"],
            constraints=row["constraints"],
        )


def verdict_rows(owed: pl.DataFrame, verdicts: Iterable[Verdict], verifier: str) -> pl.DataFrame:
    """`tables.VERDICTS` rows of verdicts on `owed` responses; `verifier` is the row name, its stage is appended."""
    said = pl.DataFrame(
        [
            {
                "response_id": verdict.response_id,
                "verdict": str(verdict.outcome),
                "verify_score": verdict.verify_score,
                "cause": None if verdict.cause is None else str(verdict.cause),
                "verifier": f"{verifier}/{verdict.stage}",
                "evidence": verdict.evidence,
            }
            for verdict in verdicts
        ],
        schema={
            "response_id": pl.String,
            "verdict": pl.String,
            "verify_score": pl.Float64,
            "cause": pl.String,
            "verifier": pl.String,
            "evidence": pl.String,
        },
    )
    joined = said.join(owed.select(_OF_RESPONSE), on="response_id", how="inner")
    return joined.select(list(tables.VERDICTS.schema))


_OF_RESPONSE = [
    "response_id",
    "query_id",
    "category",
    "distiller",
    "distiller_fingerprint",
    "pass_index",
    "verifier_fingerprint",
]


def current_verdicts(verdicts: pl.DataFrame, fingerprints: Mapping[str, str]) -> pl.DataFrame:
    """Only the verdicts of today's verifiers."""
    return verdicts.filter(pl.col("verifier_fingerprint").is_in(list(fingerprints.values())))


FLIPS: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("response_id", "query_id", "category", "distiller", "verifier"), pl.String),
    **{"verdict_before": pl.String, "verdict_after": pl.String, "score_before": pl.Float64, "score_after": pl.Float64},
    "evidence_after": pl.String,
}
"""Columns of `flips`."""


def flips(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Responses whose decided verdict differs between two sets of verdicts, with both sides.

    One row per response: response_id, query_id, category, distiller, verifier (after), verdict_before, verdict_after,
    score_before, score_after, evidence_after. A change to or from undecided is not a flip; it moves no decided
    response.
    """
    old = before.filter(pl.col("verdict") != "undecided").select(
        "response_id",
        pl.col("verifier_fingerprint").alias("fingerprint_before"),
        pl.col("verdict").alias("verdict_before"),
        pl.col("verify_score").alias("score_before"),
    )
    new = after.filter(pl.col("verdict") != "undecided").select(
        "response_id",
        "query_id",
        "category",
        "distiller",
        "verifier",
        "verifier_fingerprint",
        pl.col("verdict").alias("verdict_after"),
        pl.col("verify_score").alias("score_after"),
        pl.col("evidence").alias("evidence_after"),
    )
    both = new.join(old, on="response_id", how="inner").filter(
        (pl.col("verdict_before") != pl.col("verdict_after"))
        & (pl.col("fingerprint_before") != pl.col("verifier_fingerprint"))
    )
    return both.select(list(FLIPS)).sort("response_id")
