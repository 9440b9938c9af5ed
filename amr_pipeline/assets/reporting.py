"""Pictures and pages where people find them: in Dagster's metadata, and as files beside the tables."""

import base64
from typing import TYPE_CHECKING

import dagster as dg

from amr_pipeline.assets.adaptive_passes import adaptive_distillers
from amr_pipeline.assets.partitions import stored_partitions
from amr_pipeline.fingerprint import fingerprint
from amr_pipeline.studies.study import Study

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG that Dagster's UI shows in place."""
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")


REPORTS = {
    "cost_report": (
        *("responses", "response_quality", "verdicts", "subsets", "second_opinions"),
        *("checkpoints", "benchmark_responses", "benchmark_scores"),
    ),
    "difficulty_report": ("difficulty", "dropped_queries"),
    "flip_report": ("verdicts", "difficulty", "subsets"),
    "sweep_report": ("benchmark_scores", "checkpoints"),
}
"""The tables each report shows."""


def shown_digests(study: Study, store: "TableStore", name: str) -> str:
    """Identity of everything a report shows, as of now."""
    shown = [
        (table, key, store.digest(table, key)) for table in REPORTS[name] for key in stored_partitions(study, table)
    ]
    adaptive = adaptive_distillers(study) if name == "difficulty_report" else []
    # What adaptive passes saved follows from their rows too, and from verdicts, on which the tables shown rest.
    return fingerprint(shown, adaptive) if adaptive else fingerprint(shown)


def report_is_current(study: Study, store: "TableStore", name: str) -> bool:
    """Whether the stored page shows the tables as they are."""
    try:
        page = store.files.read(f"reports/{name}.html")
    except FileNotFoundError:
        return False
    return page.endswith(_shows(study, store, name))


def _shows(study: Study, store: "TableStore", name: str) -> bytes:
    return f"<!-- shows {shown_digests(study, store, name)} -->".encode()


def publish_page(study: Study, store: "TableStore", name: str, page: str) -> str:
    """Put a page (`report.pages`) beside the tables, marked with what it shows, and give its address."""
    store.files.put(f"reports/{name}.html", page.encode() + _shows(study, store, name))
    return f"{store.root}/reports/{name}.html"
