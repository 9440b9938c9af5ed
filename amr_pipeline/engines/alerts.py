"""Telling people: one JSON document `{"text": ...}` to the address that a deployment names, as chat services take it.

The address is a secret (who knows it may write there), so that no message, log or error of this module repeats it.

Belongs here: sending, and what a failed attempt says. Does not belong here: what is worth telling (`assets.alerting`).
"""

import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from urllib.parse import urlsplit

ATTEMPTS = 3
PATIENCE_SECONDS = 5.0
DEADLINE_SECONDS = 20.0
LONGEST_TEXT = 3_000
"""Characters; chat services refuse or cut what is longer."""


class AlertNotSentError(RuntimeError):
    """Nobody took an alert; the message says why, without the address."""


def send_alert(address: str, text: str, sleep: Callable[[float], object] = time.sleep) -> None:
    """Send one text, at most three times and within `DEADLINE_SECONDS`; redirects are not followed.

    Args:
        address: `http(s)://host[:port]/path`, checked by whoever read it.
        text: what people read; cut to `LONGEST_TEXT` characters.
        sleep: waits a number of seconds between attempts.

    Raises:
        AlertNotSentError: no attempt was answered with 2xx; one answered below 500 (but 408, 429) is the last.
    """
    outcome: Future[str | None] = Future()
    # In a thread of its own, since nothing bounds how long a name is looked up and how many addresses it has.
    threading.Thread(target=lambda: outcome.set_result(_tried(address, text, sleep)), daemon=True).start()
    try:
        said = outcome.result(DEADLINE_SECONDS)
    except TimeoutError:
        said = f"no answer within {DEADLINE_SECONDS:g} s"
    if said is not None:
        raise AlertNotSentError(
            f"an alert was not taken: {said}; look at AMR_ALERT_URL and what may be reached from here"
        )


def _tried(address: str, text: str, sleep: Callable[[float], object]) -> str | None:
    """Why nobody took it, or None."""
    said = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            sleep(random.uniform(0, 2.0**attempt))  # noqa: S311 (jitter)
        try:
            status = _post(address, text[:LONGEST_TEXT])
        except (OSError, ValueError, http.client.HTTPException) as error:  # a name that is none is a ValueError
            said = type(error).__name__
            continue
        if 200 <= status < 300:
            return None
        said = f"status {status}"
        if status < 500 and status not in (408, 429):
            break
    return said


def _post(address: str, text: str) -> int:
    url = urlsplit(address)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=PATIENCE_SECONDS)
    try:
        path = f"{url.path or '/'}{'?' + url.query if url.query else ''}"
        connection.request("POST", path, json.dumps({"text": text}), {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()
