"""Seconds of rollouts and of evaluations: components.rl.simulator with a recipe's numbers.

Lengths of answers are log-normal between their mean and their longest, the quantiles of one step in an order of its
own: a synchronous step waits for the longest, C3PO++ carries it over, as the real scheduler does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from statistics import NormalDist

import numpy as np

from components.recipe.rl import RolloutConfig
from components.rl.partial import scheduler_policy
from components.rl.scheduler import SchedulerPolicy
from components.rl.simulator import Cluster, StepTimes, simulate

KEPT, WARMUP = 6, 3  # steps simulated, after those that fill the pool of unfinished rollouts
MOST_ANSWERS = 4096  # of an evaluation that are simulated; more take as much longer
SEED = 5


class Lengths:
    """Serial number of a rollout -> tokens. block: rollouts that hold every quantile once."""

    def __init__(self, block: int, mean: float, longest: float) -> None:
        self.block = block
        z = np.array([NormalDist().inv_cdf((i + 0.5) / block) for i in range(block)])
        low, high = 0.0, 8.0
        for _ in range(50):  # the wider the distribution, the shorter the mean beside the longest
            sigma = (low + high) / 2
            shares = np.exp(sigma * (z - z[-1]))
            low, high = (sigma, high) if shares.mean() > mean / longest else (low, sigma)
        self.values = np.maximum(np.rint(longest * shares), 1).astype(int)
        self._orders: dict[int, np.ndarray] = {}

    def __call__(self, serial: int) -> int:
        block, at = divmod(serial, self.block)
        if block not in self._orders:
            self._orders[block] = np.random.default_rng([SEED, block]).permutation(self.block)
        return int(self.values[self._orders[block][at]])


def rollout_steps(rollout: RolloutConfig, cluster: Cluster, mean: float, longest: float) -> list[StepTimes]:
    """Some steps as they repeat, with what they trained on."""
    lengths = Lengths(rollout.prompts_per_step * rollout.group_size, mean, longest)
    policy = scheduler_policy(rollout)
    if policy.token_budget is None and policy.take_groups is None:
        return simulate(policy, cluster, lengths, 1)  # all steps draw the same lengths
    return simulate(policy, cluster, lengths, WARMUP + KEPT)[WARMUP:]


def answering_s(answers: int, cluster: Cluster, mean: float, longest: float) -> float:
    """Seconds in which the engines give `answers` answers, all asked at once."""
    if not answers:
        return 0.0
    least = cluster.engines * cluster.places  # fewer would not fill the engines as all do
    simulated = min(answers, max(MOST_ANSWERS, 2 * least))
    free = replace(cluster, train_s=0.0, fixed_s=0.0)
    (step,) = simulate(SchedulerPolicy(1, simulated), free, Lengths(simulated, mean, longest), 1)
    return step.rollout_s * answers / simulated


def interpolated(step_s: Callable[[int], float], places: int) -> Callable[[int], float]:
    """The same from a few points: a step's time is asked for millions of times."""
    points: Sequence[int] = sorted({min(places, ceil(2 ** (n / 2))) for n in range(40)})
    seconds = [step_s(point) for point in points]
    table = np.interp(np.arange(places + 1), points, seconds).tolist()
    return lambda batch: table[batch]
