"""Audit: a few responses of every kind for a person to judge, and how often that person agrees with the verifiers.

Strata are category x verdict x verifier and stage, because verifiers err by stage: a typed comparison, a judge and a
truncation have nothing in common. Within a stratum the responses with the smallest hash of their ids are drawn, so
the same tables give the same audit on every machine, and one more shard of responses changes few rows of it.

A stratum holds as many responses as it holds and the audit a handful of each, so agreement is per stratum; the
number of responses in the stratum stands beside it for whoever wants to weigh them.

Belongs here: the draw, reading a person's verdicts, agreement. Does not belong here: pages (`report`), storing
(`assets`).
Source: design, verdicts. Ours: the paper reports no agreement with people.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

import polars as pl

from amr_pipeline import tables
from amr_pipeline.difficulty import wilson_high, wilson_low
from amr_pipeline.queries.identity import question_text
from amr_pipeline.subsets import draw

RESPONSES_PER_STRATUM = 5
STRATUM = ["category", "verdict", "verifier"]
"""`verifier` names the stage after a slash."""

LONGEST_QUESTION, LONGEST_END, LONGEST_NOTE, LONGEST_LINE = 4_000, 2_000, 2_000, 1_000_000
"""Characters."""

_SEED = 20250424


def drawn(verdicts: Iterable[pl.DataFrame], per_stratum: int = RESPONSES_PER_STRATUM) -> pl.DataFrame:
    """The rows to audit, with `stratum_responses`, from `tables.VERDICTS` rows that come a frame at a time.

    Only the best candidates of what was seen are kept, so memory does not grow with the number of frames. Each
    response may occur once: give today's verdicts only.
    """
    kept: pl.DataFrame | None = None
    sizes: Counter[tuple[str, ...]] = Counter()
    for frame in verdicts:
        for *stratum, number in frame.group_by(STRATUM).len().iter_rows():
            sizes[tuple(stratum)] += number
        ranked = frame.with_columns(draw("response_id", _SEED, "audit").alias("audit_draw"))
        both = ranked if kept is None else pl.concat([kept, ranked])
        ordered = both.sort("audit_draw", "response_id")
        kept = ordered.group_by(STRATUM, maintain_order=True).head(per_stratum).select(ordered.columns)
    if kept is None:
        return tables.VERDICTS.empty().with_columns(pl.lit(0, dtype=pl.Int64).alias("stratum_responses"))
    strata = pl.DataFrame(
        [(*stratum, number) for stratum, number in sizes.items()],
        schema={**dict.fromkeys(STRATUM, pl.String), "stratum_responses": pl.Int64},
        orient="row",
    )
    return kept.drop("audit_draw").join(strata, on=STRATUM, how="left").sort(*STRATUM, "response_id")


def audit_rows(chosen: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """`tables.AUDIT` rows: what was drawn, with everything a person needs to disagree.

    Args:
        chosen: as `drawn` gives them.
        texts: responses joined with their queries' messages, reference, tests and constraints.
    """
    said = texts.select(
        "response_id",
        pl.col("messages").map_elements(_question, return_dtype=pl.String).alias("question"),
        pl.col("text").str.tail(LONGEST_END).alias("response_end"),
        "finish_reason",
        "reference",
        "test_cases",
        "constraints",
    )
    joined = chosen.join(said, on="response_id", how="inner")
    return joined.select(tables.AUDIT.schema.names()).sort(*STRATUM, "response_id")


def _question(messages: pl.Series) -> str:
    return question_text(messages.to_list())[-LONGEST_QUESTION:]


def form(audit: pl.DataFrame) -> str:
    """The audit as JSON lines with `human_verdict` and `note` left open: fill them in and import the file."""
    lines = [json.dumps({**row, "human_verdict": None, "note": ""}) for row in audit.iter_rows(named=True)]
    return "".join(line + "\n" for line in lines)


# ---------------------------------------------------------------------------------------------- a person's verdicts


@dataclass(kw_only=True, slots=True)
class HumanVerdicts:
    """What a file of a person's verdicts held; every line is in exactly one of the three.

    Attributes:
        rows: response_id to (human_verdict, note).
        left_open: lines whose verdict is still null.
        rejected: (line number from 1, reason).
    """

    rows: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    left_open: int = 0
    rejected: list[tuple[int, str]] = field(default_factory=list)

    @property
    def frame(self) -> pl.DataFrame:
        """`tables.HUMAN_VERDICTS` rows."""
        lines = [(name, verdict, note) for name, (verdict, note) in self.rows.items()]
        return pl.DataFrame(lines, schema=tables.HUMAN_VERDICTS.schema, orient="row").sort("response_id")

    @property
    def reasons(self) -> Mapping[str, int]:
        """Rejected lines by the kind of reason."""
        return Counter(reason.partition(":")[0] for _, reason in self.rejected)


def read_human_verdicts(lines: Iterable[str], known: Set[str]) -> HumanVerdicts:
    """A person's verdicts from JSON lines with `response_id`, `human_verdict` (passed or failed) and `note`.

    Lines that cannot be used are kept with their number and a reason, never raised for. Other fields of a line are
    ignored, so an edited `form` can be given as it is; a long note is cut at `LONGEST_NOTE` characters.

    Args:
        lines: of the file; blank ones do not count.
        known: ids that an audit has asked about.
    """
    found = HumanVerdicts()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            reason = _take(line, known, found)
            if reason:
                found.rejected.append((number, reason))
    return found


def _take(line: str, known: Set[str], found: HumanVerdicts) -> str | None:
    """Put one line where it belongs, or say why it belongs nowhere."""
    if len(line) > LONGEST_LINE:
        return f"too long: {len(line):,} characters, the limit is {LONGEST_LINE:,}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {str(error)[:200]}"
    if not isinstance(record, dict):
        return f"not a record: {type(record).__name__}"
    name, verdict, note = record.get("response_id"), record.get("human_verdict"), record.get("note")
    if not isinstance(name, str) or name not in known:
        return f"unknown response_id: {str(name)[:100]!r} was in no audit of this study"
    if verdict is None:
        found.left_open += 1
        return None
    if verdict not in ("passed", "failed"):
        return f"unusable human_verdict: {str(verdict)[:100]!r}; wanted passed or failed"
    if not isinstance(note, str | None):
        return f"unusable note: {type(note).__name__}; wanted text"
    if name in found.rows:
        return f"repeated response_id: {name!r} has a verdict further up"
    clean = (note or "").encode("utf-8", "replace").decode("utf-8")[:LONGEST_NOTE]
    found.rows[name] = (verdict, clean or None)
    return None


def agreement(human: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """How often a person agrees with today's verdicts, one row per stratum and one for all decided (`all`).

    Args:
        human: `tables.HUMAN_VERDICTS` rows; those without a verdict of today are left out.
        verdicts: `tables.VERDICTS` rows of today's verifiers, one per response.

    Returns:
        category, verdict, verifier, num_judged (by the person), num_agreed, agreement with agreement_low and _high
        (95 % Wilson interval, 0 to 1). Agreement is null for undecided verdicts, with which nobody can agree, and they
        are not in `all`, which pools strata as they were judged and not by their sizes.
    """
    both = human.join(verdicts.select("response_id", *STRATUM), on="response_id", how="inner").with_columns(
        agrees=(pl.col("human_verdict") == pl.col("verdict")).cast(pl.Int64)
    )
    decided = both.filter(pl.col("verdict") != "undecided").with_columns(
        category=pl.lit("all"), verdict=pl.lit("all"), verifier=pl.lit("all")
    )
    counted = (
        pl.concat([both, decided])
        .group_by(STRATUM)
        .agg(pl.len().cast(pl.Int64).alias("num_judged"), pl.col("agrees").sum().alias("num_agreed"))
    )
    can_agree = pl.col("verdict") != "undecided"
    return counted.select(
        *STRATUM,
        "num_judged",
        "num_agreed",
        pl.when(can_agree).then(pl.col("num_agreed") / pl.col("num_judged")).alias("agreement"),
        pl.when(can_agree).then(wilson_low("num_agreed", "num_judged")).alias("agreement_low"),
        pl.when(can_agree).then(wilson_high("num_agreed", "num_judged")).alias("agreement_high"),
    ).sort(pl.col("category") == "all", *STRATUM)
