"""The flat buffer, its checksum, and what both refuse."""

from __future__ import annotations

import numpy as np
import pytest

from components.failures import IntegrityError
from components.rollout.exchange import WeightLayout, checksum, pack, unpack, verify

WEIGHTS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(1.5, dtype=np.float32),
    "c.transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "d.empty": np.zeros((0, 4), dtype=np.float32),
}


def test_round_trip_keeps_names_shapes_and_values():
    layout, buffer = pack(WEIGHTS)
    received = dict(unpack(layout, buffer))
    assert list(received) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(received[name], array)
        assert received[name].shape == array.shape


def test_one_flipped_bit_or_another_name_is_refused_with_both_values():
    layout, buffer = pack(WEIGHTS)
    expected = checksum(layout, buffer)
    verify(expected, layout, buffer, "engine")
    damaged = buffer.copy()
    damaged[3] ^= 1
    with pytest.raises(IntegrityError, match=f"engine: weights arrived with sha256 [0-9a-f]+, sent with {expected}"):
        verify(expected, layout, damaged, "engine")
    renamed = WeightLayout((("other", *layout.tensors[0][1:]), *layout.tensors[1:]))
    with pytest.raises(IntegrityError):
        verify(expected, renamed, buffer, "engine")
