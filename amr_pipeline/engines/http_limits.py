"""What holds an HTTP engine back: its pace, what requests draw from a run's budget, and Retry-After.

One pace per endpoint, shared by whatever threads ask. All are counts and clocks: nothing here waits or speaks to a
server.

Belongs here: when a request may go out, and what is set aside for it. Does not belong here: which failures are tried
again (`http_engine`), what an answer says (`http_answers`), what a run may spend (`responses.budget`).
"""

import math
import re
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from amr_pipeline.responses.budget import Amount, Budget
from amr_pipeline.responses.prices import TokenPrice
from amr_pipeline.studies.study import Distiller


class HttpEngineError(RuntimeError):
    """Asking goes no further; everything answered so far was handed over, what is not stays owed."""


class Draw:
    """What one run's requests to a distiller's server draw from its budget: each reserves the most that it may cost."""

    def __init__(self, budget: Budget, row: Distiller) -> None:
        self._budget, self._most, self._beyond = budget, row.sampling.max_tokens, 0
        self._price = budget.prices.tokens.get(row.name) or TokenPrice(prompts=0.0, responses=0.0)

    def most(self, payload: bytes) -> tuple[int, int]:
        """Most prompt and response tokens that a request may cost.

        A token of the prompt has at least one byte of the request; what a server's template adds beyond that is
        counted from the first answer on that shows it.
        """
        return len(payload) + self._beyond, self._most

    def reserve(self, most: tuple[int, int]) -> bool:
        """Set it aside (`Budget.reserve`)."""
        return self._budget.reserve(self._amount(most))

    def settle(self, payload: bytes, most: tuple[int, int], used: tuple[int, int] | None) -> None:
        """Pay for a request; None: nobody knows what it cost, so it counts as the most that it may."""
        if used is not None:
            self._beyond = max(self._beyond, used[0] - len(payload))
        self._budget.settle(self._amount(most), self._amount(most if used is None else used))

    def _amount(self, tokens: tuple[int, int]) -> Amount:
        return Amount(tokens=sum(tokens), money=self._price.of(*tokens))


class Pace:
    """When an endpoint may be asked next: requests and tokens per minute, and pauses that its server asked for.

    Requests are spaced evenly and credit is never saved up, so that no minute holds more than its share, wherever the
    server begins to count. Tokens count by a guess when a request goes out and are put right by its answer.

    Args:
        requests_per_minute, tokens_per_minute: None: as many as it likes.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._next_request = self._next_token = self._pause_ends = clock()
        self._lock = threading.Lock()

    def seconds_to_wait(self) -> float:
        """Until a request may go out; 0 now."""
        with self._lock:
            free = max(self._next_request, self._next_token, self._pause_ends)
            return max(0.0, free - self._clock())

    def take(self, tokens: float) -> None:
        """Count a request that goes out now and is expected to cost so many tokens."""
        with self._lock:
            now = self._clock()
            self._next_request = max(now, self._next_request) + self._per_request
            self._next_token = max(now, self._next_token) + tokens * self._per_token

    def correct(self, tokens: float) -> None:
        """Count tokens that a request cost beyond what was expected; negative: it cost less."""
        with self._lock:
            self._next_token += tokens * self._per_token

    def pause(self, seconds: float) -> None:
        """Let nothing go out for so long, because the server asked for it."""
        with self._lock:
            self._pause_ends = max(self._pause_ends, self._clock() + seconds)


def seconds_asked_for(retry_after: str | None, date: str | None) -> float | None:
    """What a Retry-After header asks for, in seconds from now; None where there is none that can be read.

    A date is taken relative to the server's own `date` header, since its clock may differ from this one.
    """
    text = (retry_after or "").strip()
    if re.fullmatch(r"\d{1,12}(\.\d{1,12})?", text, re.ASCII):
        return float(text)
    until, now = _seconds_of(text), _seconds_of(date or "")
    if until is None:
        return None
    return max(0.0, until - (time.time() if now is None else now))


def _seconds_of(date: str) -> float | None:
    """An HTTP date in seconds since 1970; None: it is none."""
    try:
        seconds = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return seconds if math.isfinite(seconds) else None
