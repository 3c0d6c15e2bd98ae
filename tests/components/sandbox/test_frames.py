"""Frames of the control socket: whole whatever the pieces they come in, and bounded."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.sandbox.inside.frames import LARGEST, Reader, pack

frames = st.lists(st.tuples(st.dictionaries(st.text(), st.integers()), st.lists(st.binary(max_size=99), max_size=4)))


def pieces(data: bytes, size: int):
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return lambda count: parts.pop(0) if parts else b""


@given(frames, st.integers(1, 500))
def test_frames_come_out_as_they_went_in(sent, size):
    reader = Reader(pieces(b"".join(pack(*frame) for frame in sent), size))
    assert [reader.frame() for _ in sent] == sent
    with pytest.raises(EOFError):
        reader.frame()


@pytest.mark.parametrize("head", [(LARGEST + 1, 0), (2, (1 << 16) + 1)])
def test_a_frame_that_announces_too_much_is_refused(head):
    with pytest.raises(ValueError, match="a frame of"):
        Reader(pieces(struct.pack(">II", *head), 8)).frame()
