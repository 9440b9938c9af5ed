"""Whole examples into rows of equal length, without one example seeing another.

Positions start again at every example, which is what keeps attention inside it (a row has no attention mask; the
model derives the borders from the positions). Labels are -100 where no loss falls: prompts and padding.

Source: DeepDistill 4.1 (packing to 32k in Stage I, one example per row in Stage II).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amr_pipeline.training.rendering import Example

NO_LOSS = -100


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """Rows of tokens; `tokens`, `labels`, `positions` are int32 of shape (rows, sequence_tokens).

    Attributes:
        sizes: tokens of each row that belong to an example; what follows them is padding. int32 of shape (rows,).
        num_examples: examples that are in a row.
        num_dropped: examples longer than a row, left out.
        num_loss_tokens: tokens that count in the loss.
    """

    tokens: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    sizes: np.ndarray
    num_examples: int
    num_dropped: int

    @property
    def num_loss_tokens(self) -> int:
        """Tokens that count in the loss, over all rows."""
        return int((self.labels != NO_LOSS).sum())


def pack(
    examples: Sequence[Example], *, sequence_tokens: int, pad_token: int, packing: bool, epochs: int, seed: int
) -> PackedRows:
    """Rows of all epochs, each epoch shuffled anew; every kept example occurs once per epoch.

    With `packing`, examples fill rows in shuffled order, each going to the first open row that has room (first fit
    over a few open rows); without, each has a row of its own.
    """
    kept = [example for example in examples if len(example.tokens) <= sequence_tokens]
    rows: list[list[Example]] = []
    for epoch in range(epochs):
        order = list(kept)
        random.Random(f"{seed} {epoch}").shuffle(order)  # noqa: S311 (a shuffle that every machine repeats)
        rows += _first_fit(order, sequence_tokens) if packing else [[example] for example in order]
    shape = (len(rows), sequence_tokens)
    tokens = np.full(shape, pad_token, dtype=np.int32)
    labels = np.full(shape, NO_LOSS, dtype=np.int32)
    positions = np.zeros(shape, dtype=np.int32)
    for index, row in enumerate(rows):
        start = 0
        for example in row:
            end = start + len(example.tokens)
            tokens[index, start:end] = example.tokens
            labels[index, start + example.num_prompt_tokens : end] = example.tokens[example.num_prompt_tokens :]
            positions[index, start:end] = np.arange(end - start)
            start = end
    return PackedRows(
        tokens=tokens,
        labels=labels,
        positions=positions,
        sizes=np.array([sum(len(example.tokens) for example in row) for row in rows], dtype=np.int32),
        num_examples=len(kept),
        num_dropped=len(examples) - len(kept),
    )


OPEN_ROWS = 64
"""Rows that may still take an example; more would fill better and cost more."""


def _first_fit(examples: Sequence[Example], sequence_tokens: int) -> list[list[Example]]:
    rows: list[list[Example]] = []
    open_rows: list[tuple[int, int]] = []  # (index of the row, tokens free in it), oldest first
    for example in examples:
        size = len(example.tokens)
        place = next((at for at, (_, free) in enumerate(open_rows) if free >= size), None)
        if place is None:
            rows.append([example])
            open_rows = [*open_rows[-OPEN_ROWS + 1 :], (len(rows) - 1, sequence_tokens - size)]
        else:
            index, free = open_rows[place]
            rows[index].append(example)
            open_rows[place] = (index, free - size)
    return rows
