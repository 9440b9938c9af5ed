"""Near duplicates: queries whose character shingles mostly coincide, found by MinHash with banding.

Of each cluster the query with the smallest id stands for the others, so neither input order nor a re-run decides.

Belongs here: similarity between queries of the study. Does not belong here: benchmarks (`decontamination`), and which
queries are worth comparing (`filters.represented`).

# ours: the paper draws "semantic dedup" (Fig. 6) without model or threshold. Character 5-gram shingles instead of
# words, because five-word shingles miss edits in short questions.
"""

import zlib
from itertools import pairwise

import numpy as np
import polars as pl

from amr_pipeline import tables
from amr_pipeline.queries.identity import comparable_text

SHINGLE_CHARACTERS = 5
NUM_PERMUTATIONS = 128
ROWS_PER_BAND = 8
"""16 bands of 8: a pair at similarity 0.8 becomes a candidate with probability 0.95, at 0.5 with 0.06."""

_PRIME = np.uint64((1 << 31) - 1)
_draw = np.random.default_rng(20250424)
_FACTORS = _draw.integers(1, int(_PRIME), NUM_PERMUTATIONS, dtype=np.uint64)
_OFFSETS = _draw.integers(0, int(_PRIME), NUM_PERMUTATIONS, dtype=np.uint64)


def signature(text: str) -> np.ndarray:
    """MinHash signature, uint64 of shape (128,), of the text's set of 5-character shingles."""
    padded = text if len(text) >= SHINGLE_CHARACTERS else text.ljust(SHINGLE_CHARACTERS)
    shingles = {padded[start : start + SHINGLE_CHARACTERS] for start in range(len(padded) - SHINGLE_CHARACTERS + 1)}
    hashes = np.array([zlib.crc32(shingle.encode()) for shingle in shingles], dtype=np.uint64) % _PRIME
    return ((hashes[:, None] * _FACTORS + _OFFSETS) % _PRIME).min(axis=0)


def near_duplicates(raw: pl.DataFrame, similarity: float) -> pl.DataFrame:
    """`near_duplicates` rows: each query that a similar one with a smaller id stands for.

    Args:
        raw: `query_id`, `category` and `messages` of every source; repeats of one id count once.
        similarity: estimated Jaccard similarity at or above which two queries of one category are the same, 0 to 1.
    """
    unique = raw.select("query_id", "category", "messages").unique("query_id", keep="first", maintain_order=True)
    unique = unique.sort("query_id")
    if unique.height < 2:
        return tables.NEAR_DUPLICATES.empty()
    texts = [comparable_text(messages) for messages in unique.get_column("messages").to_list()]
    signatures = np.stack([signature(text) for text in texts])
    identities = unique.get_column("query_id").to_list()
    categories = unique.get_column("category").to_list()
    parent = list(range(len(identities)))
    for left, right in sorted(_candidates(signatures)):
        alike = (
            categories[left] == categories[right]
            and float((signatures[left] == signatures[right]).mean()) >= similarity
        )
        if alike:
            a, b = _root(parent, left), _root(parent, right)
            parent[max(a, b)] = min(a, b)
    rows = []
    for index, identity in enumerate(identities):
        root = _root(parent, index)
        if root != index:
            estimate = float((signatures[index] == signatures[root]).mean())
            rows.append({"query_id": identity, "stands_for_it": identities[root], "similarity": estimate})
    return pl.DataFrame(rows, schema=tables.NEAR_DUPLICATES.schema)


def _candidates(signatures: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of rows that agree in a whole band, each bucket chained to its first row."""
    pairs: set[tuple[int, int]] = set()
    for start in range(0, NUM_PERMUTATIONS, ROWS_PER_BAND):
        buckets: dict[bytes, list[int]] = {}
        for index, band in enumerate(signatures[:, start : start + ROWS_PER_BAND]):
            buckets.setdefault(band.tobytes(), []).append(index)
        for members in buckets.values():
            # Neighbours as well as the first: a chain stays connected when its first pair is below the threshold.
            pairs.update((members[0], other) for other in members[1:])
            pairs.update(pairwise(members))
    return pairs


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
