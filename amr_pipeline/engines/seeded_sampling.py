"""Draws of the next tokens of many requests with a seed each, one uniform number per token.

vLLM's sampler on CPU draws exponential noise for every token of the vocabulary, request by request, where requests
have seeds; with 8,000 tokens that was half of all time (measured). `SeededSampling` takes its place through the public
interface of logits processors: it draws, and leaves one token possible, which vLLM's greedy sampler then takes. On a
GPU vLLM's own kernel draws seeded noise for all requests at once, and nothing here is used.

A request's answer depends on its seed and its logits only, not on what is stepped beside it.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

KEY = "seeded_sampling"
"""Where a request's `extra_args` hold its seed, temperature, top_p and top_k."""


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor
) -> torch.Tensor:
    """Invert the cumulative distribution of each row at a number.

    Args:
        logits: requests x vocabulary.
        uniform: one number in [0, 1) per request, 64 bits.
        temperature: above 0, per request.
        top_p: share of the probability that is kept, most probable tokens first, the one that crosses it included.
        top_k: how many tokens are kept, before `top_p` is; 0 keeps all.

    Returns:
        A token per request; never one that the limits left out.
    """
    scaled = logits / temperature[:, None]
    limited = (top_k > 0) | (top_p < 1)
    if not limited.any():
        return _at(uniform, scaled.softmax(dim=-1))
    # Only these in the order of their chances: what the others draw must not depend on who is beside them.
    tokens = _at(uniform, scaled.softmax(dim=-1))
    tokens[limited] = _ranked(scaled[limited], uniform[limited], top_p[limited], top_k[limited])
    return tokens


def _ranked(scaled: torch.Tensor, uniform: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Tokens of requests that have a limit."""
    scaled, tokens = scaled.sort(dim=-1, descending=True)
    left_out = (top_k[:, None] > 0) & (torch.arange(scaled.shape[1]) >= top_k[:, None])
    chances = scaled.masked_fill_(left_out, float("-inf")).softmax(dim=-1)
    before = chances.cumsum(dim=-1) - chances
    before[:, 0] = -1.0  # the most probable token stays, whatever is asked
    chances = chances.masked_fill_((before >= top_p[:, None]) & (top_p < 1)[:, None], 0.0)
    return tokens.gather(1, _at(uniform, chances)[:, None])[:, 0]


def _at(uniform: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    """The column where the sum of chances first exceeds a share of the whole; its own chance is above 0.

    Chances that are no numbers, of weights that are none, give the last column.
    """
    sums = chances.cumsum(dim=-1, dtype=torch.float64)
    whole = sums[:, -1:]
    # Rounding could lift a share to the whole, which no column exceeds.
    wanted = torch.minimum(uniform[:, None] * whole, whole.nextafter(torch.zeros_like(whole)))
    return torch.searchsorted(sums, wanted, right=True)[:, 0].clamp_(max=chances.shape[1] - 1)


class _Request:
    """One request's numbers: the nth belongs to its nth token, however often that is asked for."""

    def __init__(self, asked: Sequence[float], output: Sequence[int]) -> None:
        self.seed, self.temperature, self.top_p, self.top_k = asked
        self._output = output  # vLLM's own list, which grows
        self._numbers = random.Random(int(self.seed))  # noqa: S311 - to be repeated, not to be secret
        self._drawn, self._number = 0, 0.0

    def number(self) -> float:
        # A prompt that is read in parts asks several times for its first token, a request that was preempted begins
        # amid its answer.
        while self._drawn <= len(self._output):
            self._drawn, self._number = self._drawn + 1, self._numbers.random()
        return self._number


class SeededSampling(LogitsProcessor):
    """Leaves each request that brings `KEY` the one token that was drawn for it; such a request is greedy to vLLM."""

    def __init__(self, *_: Any) -> None:
        """Called by vLLM with its configuration, a device, and whether memory is pinned."""
        self._requests: dict[int, _Request] = {}
        self._rows = self._temperature = self._top_p = self._top_k = torch.empty(0)

    def is_argmax_invariant(self) -> bool:
        """No: it decides what a greedy request takes."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow who came into the batch, went, and changed places, in this order."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._requests.pop(index, None)
        for index, params, _, output in batch_update.added:
            self._put(index, _of(params, output))
        for one, other, direction in batch_update.moved:
            moved, replaced = self._requests.pop(one, None), self._requests.pop(other, None)
            self._put(other, moved)
            if direction == MoveDirectionality.SWAP:
                self._put(one, replaced)
        self._requests = dict(sorted(self._requests.items()))
        held = self._requests.values()
        self._rows = torch.tensor(list(self._requests), dtype=torch.int64)
        self._temperature = torch.tensor([request.temperature for request in held], dtype=torch.float32)
        self._top_p = torch.tensor([request.top_p for request in held], dtype=torch.float32)
        self._top_k = torch.tensor([request.top_k for request in held], dtype=torch.int64)

    def _put(self, index: int, request: _Request | None) -> None:
        self._requests.pop(index, None)
        if request is not None:
            self._requests[index] = request

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Draw for each request that asked for it, and rule out everything else it could have said."""
        if not self._requests:
            return logits
        numbers = torch.tensor([request.number() for request in self._requests.values()], dtype=torch.float64)
        alone = len(self._requests) == len(logits)
        own = logits if alone else logits[self._rows]
        tokens = draw(own, numbers, self._temperature, self._top_p, self._top_k)
        if alone:
            logits.fill_(float("-inf"))
        else:
            logits[self._rows] = float("-inf")
        logits[self._rows, tokens] = 0.0
        return logits


def _of(params: SamplingParams, output: Sequence[int]) -> _Request | None:
    asked = (params.extra_args or {}).get(KEY)
    return None if asked is None else _Request(asked, output)
