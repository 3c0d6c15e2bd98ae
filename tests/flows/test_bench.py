"""The rollout benchmark's lengths and options; its measurement is a run of its own (`ringflow bench rollout`)."""

from __future__ import annotations

import numpy as np
import pytest

from components.failures import BadInput
from flows import bench
from flows.bench.rollout import LONGEST_OVER_MEDIAN, MEDIAN, WARMUP, ForcedLengths, Lengths, run


def test_every_block_holds_the_same_long_tailed_lengths():
    lengths = Lengths()
    blocks = [[lengths(block * lengths.block + at) for at in range(lengths.block)] for block in range(3)]
    assert sorted(blocks[0]) == sorted(blocks[1]) == sorted(blocks[2])
    assert blocks[0] != blocks[1]
    assert np.median(blocks[0]) == MEDIAN
    assert max(blocks[0]) == MEDIAN * LONGEST_OVER_MEDIAN


def test_a_request_keeps_its_length_however_often_it_is_asked_for():
    from components.rollout.types import SampleRequest

    class Engines:
        def advance(self, requests, homes, sampling, until):
            return [request.length for request in requests]

    forced = ForcedLengths(Engines(), Lengths())
    requests = [SampleRequest(f"r{i}", [1], i) for i in range(8)]
    first = forced.advance(requests, range(8), None, None)
    assert first == [Lengths()(i) for i in range(8)]
    assert forced.advance(requests[3:], range(3, 8), None, None) == first[3:]


def test_options_a_benchmark_does_not_have_are_refused():
    assert "rollout" in bench.names()
    with pytest.raises(BadInput, match="no option 'steps'"):
        bench.measure("store", steps=3)
    with pytest.raises(BadInput, match="leave none"):
        run(steps=WARMUP)
