from __future__ import annotations

import os

import pytest

from components.cluster.worker import pin
from components.failures import BadInput


def test_cores_of_ones_own_are_refused_when_there_are_too_few():
    before = os.sched_getaffinity(0)
    with pytest.raises(BadInput, match=r"execution\.placement: core \d+ is asked for"):
        pin(rank=1, threads=2, first_core=len(before) - 1)
    assert os.sched_getaffinity(0) == before
