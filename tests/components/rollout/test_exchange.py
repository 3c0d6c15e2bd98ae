"""Shards on the wire, their two checksums, and what both refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from components.failures import IntegrityError
from components.model.wire import ShardLayout, WeightShards, allocate, checksum_of, place_blocks, unpack
from components.rollout.exchange import checksum, pack, verify

WEIGHTS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(1.5, dtype=np.float32),
    "c.transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "d.empty": np.zeros((0, 4), dtype=np.float32),
}


def test_round_trip_keeps_names_shapes_and_values():
    layouts, buffers = pack(WEIGHTS)
    received = dict(unpack(layouts, buffers))
    assert list(received) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(received[name], array)
        assert received[name].shape == array.shape


def halves() -> tuple[list[ShardLayout], list[np.ndarray]]:
    """One tensor [4, 2] in two shards, by columns, as two tensor parallel ranks hold it."""
    whole = np.arange(8, dtype=np.float32).reshape(4, 2)
    layouts, buffers = [], []
    for column in (0, 1):
        blocks = place_blocks([("w", "<f4", (4, 2), (0, column), (4, 1))])
        buffer = allocate(blocks)
        blocks[0].array(buffer)[...] = whole[:, column : column + 1]
        layouts.append(ShardLayout(blocks, checksum_of(blocks, buffer)))
        buffers.append(buffer)
    return layouts, buffers


def test_blocks_of_several_senders_make_one_tensor():
    layouts, buffers = halves()
    ((name, array),) = unpack(layouts, buffers)
    assert (name, array.tolist()) == ("w", np.arange(8).reshape(4, 2).tolist())
    shared = WeightShards(tuple(layouts), tuple(buffers))
    assert list(shared) == ["w"]
    np.testing.assert_array_equal(shared["w"], array)
    with pytest.raises(IntegrityError, match="1 blocks of w hold 16 bytes"):
        dict(unpack(layouts[:1], buffers[:1]))


def test_one_flipped_bit_is_refused_and_names_the_shard():
    layouts, buffers = halves()
    expected = checksum(layouts)
    assert checksum(layouts, buffers) == expected
    verify(expected, layouts, buffers, "engine")
    damaged = [buffers[0], buffers[1].copy()]
    damaged[1][3] ^= 1
    with pytest.raises(IntegrityError, match=r"engine: shard 1 of 2 arrived with checksum \w+, sent with \w+; refused"):
        verify(expected, layouts, damaged, "engine")


def test_another_name_a_missing_shard_and_another_order_are_refused():
    layouts, buffers = halves()
    expected = checksum(layouts)
    renamed = replace(layouts[0], blocks=(replace(layouts[0].blocks[0], name="other"),))
    with pytest.raises(IntegrityError, match="shard 0"):
        verify(expected, [renamed, layouts[1]], buffers, "engine")
    for chosen in ([0], [1, 0]):
        with pytest.raises(IntegrityError, match=f"sent with {expected}; refused"):
            verify(expected, [layouts[i] for i in chosen], [buffers[i] for i in chosen], "engine")
