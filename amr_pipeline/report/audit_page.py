"""The audit as a page: per stratum, everything a person needs to disagree with a verifier.

Belongs here: the order and the words of the page. Does not belong here: which responses are drawn (`audit`).
"""

import polars as pl

from amr_pipeline.audit import STRATUM
from amr_pipeline.report.layouts import Rows, with_interval
from amr_pipeline.report.pages import Section, page

SHOWN = [
    "response_id",
    "question",
    "response_end",
    "reference",
    "test_cases",
    "constraints",
    "verify_score",
    "cause",
    "evidence",
]


def audit_page(title: str, audit: pl.DataFrame) -> str:
    """The page: a section per category, verdict and verifier stage.

    Args:
        title: the page's heading.
        audit: `tables.AUDIT` rows.
    """
    numbers = {
        "responses to judge": f"{audit.height:,}",
        "strata": f"{audit.select(STRATUM).unique().height:,}",
    }
    sections = [
        Section(
            heading=f"{category}: {verdict} by {verifier}",
            text=f"{rows.height:,} of {rows.get_column('stratum_responses').max():,} responses of this kind, drawn by "
            "a hash of their ids.",
            rows=_shown(rows),
        )
        for (category, verdict, verifier), rows in audit.group_by(STRATUM, maintain_order=True)
    ]
    return page(title, numbers, [_instructions(), *sections])


def agreement_rows(measured: pl.DataFrame) -> Rows:
    """Agreement of a person with the verifiers (`audit.agreement`), per stratum."""
    rows = [
        [
            *(row[name] for name in STRATUM),
            row["num_judged"],
            row["num_agreed"],
            with_interval(row["agreement"], row["agreement_low"], row["agreement_high"]),
        ]
        for row in measured.iter_rows(named=True)
    ]
    return [*STRATUM, "judged by a person", "agreed", "agreement (95 % interval)"], rows


def _instructions() -> Section:
    return Section(
        heading="How to judge",
        text="Decide for each response whether it should pass, without regard to the verdict. Write passed or failed "
        "as human_verdict, and a note where you disagree, into the lines of audit.jsonl beside this page; then run "
        "amr audit-import with that file.",
    )


def _shown(rows: pl.DataFrame) -> Rows:
    """The columns that hold something in this stratum."""
    held = [name for name in SHOWN if rows.get_column(name).null_count() < rows.height]
    return held, rows.select(held).rows()
