"""What surrounds the measurements: lengths, options, curves. Measuring is a run of its own (`ringflow bench NAME`)."""

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
    assert not any(name.startswith("_") for name in bench.names())


def test_options_are_read_by_the_types_of_the_benchmark():
    given = bench.options("icepop", ["lr=2e-3", "seeds=3", "precision=fp8"])
    assert given == {"lr": 2e-3, "seeds": 3, "precision": "fp8"}
    for wrong in ("lr", "seeds=many", "lr=fast"):
        with pytest.raises(BadInput, match="is no NAME=VALUE of a"):
            bench.options("icepop", [wrong])
    with pytest.raises(BadInput, match="no loss is called ppo"):
        bench.measure("icepop", losses="icepop,ppo")
    with pytest.raises(BadInput, match="needs the Python of an environment with TRL"):
        bench.measure("trl")
    with pytest.raises(BadInput, match="cannot run it"):
        bench.measure("trl", python="/nowhere/python")


def test_drift_is_judged_by_its_own_error():
    from flows.bench._icepop_probe import MOST_ERRORS, drift

    rng = np.random.default_rng(0)
    still = 2e-3 * np.exp(0.3 * rng.standard_normal(40))
    assert abs(drift(still)) < MOST_ERRORS
    assert drift(still * np.linspace(1, 3, 40)) > MOST_ERRORS
    assert drift([1e-3] * 10) == 0


def test_curves_of_runs_that_ended_early_are_drawn_and_averaged_where_all_have_points(tmp_path):
    from flows.bench._icepop_plot import PANELS, draw, figures, mean_of

    def run_of(steps: int) -> dict:
        series = {metric: [(step, 0.1 + step / 100) for step in range(steps)] for _, metric, _ in PANELS}
        return series | {"held_out/accuracy": [(step, 0.5) for step in range(0, steps, 20)]}

    results = {"grpo": [run_of(80), run_of(45)], "icepop": [run_of(80), run_of(80)]}
    assert draw(results, tmp_path, "two losses", "curves").stat().st_size > 10_000
    assert mean_of([([0, 1, 2], [1.0, 2.0, 3.0]), ([0, 1], [3.0, 4.0])]) == ([0, 1], [2.0, 3.0])
    assert figures(results)["grpo: last held-out accuracy"].value == 50
