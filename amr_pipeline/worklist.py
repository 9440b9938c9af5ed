"""Which rows are still owed: expected minus present.

Resuming a killed run, backfilling a new distiller and re-grading after a verifier changed are this one question
with different keys. Position never decides anything, so a shuffled or extended input owes only its difference.
"""

import polars as pl


def owed(expected: pl.DataFrame, present: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """Rows of `expected` whose key does not occur in `present`, in the order of `expected`.

    Args:
        expected: one row per thing that should exist; `key` is unique in it.
        present: what exists already; may hold keys that are not expected any more, they are ignored.
        key: columns that identify a row in both frames.

    Raises:
        ValueError: `expected` holds a key twice, which would pay for one row twice.
    """
    repeated = expected.height - expected.select(key).unique().height
    if repeated:
        raise ValueError(
            f"{repeated} of {expected.height} expected rows repeat a key of {key}; a worklist needs unique keys"
        )
    if present.is_empty():
        return expected
    return expected.join(present.select(key).unique(), on=key, how="anti", maintain_order="left")
