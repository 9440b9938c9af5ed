import json
import os
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.engines.sandbox_frames import decode, encode, read_frame, write_frame
from amr_pipeline.verdicts.program_values import same_value, untagged

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=4) | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(VALUES)
def test_values_come_back_as_they_were(value: object):
    assert decode(encode(value)) == value
    assert same_value(untagged(json.loads(json.dumps(encode(value)))), value, 0.0)


def test_subclasses_are_opaque():
    class Sly(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert encode(Sly(1)) == {"t": "opaque", "v": "Sly"}
    assert decode(encode(Sly(1))) != 1


def test_deep_values_end():
    deep: object = 1
    for _ in range(500):
        deep = [deep]
    assert "deep" in json.dumps(encode(deep))


def test_frames_are_bounded_and_strict():
    reader, writer = os.pipe()
    write_frame(writer, {"answer": [1, "é"]})
    assert read_frame(reader) == {"answer": [1, "é"]}
    for body, longest in ((b'{"a": 1}', 7), (b"NaN", None), (b'{"a": -Infinity}', None), (b"{", None)):
        os.write(writer, struct.pack("<I", len(body)) + body)
        with pytest.raises(ValueError, match=r"."):
            read_frame(reader, longest=longest)
        os.set_blocking(reader, False)
        with suppress(BlockingIOError):
            os.read(reader, 100)
        os.set_blocking(reader, True)
    os.close(writer)
    assert read_frame(reader) is None
    os.close(reader)
