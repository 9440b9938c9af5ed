from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from amr_pipeline.engines.seeded_sampling import KEY, SeededSampling, draw

VOCABULARY = 50


def kept(logits: np.ndarray, temperature: float, top_p: float, top_k: int) -> np.ndarray:
    """Chances by the definition, one token after another."""
    chances = np.exp((logits - logits.max()) / temperature)
    chances /= chances.sum()
    ranked = np.argsort(-logits, kind="stable")
    if top_k:
        chances[ranked[top_k:]] = 0
        chances /= chances.sum()
    if top_p < 1:
        before = np.cumsum(chances[ranked]) - chances[ranked]
        out = ranked[1:][before[1:] >= top_p]
        chances[out] = 0
    return chances / chances.sum()


@given(
    temperature=st.floats(0.1, 3.0),
    top_p=st.one_of(st.just(1.0), st.floats(0.0, 1.0)),
    top_k=st.integers(0, 60),
    seed=st.integers(0, 1000),
)
def test_each_token_is_drawn_for_its_share_of_the_numbers(temperature: float, top_p: float, top_k: int, seed: int):
    draws = 2_000
    logits = np.random.default_rng(seed).normal(0, 2, VOCABULARY)
    everywhere = (torch.arange(draws) + 0.5) / draws
    tokens = draw(
        torch.tensor(logits, dtype=torch.float32).repeat(draws, 1),
        everywhere,
        torch.full((draws,), temperature),
        torch.full((draws,), top_p),
        torch.full((draws,), top_k),
    )
    shares = np.bincount(tokens.numpy(), minlength=VOCABULARY) / draws
    assert np.abs(shares - kept(logits, temperature, top_p, top_k)).max() <= 1.5 / draws


def test_the_ends_of_the_numbers_draw_tokens_that_are_possible():
    logits = torch.full((2, 5), float("-inf"))
    logits[:, 1:3] = torch.tensor([0.0, 1.0])
    for number, token in ((0.0, 1), (1.0, 2)):
        drawn = draw(logits, torch.full((2,), number), torch.ones(2), torch.ones(2), torch.zeros(2, dtype=torch.int64))
        assert drawn.tolist() == [token, token]


def test_requests_of_one_batch_have_limits_of_their_own():
    logits = torch.tensor([[3.0, 2.0, 1.0]]).repeat(4, 1)
    last = torch.full((4,), 0.9999)
    drawn = draw(
        logits,
        last,
        torch.tensor([1.0, 1.0, 1.0, 0.01]),
        torch.tensor([1.0, 0.7, 1.0, 1.0]),
        torch.tensor([0, 0, 1, 0]),
    )
    assert drawn.tolist() == [2, 1, 0, 0]


def test_a_request_draws_the_same_beside_one_that_has_limits():
    logits = torch.randn(200, VOCABULARY, generator=torch.Generator().manual_seed(1))
    numbers = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ones, no_limit = torch.ones(200), torch.zeros(200, dtype=torch.int64)
    apart = draw(logits, numbers, ones, ones, no_limit)
    some = torch.arange(200) < 2
    beside = draw(logits, numbers, ones, ones.masked_fill(some, 0.9), no_limit.masked_fill(some, 7))
    assert beside[2:].equal(apart[2:])
    assert beside.tolist() != apart.tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_weights_that_are_no_numbers_draw_some_token_and_harm_no_other(bad: float, top_p: float):
    logits = torch.zeros(2, VOCABULARY)
    logits[0, 3] = bad
    drawn = draw(
        logits, torch.full((2,), 0.5), torch.ones(2), torch.full((2,), top_p), torch.zeros(2, dtype=torch.int64)
    )
    assert 0 <= drawn[0] < VOCABULARY
    assert 0 < drawn[1] < VOCABULARY - 1


def test_rare_tokens_of_a_large_vocabulary_can_be_drawn():
    size = 150_000
    logits = torch.full((1, size), float(np.log(0.001 / (size - 1))))
    logits[0, 0] = float(np.log(0.999))
    logits = logits.repeat(200, 1)
    # Where the sum of chances is about to exceed what stands before each of these columns and the next.
    numbers = 0.999 + (torch.arange(200, dtype=torch.float64) + 100_000.5) * 0.001 / (size - 1)
    ones = torch.ones(200)
    drawn = draw(logits, numbers, ones, ones, torch.zeros(200, dtype=torch.int64))
    assert len(drawn.unique()) > 190


class Batch:
    """What vLLM tells a processor about its batch, and what the processor leaves of the same logits."""

    def __init__(self) -> None:
        self.sampling = SeededSampling(None, torch.device("cpu"), False)

    def change(
        self,
        size: int,
        removed: tuple[int, ...] = (),
        added: tuple[Any, ...] = (),
        moved: tuple[tuple[int, int, MoveDirectionality], ...] = (),
    ) -> None:
        self.sampling.update_state(BatchUpdate(batch_size=size, removed=removed, added=added, moved=moved))

    def step(self, outputs: list[list[int]]) -> list[int]:
        """A token for each request, from equal logits, appended to its output."""
        left = self.sampling.apply(torch.zeros(len(outputs), VOCABULARY))
        tokens = left.argmax(dim=-1).tolist()
        for output, token in zip(outputs, tokens, strict=True):
            output.append(token)
        return tokens


def added(index: int, seed: int, output: list[int]) -> tuple[int, Any, None, list[int]]:
    return index, SimpleNamespace(extra_args={KEY: (seed, 1.0, 1.0, 0)}), None, output


def alone(seed: int, tokens: int) -> list[int]:
    """What a request draws with nothing beside it."""
    batch, output = Batch(), []
    batch.change(1, added=(added(0, seed, output),))
    for _ in range(tokens):
        batch.step([output])
    return output


def test_a_seed_draws_what_it_always_drew():
    """What is stored under `vllm_engine.DRAWS` must come again; another way to draw needs another name there."""
    assert alone(5, 6) == [31, 37, 39, 47, 36, 46]


def test_requests_keep_their_numbers_when_they_change_places():
    batch = Batch()
    one, two, three = [], [], []
    batch.change(3, added=(added(0, 1, one), added(1, 2, two), added(2, 3, three)))
    batch.step([one, two, three])
    batch.change(3, moved=((0, 2, MoveDirectionality.SWAP),))
    batch.step([three, two, one])
    batch.change(2, removed=(0,), moved=((2, 0, MoveDirectionality.UNIDIRECTIONAL),))
    batch.step([one, two])
    assert (one, two, three) == (alone(1, 3), alone(2, 3), alone(3, 2))
    assert len({tuple(one), tuple(two)}) == 2


def test_a_request_that_comes_back_amid_its_answer_goes_on_with_it():
    whole = alone(5, 6)
    batch, output = Batch(), whole[:4]
    batch.change(1, added=(added(0, 5, output),))
    batch.step([output])
    batch.change(1)
    batch.step([output])
    assert output == whole


def test_a_prompt_that_is_read_in_parts_draws_its_first_token_once():
    batch, output = Batch(), []
    batch.change(1, added=(added(0, 5, output),))
    for _ in range(3):
        batch.sampling.apply(torch.zeros(1, VOCABULARY))
    batch.step([output])
    assert output == alone(5, 1)


def test_requests_without_a_seed_are_left_alone():
    batch, output = Batch(), []
    batch.change(2, added=((0, SimpleNamespace(extra_args=None), None, []), added(1, 5, output)))
    logits = torch.arange(2.0 * VOCABULARY).reshape(2, VOCABULARY)
    left = batch.sampling.apply(logits.clone())
    assert left[0].equal(logits[0])
    assert left[1].isfinite().sum() == 1
    batch.change(1, removed=(1,))
    assert batch.sampling.apply(logits[:1].clone()).equal(logits[:1])
    batch.change(1, added=((0, SimpleNamespace(extra_args={}), None, []),))
    assert batch.sampling.apply(logits[:1].clone()).equal(logits[:1])


@pytest.mark.parametrize("rows", [1, 7])
def test_one_token_is_left_possible(rows: int):
    batch, outputs = Batch(), [[] for _ in range(rows)]
    batch.change(rows, added=tuple(added(index, index, output) for index, output in enumerate(outputs)))
    left = batch.sampling.apply(torch.randn(rows, VOCABULARY))
    assert left.isfinite().sum(dim=-1).tolist() == [1] * rows
