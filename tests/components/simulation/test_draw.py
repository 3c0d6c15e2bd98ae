"""The pipeline's play: sums by hand, what must hold for any stages, and the checkpoint interval that is best."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.failures import BadInput
from components.simulation.draw import draw
from components.simulation.stage import PARTS, StageTimes, Weather, best_interval, daly, young


def stage(**changes) -> StageTimes:
    values = {
        **{"name": "rlvr-1", "devices": 64, "count": 100, "steps": ({"compute": 20.0, "rollout": 40.0},)},
        **{"start_s": 120.0, "checkpoint_every": 10, "checkpoint_s": 30.0, "resume_s": 15.0},
    }
    return StageTimes(**(values | changes))


stages = st.builds(
    stage,
    devices=st.sampled_from([0, 1, 64, 1024]),
    count=st.integers(0, 60),
    steps=st.lists(
        st.fixed_dictionaries({"compute": st.floats(0, 50), "exchange": st.floats(0, 5)}), min_size=1, max_size=3
    ).map(tuple),
    ranks=st.integers(1, 64),
    checkpoint_every=st.integers(0, 30),
    checkpoint_s=st.floats(0, 60),
)
weathers = st.builds(
    Weather,
    mtbf_h=st.sampled_from([500.0, 5000.0, inf]),
    restart_s=st.floats(0, 600),
    noise=st.floats(0, 0.2),
    wait_s=st.floats(0, 1000),
)


def test_without_failures_noise_and_queue_a_play_is_the_sum_of_its_parts() -> None:
    made = draw([stage(), stage(name="sft", steps=({"compute": 1.0}, {"compute": 3.0}), count=5)], Weather(), 3)
    assert made.wall() == pytest.approx([120 + 100 * 60 + 9 * 30 + 120 + 1 + 3 + 1 + 3 + 1] * 3)
    assert made.wall()[0] == pytest.approx(sum(one.sum_s for one in made.stages))
    parts = dict(zip(PARTS, made.seconds[0, 0], strict=True))
    assert {name: value for name, value in parts.items() if value} == pytest.approx(
        {"compute": 2000, "rollout": 4000, "checkpoints": 270, "orchestration": 120}
    )


def test_one_failure_costs_what_was_not_saved_and_the_new_start() -> None:
    """The first failures of these draws, looked up and followed by hand."""
    weather = Weather(mtbf_h=200.0, restart_s=300.0)
    made = draw([stage()], weather, 40)
    between = weather.between_failures(64)
    assert between == 200 * 3600 / 64
    checked = 0
    for number in np.flatnonzero(made.failures[:, 0] == 1):
        first = between * np.random.default_rng([0, number, 0, 0]).standard_exponential() - 120
        if first < 0:
            continue
        block = 10 * 60 + 30  # a checkpoint's steps with it
        lost = first - min(int(first // block), 9) * block
        parts = dict(zip(PARTS, made.seconds[number, 0], strict=True))
        assert parts["lost work"] == pytest.approx(lost)
        assert parts["restarts"] == pytest.approx(300 + 15 + 120)
        assert made.wall()[number] == pytest.approx(stage().sum_s + lost + 435)
        checked += 1
    assert checked > 3


@settings(max_examples=40, deadline=None)
@given(st.lists(stages, min_size=1, max_size=3), weathers, st.integers(0, 99))
def test_parts_add_up_device_hours_follow_and_a_seed_says_all(pipeline, weather, seed) -> None:
    made = draw(pipeline, weather, 2, seed)
    assert (made.seconds >= 0).all()
    devices = np.array([one.devices for one in pipeline])
    hours = (made.held * devices[None, :, None]).sum((0, 2)) / 3600
    assert made.device_hours().sum(0) == pytest.approx(hours)
    # Held time and time before it are the whole wall time, and only waiting lies before.
    before = made.seconds - made.held
    assert (before[:, :, [at for at, part in enumerate(PARTS) if part != "waiting"]] == 0).all()
    sums = np.array([one.sum_s for one in pipeline])
    assert (made.seconds.sum(2) >= sums * (1 - 1e-9)).all(), "bad weather never makes a stage faster"
    assert (draw(pipeline, weather, 2, seed).seconds == made.seconds).all()


def test_more_failures_slower_replicas_and_longer_queues_cost_more() -> None:
    def mean(weather: Weather, **changes) -> float:
        return float(draw([stage(**changes)], weather, 200).wall().mean())

    failing = [mean(Weather(mtbf_h=hours, restart_s=300)) for hours in (inf, 2000, 500, 100, 30)]
    assert failing == sorted(failing)
    assert failing[-1] > 1.5 * failing[0]
    assert mean(Weather(), devices=1) < mean(Weather(noise=0.1)) < mean(Weather(noise=0.1), ranks=64)
    assert mean(Weather(wait_s=600)) == pytest.approx(stage().sum_s + 600, rel=0.05)


def test_the_slowest_of_n_replicas_is_later_by_the_nth_harmonic_number() -> None:
    for ranks in (1, 4, 32):
        made = draw([stage(ranks=ranks, count=4000, checkpoint_every=0)], Weather(noise=0.05), 5)
        late = made.seconds[:, 0, PARTS.index("stragglers")].mean() / (4000 * 60)
        assert late == pytest.approx(0.05 * sum(1 / n for n in range(1, ranks + 1)), rel=0.03)


def test_the_best_interval_is_daly_s_and_any_far_from_it_costs_more() -> None:
    weather = Weather(mtbf_h=400.0, restart_s=300.0)
    long = stage(count=2000, steps=({"compute": 60.0},), checkpoint_s=60.0)
    best = best_interval(long, weather)
    between = weather.between_failures(64)
    assert best == round(daly(60, between) / 60)
    assert young(60, between) == sqrt(2 * 60 * between)
    assert abs(daly(60, between) - young(60, between)) < 60
    every = [max(1, best // 6), best // 2, best, best * 2, best * 6]
    costs = [float(draw([long.every(one)], weather, 60).wall().mean()) for one in every]
    assert costs[2] == min(costs)
    assert costs[0] > 1.02 * costs[2]
    assert costs[-1] > 1.02 * costs[2]
    # Beyond its range the formula says: as often as things fail.
    assert daly(100, 40) == 40
    assert best_interval(long, Weather()) is None


def test_a_stage_that_never_gets_to_its_checkpoint_says_so() -> None:
    with pytest.raises(BadInput, match=r"rlvr-1.*20,000 times"):
        draw([stage(checkpoint_every=0)], Weather(mtbf_h=2.0), 1)
