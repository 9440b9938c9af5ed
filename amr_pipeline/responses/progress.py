"""How far a long step is: done, rate, and when it will end, said every few seconds."""

import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts finished pieces and says so, at most every five seconds and once at the end.

    Args:
        total: pieces to do; 0 says nothing. May be corrected while the work goes on.
        what: what is counted, for the line.
        say: where lines go.
        beside: what else a line ends with, asked when it is said.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        total: int,
        what: str,
        say: Callable[[str], object],
        beside: Callable[[], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self._what, self._say, self._beside, self._clock = total, what, say, beside, clock
        self._begun = self._said = clock()
        self._first: tuple[float, int, int] | None = None
        self.done = self.tokens = 0

    def add(self, pieces: int, tokens: int = 0) -> None:
        """Count finished pieces and their tokens."""
        self.done += pieces
        self.tokens += tokens
        now = self._clock()
        if self._first is None:
            self._first = now, self.done, self.tokens
        if self.done >= self.total or now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            self._say(self.line())

    def line(self) -> str:
        """`what: 120/480 (25 %), 12.0/s, 600 tokens/s, 30 s left`.

        Rates count from the first finished piece, so that an engine's start does not dim what is ahead; there are none
        before a second has passed since.
        """
        of = f"/{self.total:,}" if self.total else ""
        share = f" ({100 * self.done / self.total:.0f} %)" if self.total else ""
        beside = self._beside()
        return f"{self._what}: {self.done:,}{of}{share}{self._rates()}{f' ({beside})' if beside else ''}"

    def rates(self) -> tuple[float, float, float | None]:
        """Pieces and tokens per second since the first piece, and seconds left; 0 and None while nobody can say."""
        since, done, tokens = self._first or (self._begun, 0, 0)
        now = self._clock()
        if now - since < 1.0 and self.done >= self.total:  # all came at once: the wait for it was the work
            since, done, tokens = self._begun, 0, 0
        seconds = max(1e-9, now - since)
        rate = (self.done - done) / seconds
        if not rate or (seconds < 1.0 and self.done < self.total):
            return 0.0, 0.0, None
        left = (self.total - self.done) / rate if self.done < self.total else None
        return rate, (self.tokens - tokens) / seconds, left

    def _rates(self) -> str:
        rate, tokens, seconds = self.rates()
        if not rate:
            return ""
        written = f", {tokens:,.0f} tokens/s" if self.tokens else ""
        left = f", {seconds:.0f} s left" if seconds is not None else ""
        return f", {rate:,.1f}/s{written}{left}"
