"""What holds an HTTP engine back: its pace, its budget, and what a server asks for in Retry-After.

One pace per endpoint and one budget per process, shared by whatever threads ask. Both are counts and clocks: nothing
here waits or speaks to a server.

Belongs here: when a request may go out, and whether it may be paid for. Does not belong here: which failures are
tried again (`http_engine`), what an answer says (`http_answers`).
"""

import math
import re
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime


class HttpEngineError(RuntimeError):
    """Asking goes no further; everything answered so far was handed over, what is not stays owed."""


class BudgetSpentError(HttpEngineError):
    """The next response may cost more tokens than are left."""


class HttpBudget:
    """Tokens of prompts and responses that this process may still pay for; None: as many as it likes.

    A request reserves the most that it may cost before it is asked, so that no number in flight overspends.
    """

    def __init__(self, tokens: int | None) -> None:
        self._tokens, self._reserved, self.spent = tokens, 0, 0
        self._lock = threading.Lock()

    def reserve(self, tokens: int) -> bool:
        """Set tokens aside; False while other requests hold what may yet come back.

        Raises:
            BudgetSpentError: they do not fit even when everything in flight turns out to cost nothing.
        """
        with self._lock:
            if self._tokens is None or self.spent + self._reserved + tokens <= self._tokens:
                self._reserved += tokens
                return True
            if self.spent + tokens > self._tokens:
                raise BudgetSpentError(
                    f"of {self._tokens:,} tokens (AMR_HTTP_BUDGET_TOKENS) this process has spent {self.spent:,}, and "
                    f"the next response may cost {tokens:,}"
                )
            return False

    def settle(self, reserved: int, used: int) -> None:
        """Pay `used` tokens out of what was set aside; the rest is free again."""
        with self._lock:
            self._reserved -= reserved
            self.spent += used


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
