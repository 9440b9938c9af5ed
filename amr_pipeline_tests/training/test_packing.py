from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.training.packing import NO_LOSS, PackedRows, pack
from amr_pipeline.training.rendering import Example

EXAMPLES = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=40).map(
    lambda sizes: [
        Example(tokens=tuple([index + 1] * (prompt + answer)), num_prompt_tokens=prompt)
        for index, (prompt, answer) in enumerate(sizes)
    ]
)


def packed(examples: list[Example], packing: bool = True, epochs: int = 2) -> PackedRows:
    return pack(examples, sequence_tokens=24, pad_token=0, packing=packing, epochs=epochs, seed=1)


def documents(rows: PackedRows) -> list[tuple[int, ...]]:
    """Examples found in the rows again, by where positions start anew."""
    found = []
    for tokens, positions in zip(rows.tokens, rows.positions, strict=True):
        starts = [index for index in np.flatnonzero(positions == 0) if tokens[index] != 0]
        for start in starts:
            end = start + 1
            while end < len(tokens) and positions[end] == positions[end - 1] + 1 and tokens[end] != 0:
                end += 1
            found.append(tuple(int(token) for token in tokens[start:end]))
    return found


@given(EXAMPLES)
def test_every_kept_example_is_whole_and_occurs_once_per_epoch(examples: list[Example]):
    rows = packed(examples)
    kept = [example for example in examples if len(example.tokens) <= 24]
    assert rows.num_examples == len(kept)
    assert rows.num_examples + rows.num_dropped == len(examples)
    assert Counter(documents(rows)) == Counter([example.tokens for example in kept] * 2)


@given(EXAMPLES)
def test_loss_falls_on_responses_only(examples: list[Example]):
    rows = packed(examples, epochs=1)
    kept = [example for example in examples if len(example.tokens) <= 24]
    assert rows.num_loss_tokens == sum(example.num_loss_tokens for example in kept)
    counted = rows.labels != NO_LOSS
    assert (rows.labels[counted] == rows.tokens[counted]).all()


def test_without_packing_each_example_has_a_row_and_packing_needs_fewer():
    examples = [Example(tokens=(1,) * 6, num_prompt_tokens=2)] * 8
    assert len(packed(examples, packing=False, epochs=1).tokens) == 8
    assert len(packed(examples, epochs=1).tokens) == 2


def test_epochs_are_shuffled_and_repeatable():
    examples = [Example(tokens=(index + 1, 99), num_prompt_tokens=1) for index in range(30)]
    rows = packed(examples, packing=False)
    assert not np.array_equal(rows.tokens[:30], rows.tokens[30:])
    assert np.array_equal(rows.tokens, packed(examples, packing=False).tokens)
