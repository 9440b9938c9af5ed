"""What a server's answer to a chat request means: a response, this prompt's own error, a failure, or the end.

Servers are hostile here: whatever status and bytes come, one `Reading` comes of them, and no text holds the key.

Belongs here: statuses, fields, finish reasons, and the wording of what went wrong. Does not belong here: waiting and
asking again (`http_engine`), connections (`http_exchange`).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from amr_pipeline.engines.engine_work import ends_in_a_loop, well_formed
from amr_pipeline.engines.http_limits import seconds_asked_for

MOST_TOKENS = 2**31 - 1
"""More than the tables hold is no count of tokens."""

LONGEST_EXCERPT = 500
"""Characters of a server's own words that are kept."""

HIDDEN_FROM = 12
"""Characters that a key has at least to be hidden in texts: shorter ones ("EMPTY") are words, and no secrets."""

_THIS_CANNOT_BE_HELPED = {
    401: "it does not take the key",
    402: "it wants to be paid first",
    403: "the key does not allow this",
    404: "there is no such address or model",
    405: "nothing there takes chat requests",
    407: "a proxy wants a password",
}
_AGAIN = {408, 409, 425, 429}
_BUSY = {429, 503}

_FINISHED = {"stop": "stop", "length": "length", "repetition": "looping"}
_NOT_FINISHED = {"abort", "error", "None"}
"""A server that stopped writing for reasons of its own; asked again, it may finish."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens as the server counts them; None: it does not say, or not credibly."""

    prompt_tokens: int | None = None
    response_tokens: int | None = None

    @property
    def both(self) -> tuple[int, int] | None:
        """Of prompt and response, or None where one is not known."""
        if self.prompt_tokens is None or self.response_tokens is None:
            return None
        return self.prompt_tokens, self.response_tokens


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A response; `model` as the server names it, or empty."""

    text: str
    finish_reason: str
    usage: Usage
    model: str

    @property
    def num_tokens(self) -> int:
        """Tokens of the response; its words, where the server does not count."""
        return len(self.text.split()) if self.usage.response_tokens is None else self.usage.response_tokens


@dataclass(frozen=True, kw_only=True)
class Refused:
    """This prompt gets no other answer, however often it is asked."""

    reason: str
    usage: Usage | None = None
    finish_reason: str = "error"
    model: str = ""

    @property
    def text(self) -> str:
        """What is kept as the response."""
        return self.reason

    @property
    def num_tokens(self) -> int:
        """Tokens that were written before it was refused."""
        return (self.usage.response_tokens if self.usage else None) or 0


@dataclass(frozen=True, kw_only=True)
class Failed:
    """No answer this time.

    Attributes:
        is_lost: tokens may have been paid for all the same.
        is_busy: the server does well and wants to be asked later.
        is_of_the_prompt: it may be this prompt that the server fails at each time.
        is_unsent: the server never saw the prompt.
        pause_seconds: how long the server wants to be left alone, or None.
    """

    reason: str
    is_lost: bool = False
    is_busy: bool = False
    is_of_the_prompt: bool = False
    is_unsent: bool = False
    pause_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """No other request would fare better."""

    reason: str


Reading = Answered | Refused | Failed | Ended


def cost_of(reading: Reading) -> tuple[int, int] | None:
    """Prompt and response tokens that an exchange cost; None: unknown, perhaps the most that it may."""
    if isinstance(reading, Answered):
        return reading.usage.both
    if isinstance(reading, Refused):
        return (0, 0) if reading.usage is None else reading.usage.both
    return None if isinstance(reading, Failed) and reading.is_lost else (0, 0)


@dataclass(frozen=True)
class HttpKey:
    """What proves to a server who asks; it shows in no repr."""

    text: str = field(repr=False)


def hidden(key: HttpKey | None) -> Callable[[str], str]:
    """What takes a key out of any text."""
    secret = key.text if key and len(key.text) >= HIDDEN_FROM else None
    return lambda text: text.replace(secret, "[key]") if secret else text


def read_answer(status: int, headers: Mapping[str, str], body: bytes, hide: Callable[[str], str]) -> Reading:
    """What one answer means.

    Args:
        status: of HTTP.
        headers: names in any case, if the mapping does not mind it.
        body: as it came, perhaps cut off.
        hide: `hidden` for the key that was sent.
    """
    if status == 200:
        return _chat_answer(body, hide)
    said = f"HTTP {status}{_words_of(body, hide)}"
    if status in _THIS_CANNOT_BE_HELPED:
        return Ended(reason=f"{_THIS_CANNOT_BE_HELPED[status]} ({said})")
    if 300 <= status < 400:
        return Ended(reason=f"it points elsewhere, and redirects are not followed (HTTP {status})")
    if status in _AGAIN or status >= 500:
        asked = seconds_asked_for(headers.get("Retry-After"), headers.get("Date")) if status in _BUSY else None
        return Failed(reason=said, is_busy=status in _BUSY, is_of_the_prompt=status == 500, pause_seconds=asked)
    if status >= 400:
        return Refused(reason=said)
    return _unreadable(f"HTTP {status} where an answer was expected")


def unreadable_size(limit: int) -> Failed:
    """An answer that was not read to its end."""
    return _unreadable(f"an answer of more than {limit:,} bytes")


def _unreadable(reason: str) -> Failed:
    return Failed(reason=reason, is_lost=True, is_of_the_prompt=True)


def _parsed(body: bytes) -> object:
    """The JSON value of a body; None where it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, a number of thousands of digits; nested for ever
        return None


def _chat_answer(body: bytes, hide: Callable[[str], str]) -> Reading:
    document = _parsed(body)
    if not isinstance(document, dict):
        return _unreadable("an answer that is no JSON object")
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return _unreadable("an answer without choices[0].message")
    parts = [message.get(name) for name in ("reasoning_content", "reasoning", "content", "refusal")]
    if not all(part is None or isinstance(part, str) for part in parts):
        return _unreadable("an answer whose message holds something else than text")
    older, newer, content, refusal = (part if isinstance(part, str) else "" for part in parts)
    text = hide(well_formed(_as_written(older or newer, content or refusal)))
    usage, finished = _usage(document.get("usage")), choice.get("finish_reason")
    reason = _FINISHED.get(str(finished))
    if reason is None and str(finished) in _NOT_FINISHED:
        return _unreadable(f"finish reason {finished!s}")
    if reason is None:
        return Refused(reason=f"finish reason {_excerpt(hide(str(finished)))}, after: {text}", usage=usage)
    if reason == "length" and ends_in_a_loop(_numbered(text.split())):
        reason = "looping"
    model = document.get("model")
    return Answered(
        text=text,
        finish_reason=reason,
        usage=usage,
        model=_excerpt(hide(model)) if isinstance(model, str) else "",
    )


def _as_written(thinking: str, content: str) -> str:
    """What the model wrote, before the server took its thinking apart.

    Without anything after it, the thinking was cut off, or nobody can tell: it stays open, since thinking that never
    closes has no answer.
    """
    if not thinking:
        return content
    return f"<think>{thinking}</think>{content}" if content else f"<think>{thinking}"


def _numbered(words: list[str]) -> list[int]:
    """Words as numbers, equal ones alike: the server does not send the tokens."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(word, len(numbers)) for word in words]


def _usage(found: object) -> Usage:
    counts = found if isinstance(found, dict) else {}
    return Usage(
        prompt_tokens=_count(counts.get("prompt_tokens")), response_tokens=_count(counts.get("completion_tokens"))
    )


def _count(found: object) -> int | None:
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= MOST_TOKENS:
        return found
    return None


def _words_of(body: bytes, hide: Callable[[str], str]) -> str:
    """What a server says about an error: its message where it has one, else how its text begins."""
    document = _parsed(body)
    error = document.get("error", document) if isinstance(document, dict) else None
    named = [error.get(name) for name in ("message", "detail")] if isinstance(error, dict) else [error]
    said = next((one for one in named if isinstance(one, str)), None)
    if said is None:
        said = body.decode("utf-8", "replace")
    words = _excerpt(hide(said))
    return f": {words}" if words else ""


def _excerpt(text: str) -> str:
    """The beginning of a server's text, on one line."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * LONGEST_EXCERPT])
    words = " ".join(well_formed(printable).split())
    return words if len(words) <= LONGEST_EXCERPT else f"{words[:LONGEST_EXCERPT]} ..."
