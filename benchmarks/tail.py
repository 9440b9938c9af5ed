"""The long tail at the size of the paper, simulated: `python -m benchmarks.tail [RESPONSES]`, 13.3 million by default.

One distiller's responses on engines of a fixed number of places each. Lengths are drawn from a lognormal cut at the
budget, as reasoning models' are; a place writes at a constant rate and takes the next response when it is free.
Compared: one stream over all shards; a barrier after every shard; the stream with engines let go as soon as nothing is
left for them. Times are in units of the time that perfect packing takes, so that no speed is assumed.
"""

import heapq
import json
import math
import sys
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

ENGINES, PLACES = 32, 256
SHARDS = 64
MEDIAN_TOKENS, SPREAD, BUDGET = 4_000.0, 0.9, 32_768
"""Median length, standard deviation of its logarithm, and the most tokens a response may have."""

Lengths = NDArray[np.float64]


def lengths(count: int, seed: int = 1) -> Lengths:
    """Tokens of so many responses."""
    draw = np.random.default_rng(seed)
    return np.minimum(BUDGET, np.exp(draw.normal(math.log(MEDIAN_TOKENS), SPREAD, count)))


def streamed(tokens: Iterable[float], num_places: int) -> list[float]:
    """When each place is free for good, if every response goes to the place that is free first."""
    free = [0.0] * num_places
    for one in tokens:
        heapq.heapreplace(free, free[0] + one)
    return free


def engine_seconds(free: list[float], places_per_engine: int) -> float:
    """Time that engines are held if each is let go when its last place is free, worst assignment of places."""
    ends = sorted(free)
    return sum(max(ends[start::ENGINES]) for start in range(ENGINES)) * places_per_engine


def measure(count: int) -> dict[str, object]:
    """Time of each way, and what share of the engines' time is idle, relative to perfect packing."""
    tokens, places = lengths(count), ENGINES * PLACES
    perfect = float(tokens.sum()) / places
    free = streamed(tokens.tolist(), places)
    longest_first = streamed(np.concatenate([tokens[:-places], np.sort(tokens[-places:])[::-1]]).tolist(), places)
    barrier = sum(max(streamed(part.tolist(), places)) for part in np.array_split(tokens, SHARDS))
    return {
        "responses": count,
        "mean_tokens": round(float(tokens.mean())),
        "median_tokens": round(float(np.median(tokens))),
        "cut_at_the_budget": round(float((tokens >= BUDGET).mean()), 4),
        "streamed": round(max(free) / perfect, 4),
        "streamed, the last of each place longest first": round(max(longest_first) / perfect, 4),
        "a barrier after each shard": round(barrier / perfect, 4),
        "engines held, streamed": round(engine_seconds(free, PLACES) / (perfect * places), 4),
    }


def main(count: int = 13_348_576) -> None:
    """Print the figures as one JSON object."""
    found = measure(count)
    print(json.dumps({"benchmark": "tail", "engines": ENGINES, "places": PLACES, "shards": SHARDS, **found}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
