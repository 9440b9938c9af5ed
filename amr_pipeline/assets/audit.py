"""audit: a few responses of every kind for a person to judge, and what people said about them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import dagster as dg
import polars as pl

from amr_pipeline import tables
from amr_pipeline.assets.lineage import verifier_fingerprints
from amr_pipeline.assets.partitions import ALL, distiller_and_shard, stored_partitions
from amr_pipeline.assets.publication import Built, dictionary_check, publish
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.responses import texts_of
from amr_pipeline.audit import HumanVerdicts, agreement, audit_rows, drawn, form, read_human_verdicts
from amr_pipeline.report.audit_page import agreement_rows, audit_page
from amr_pipeline.report.summary import markdown_table, text_table
from amr_pipeline.responses.expected import still_expected
from amr_pipeline.studies.study import Study
from amr_pipeline.verdicts.ledger import current_verdicts

PAGE, FORM = "reports/audit.html", "reports/audit.jsonl"


def build(study: Study) -> list[dg.AssetsDefinition]:
    """The audit of a study."""
    everything = dg.AllPartitionMapping()

    @dg.asset(
        deps=[dg.AssetDep(name, partition_mapping=everything) for name in ("verdicts", "responses", "queries")],
        check_specs=[dictionary_check("audit")],
        group_name="verdicts",
        kinds={"polars"},
    )
    def audit(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """A page and a form for a person to judge; with the agreement of those who did (`amr audit-import`)."""
        done = publish(context, platform, study, tables.AUDIT, lambda _: _draw(study, platform))
        root = platform.tables().root
        measured = markdown_table(*agreement_rows(agreement_now(study, platform)))
        return done.result(
            metadata={
                "page": dg.MetadataValue.path(f"{root}/{PAGE}"),
                "form to fill in": dg.MetadataValue.path(f"{root}/{FORM}"),
                "agreement of people with the verifiers": dg.MetadataValue.md(measured),
            }
        )

    return [audit]


def _today(study: Study, platform: Platform) -> Iterator[pl.DataFrame]:
    """Verdicts of today's verifiers on responses that still count, a partition at a time, with their shard."""
    store = platform.tables()
    for key in stored_partitions(study, "verdicts"):
        shard = distiller_and_shard(key)[1]
        verdicts = current_verdicts(store.read("verdicts", key), verifier_fingerprints(study))
        queries = store.read("queries", shard, columns=["query_id"])
        counted = still_expected(verdicts, queries, study.distillers)
        yield counted.with_columns(pl.lit(shard).alias("shard"))


def _draw(study: Study, platform: Platform) -> Built:
    store = platform.tables()
    chosen = drawn(_today(study, platform))
    texts = texts_of(study, store, chosen) if chosen.height else texts_of(study, store, tables.SUBSETS.empty())
    frame = audit_rows(chosen, texts)
    store.files.put(FORM, form(frame).encode())
    store.files.put(PAGE, audit_page(f"Audit of {study.name}", frame).encode())
    return frame, dict(Counter(frame.get_column("verdict")))


# ------------------------------------------------------------------------------------------------ a person's verdicts


def import_human_verdicts(study: Study, platform: Platform, lines: Iterable[str], say: Callable[[str], None]) -> bool:
    """Store a person's verdicts, print what was rejected and why, and the agreement; whether any line was taken.

    A later verdict on a response replaces the earlier one. Ids of every audit that was ever stored are known.

    Raises:
        CommitConflict: another import was faster; run it again.
    """
    store = platform.tables()
    known: set[str] = set()
    for commit in store.versions("audit", ALL):
        known.update(store.read_version("audit", ALL, commit.version).get_column("response_id"))
    found = read_human_verdicts(lines, known)
    if found.rows:
        before = store.read("human_verdicts", ALL, missing="empty")
        kept = before.join(found.frame.select("response_id"), on="response_id", how="anti")
        store.write("human_verdicts", ALL, pl.concat([kept, found.frame]), fingerprints={})
    _tell(found, say)
    say(text_table(*agreement_rows(agreement_now(study, platform))))
    return bool(found.rows)


def agreement_now(study: Study, platform: Platform) -> pl.DataFrame:
    """`audit.agreement` of everything people said with today's verdicts."""
    human = platform.tables().read("human_verdicts", ALL, missing="empty")
    judged = [
        frame.join(human.select("response_id"), on="response_id", how="semi")
        for frame in (_today(study, platform) if human.height else ())
    ]
    return agreement(human, pl.concat(judged) if judged else tables.VERDICTS.empty())


def _tell(found: HumanVerdicts, say: Callable[[str], None]) -> None:
    say(f"{len(found.rows)} verdicts taken, {found.left_open} left open, {len(found.rejected)} lines rejected")
    for number, reason in found.rejected:
        say(f"  line {number}: {reason}")
    for reason, count in sorted(found.reasons.items()):
        say(f"  {reason}: {count} line{'s' if count > 1 else ''}")
