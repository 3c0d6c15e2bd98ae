"""The simulator against times worked out by hand, and the properties a mode must have on a long-tailed distribution."""

from __future__ import annotations

import numpy as np
import pytest

from components.rl.scheduler import SchedulerPolicy
from components.rl.simulator import Cluster, rates, simulate


def cluster(**changes) -> Cluster:
    values = {
        "engines": 1,
        "places": 4,
        "step_s": lambda batch: 1.0 + 0.5 * batch,
        "prefill_s": 0.0,
        "prompt_tokens": 10,
        "train_s": 0.0,
        "fixed_s": 0.0,
    }
    return Cluster(**(values | changes))


def test_synchronous_times_by_hand():
    lengths = [2, 4, 4, 10]
    policy = SchedulerPolicy(group_size=2, offered=2)
    (step,) = simulate(policy, cluster(), lambda serial: lengths[serial], 1)
    # 2 steps of 4 rollouts, 2 of 3, 6 of 1
    assert step.rollout_s == pytest.approx(2 * 3.0 + 2 * 2.5 + 6 * 1.5)
    assert step.tokens == step.rollout_tokens == 20
    (step,) = simulate(policy, cluster(prefill_s=0.1, train_s=0.01, fixed_s=3), lambda serial: lengths[serial], 1)
    assert step.total_s == pytest.approx(20 + 4 * 1.0 + 0.2 + 3)
    # two places: the third and fourth wait for the first two; two engines: each has every other rollout
    (step,) = simulate(policy, cluster(places=2), lambda serial: lengths[serial], 1)
    assert step.rollout_s == pytest.approx(2 * 2.0 + 2 * 2.0 + 2 * 2.0 + 8 * 1.5)
    (step,) = simulate(policy, cluster(engines=2), lambda serial: lengths[serial], 1)
    assert step.rollout_s == pytest.approx(max(2 * 2 + 2 * 1.5, 4 * 2 + 6 * 1.5))


def test_a_budget_ends_the_step_and_resuming_pays_the_prefill():
    lengths = [1, 1, 8, 8, 1, 1, 1, 1]
    policy = SchedulerPolicy(group_size=2, offered=2, token_budget=2, max_staleness=5)
    first, second = simulate(policy, cluster(prefill_s=0.1), lambda serial: lengths[serial], 2)
    assert first.rollout_s == pytest.approx(4 * 1.0 + 3.0)
    assert first.tokens == 2
    # The two long ones are taken up from 10 + 1 tokens, the next two prompts start beside them.
    assert second.rollout_s == pytest.approx(2 * 1.1 + 2 * 1.0 + 3.0)
    assert second.tokens == 2


def test_asynchronous_training_hides_in_the_rollout_only_on_its_own_cores():
    policy = SchedulerPolicy(group_size=1, offered=4, take_groups=4, max_staleness=1, overdue="wait")
    own = simulate(policy, cluster(step_s=lambda b: 0.01, train_s=0.01), lambda serial: 50, 20)
    shared = simulate(policy, cluster(step_s=lambda b: 0.01, train_s=0.01, contention=2), lambda serial: 50, 20)
    assert rates(own, 4)[1] > 1.2 * rates(shared, 4)[1]
    synchronous = simulate(SchedulerPolicy(1, 4), cluster(step_s=lambda b: 0.01, train_s=0.01), lambda serial: 50, 20)
    assert rates(own, 4)[1] > 1.2 * rates(synchronous, 4)[1]


def test_carrying_over_beats_waiting_for_the_longest_and_never_the_bound():
    rng = np.random.default_rng(0)
    lengths = np.rint(20 * np.exp(1.04 * rng.standard_normal(20_000))).clip(1, 400).astype(int)
    at = cluster(places=64, step_s=lambda batch: 0.005 + 0.0001 * batch)
    synchronous = simulate(SchedulerPolicy(8, 8), at, lambda serial: int(lengths[serial]), 30)
    budget = int(np.mean([step.tokens for step in synchronous]))
    policy = SchedulerPolicy(8, 16, token_budget=budget, max_staleness=8)
    carried = simulate(policy, at, lambda serial: int(lengths[serial]), 30)
    ratio = rates(carried, 5)[0] / rates(synchronous, 5)[0]
    assert ratio > 2
    full = 64 / at.step_s(64)
    assert rates(carried, 5)[0] <= full * 1.001


def test_ring_1t_gains_from_every_mode_and_passes_no_bound_of_its_cluster():
    from flows.bench import _ring_1t as cluster_1t

    modes = cluster_1t.predict(5)
    base = rates(modes["synchronous"], 2)
    gains = {mode: (rates(steps, 2)[0] / base[0], rates(steps, 2)[1] / base[1]) for mode, steps in modes.items()}
    assert gains["c3po++"][0] > 2.5  # the paper's own figures: 2.5 times the rollout, 1.5 end to end
    assert gains["c3po++"][1] > 1.5
    assert gains["async"][1] > 1.5
    most = cluster_1t.ENGINES * cluster_1t.PLACES / cluster_1t.step_s(cluster_1t.PLACES)
    assert rates(modes["c3po++"], 2)[0] < most
