"""What a backfill is going to take, from what is stored: `amr forecast`.

Read shard by shard, slim columns only. Nothing is written, and no engine is started.

Belongs here: reading history and what is owed. Does not belong here: the arithmetic (`responses.forecast`).
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from amr_pipeline.assets.adaptive_passes import passes_due
from amr_pipeline.assets.partitions import response_partition
from amr_pipeline.assets.resources import Platform
from amr_pipeline.report.cost_rows import forecast_rows
from amr_pipeline.report.summary import text_table
from amr_pipeline.responses.cost import Cost, noted_cost
from amr_pipeline.responses.forecast import Forecast, Lengths, Rate, forecast, lengths, num_owed
from amr_pipeline.studies.study import Distiller, Study, StudyError

if TYPE_CHECKING:
    from amr_pipeline.engines.tables_on_disk import TableStore

_SLIM = ["query_id", "category", "pass_index", "distiller_fingerprint", "response_tokens"]


def forecast_text(study: Study, platform: Platform, names: Sequence[str] = ()) -> str:
    """The forecast of some distillers, by default all, as a page of plain text.

    Raises:
        StudyError: the study has no such distiller.
    """
    store, chosen = platform.tables(), list(names) or [row.name for row in study.distillers]
    if strangers := sorted(set(chosen) - {row.name for row in study.distillers}):
        raise StudyError(f"study {study.name!r} has no distiller {', '.join(strangers)}; add its row first")
    rows = [study.distiller(name) for name in chosen]
    found = [one for row in rows for one in forecast_of(study, platform, row)]
    lines = [text_table(*forecast_rows(found))]
    lines.append(
        "Tokens are those of responses, with normal intervals of the sum to come, over queries; prompts are not in it."
    )
    lines += [f"{row.name}: {_may_add(row.passes_policy.most)}" for row in rows if row.passes_policy is not None]
    if unknown := [shard for shard in study.shards if store.latest("queries", shard) is None]:
        lines.append(
            f"{len(unknown)} of {len(study.shards)} shards have no queries yet and are in no row; "
            "amr plan counts from the queries that the study expects."
        )
    unpriced = [platform.prices().why_unpriced(row) for row in rows]
    lines += [f"Money is unknown where nothing says {missing}." for missing in dict.fromkeys(unpriced) if missing]
    if any(one.rate is None and one.gpu_seconds is None for one in found):
        lines.append("GPU-hours are unknown where no rate is measured: AMR_TOKENS_PER_GPU_SECOND sets one.")
    if platform.budget_tokens is not None or platform.budget_money is not None:
        limits = (("tokens", platform.budget_tokens), ("money", platform.budget_money))
        said = " and ".join(f"{limit:,} {what}" for what, limit in limits if limit is not None)
        lines.append(f"The budget of one run is {said}.")
    return "\n".join(lines)


def forecast_of(study: Study, platform: Platform, row: Distiller) -> list[Forecast]:
    """What one distiller owes, and what that takes, by category and in all.

    Under a policy of adaptive passes, what is due now: what that leaves open is due when it is judged.
    """
    owed, history, cost = Counter[str](), dict[str, Lengths](), Cost()
    store, fingerprint = platform.tables(), row.distiller_fingerprint
    for shard in study.shards:
        queries = store.read("queries", shard, columns=["query_id", "category"], missing="empty")
        key = response_partition(row.name, shard)
        present = _present(store, key, fingerprint)
        owed.update(num_owed(queries, present, row, passes_due(study, store, key)))
        for category, known in lengths(present).items():
            history[category] = history.get(category, Lengths()) + known
        if newest := store.latest_any("responses", key):
            cost += noted_cost(newest.notes, fingerprint)
    return forecast(row, owed, history, rate=_rate(platform, row, cost), prices=platform.prices())


def _may_add(most: int) -> str:
    return f"passes that are due now; its adaptive policy may add more once these are judged, up to {most} of a query."


def _present(store: "TableStore", key: str, fingerprint: str) -> pl.DataFrame:
    """What a run that goes on would find of today's fingerprint, unfinished versions included."""
    return store.read_any("responses", key, columns=_SLIM).filter(pl.col("distiller_fingerprint") == fingerprint)


def _rate(platform: Platform, row: Distiller, cost: Cost) -> Rate | None:
    """What was measured of this fingerprint, else what the deployment sets for its name or for all."""
    if cost.tokens_per_gpu_second is not None:
        return Rate(tokens_per_gpu_second=cost.tokens_per_gpu_second, basis="measured")
    rates = platform.tokens_per_gpu_second
    rate = rates.get(row.name, rates.get(""))
    return None if rate is None else Rate(tokens_per_gpu_second=rate, basis="set")
