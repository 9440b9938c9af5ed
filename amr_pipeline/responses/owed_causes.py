"""Why responses are owed, in numbers.

Belongs here: causes of what `expected.owed_responses` gives. Does not belong here: what that is, whose code stands in
the identity of every table that rests on it.
"""

import polars as pl

from amr_pipeline.responses.expected import owed_responses
from amr_pipeline.studies.study import Distiller

NEVER_WRITTEN, OF_ANOTHER_ROW = "never written", "its row changed"
"""Nothing stands at a query and pass, or only what another fingerprint of that distiller's name wrote."""


def owed_by_cause(
    queries: pl.DataFrame, present: pl.DataFrame, distiller: Distiller, due: pl.DataFrame | None = None
) -> dict[str, int]:
    """How many responses are owed for each cause; causes without any are left out.

    Args:
        queries: query_id and category of today's queries of a shard.
        present: query_id, pass_index and distiller_fingerprint of what is stored.
        distiller: whose responses.
        due: passes that each query is due, where a policy says (`expected.owed_responses`).
    """
    owed = owed_responses(queries, present, distiller, due)
    former = present.filter(pl.col("distiller_fingerprint") != distiller.distiller_fingerprint)
    changed = owed.join(former, on=["query_id", "pass_index"], how="semi").height
    counts = {NEVER_WRITTEN: owed.height - changed, OF_ANOTHER_ROW: changed}
    return {cause: count for cause, count in counts.items() if count}
