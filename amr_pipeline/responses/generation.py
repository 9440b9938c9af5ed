"""What generating means: requests with an identity, responses, and the callables an engine must provide.

A response's id is its content: query, distiller fingerprint, pass index. Its seed comes from the id, so a re-run
writes the same text whatever else is in the batch. Engines (`engines.engine_pools`)
provide the callables; nothing here knows them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from amr_pipeline.fingerprint import content_id


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """One response that is owed: (role, content) turns as the distiller will see them, and its seed."""

    response_id: str
    messages: tuple[tuple[str, str], ...]
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedResponse:
    """What an engine wrote for one request.

    Attributes:
        finish_reason: stop, length, looping or error (`error`: the engine refused this prompt; text says why).
        prompt_tokens: None: not known, the response was imported.
        engine: name and version, as `vllm 0.29.0` or, where the platform draws, `vllm 0.29.0, draws 1`.
        lost_prompt_tokens, lost_response_tokens: what attempts at a server that brought no answer may have cost.
        attempts: times it was asked; None: nobody counts.
        last_failure: why the last attempt in vain failed; None: none did.
    """

    response_id: str
    text: str
    finish_reason: str
    prompt_tokens: int | None
    response_tokens: int
    engine: str
    lost_prompt_tokens: int = 0
    lost_response_tokens: int = 0
    attempts: int | None = None
    last_failure: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringRequest:
    """A response to read: the query's turns, then the text whose likelihood counts together with them."""

    response_id: str
    messages: tuple[tuple[str, str], ...]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PerplexityScore:
    """Perplexity of one text; None when it exceeds the scorer's context."""

    response_id: str
    perplexity: float | None


Generate = Callable[[Iterable[GenerationRequest]], Iterator[GeneratedResponse]]
"""Writes responses, yielding each as it finishes, in any order, exactly one per request."""

ScorePerplexity = Callable[[Iterable[ScoringRequest]], Iterator[PerplexityScore]]
"""Reads responses, yielding each score as it is known, in any order, exactly one per request."""


def response_id(query_id: str, distiller_fingerprint: str, pass_index: int) -> str:
    """Identity of one response: query, distiller fingerprint, pass (promise 1 of the design)."""
    return content_id("response", query_id, distiller_fingerprint, pass_index)


def seed_of(identity: str) -> int:
    """Sampling seed of a response: the leading 31 bits of its id, which every engine's seed type holds."""
    return int(identity[:8], 16) >> 1
