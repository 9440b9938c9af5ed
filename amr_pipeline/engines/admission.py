"""How many requests an engine steps together: as many as its KV cache holds, learned from how full it gets.

Nobody knows beforehand how long answers become, so a fixed number is wrong both ways: too small leaves memory and
speed unused, too large makes the engine throw running requests out and begin them again. Here the number starts at
the most that the engine can step; when a request finds no memory it falls to those that run; and while memory stays
free it rises again, a little for every few answers.

Belongs here: the number. Does not belong here: which request is next (`engine_stream`), the engine (`vllm_engine`).
"""

PRESSED_USE = 0.9
"""Share of the KV cache from which a waiting request means that memory, and not a step's token budget, is lacking."""

CALM_USE = 0.95
"""Share up to which more requests may be let in."""

ANSWERS_PER_RISE, RISE = 1 / 16, 1 / 8
"""One answer in sixteen of those stepped together lets an eighth more in: simulated (`test_admission`), this loses a
sixth or less of what a fixed number of 256 writes in vain, in as many steps."""


class Admission:
    """The limit of one engine.

    Args:
        most: requests that the engine can step together, whatever they need.

    Attributes:
        limit: requests to step together now, from 1 to `most`.
    """

    def __init__(self, most: int) -> None:
        self.limit = self._most = most
        self._calm = 0

    def see(self, *, running: int, waiting: int, kv_use: float) -> None:
        """Take in what one step left: requests that run, requests that found no place, and the share of the cache."""
        if waiting and kv_use >= PRESSED_USE:
            self.limit, self._calm = max(1, min(self.limit, running)), 0

    def finished(self, answers: int, kv_use: float) -> None:
        """Take in answers that came to their end, with the share of the cache that is still in use."""
        if kv_use > CALM_USE or self.limit >= self._most:
            self._calm = 0
            return
        self._calm += answers
        if self._calm >= max(1, int(self.limit * ANSWERS_PER_RISE)):
            self.limit, self._calm = min(self._most, self.limit + max(1, int(self.limit * RISE))), 0
