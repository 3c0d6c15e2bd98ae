"""What a simulated stage consists of, what happens to it, and how often it should be saved.

Times come from elsewhere (components.simulation.cluster, .measured); here nothing knows a model or a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, sqrt

import numpy as np

# Where a second goes. The first four are work that stays; what a failure undoes is lost work.
PARTS = (
    *("compute", "communication", "rollout", "exchange"),
    *("stragglers", "checkpoints", "lost work", "restarts", "waiting", "orchestration"),
)
WORK = PARTS[:4]


@dataclass(frozen=True)
class StageTimes:
    """One stage without failures, noise and queues.

    devices: held while it runs; 0 for work beside the accelerators. steps: seconds by part of its first steps, repeated
    until there are `count`. ranks: replicas, or engines, that wait for the slowest. start_s: before the first step and
    after the last one. checkpoint_every: steps; 0: never. resume_s: reading a resume point.
    """

    name: str
    devices: int
    count: int
    steps: tuple[Mapping[str, float], ...]
    start_s: float = 0.0
    ranks: int = 1
    checkpoint_every: int = 0
    checkpoint_s: float = 0.0
    resume_s: float = 0.0

    @property
    def step_s(self) -> float:
        """Mean seconds of a step."""
        return float(self.durations().sum(1).mean()) if self.count else 0.0

    def durations(self) -> np.ndarray:
        """[count, parts of work] seconds."""
        rows = np.array([[step.get(part, 0.0) for part in WORK] for step in self.steps])
        return rows.reshape(-1, len(WORK))[np.arange(self.count) % max(len(self.steps), 1)]

    @property
    def saves(self) -> int:
        """Checkpoints of the whole stage; none after the last step."""
        return (self.count - 1) // self.checkpoint_every if self.checkpoint_every and self.count else 0

    @property
    def sum_s(self) -> float:
        """Seconds of the whole stage where nothing goes wrong."""
        return self.start_s + float(self.durations().sum()) + self.saves * self.checkpoint_s

    def every(self, steps: int) -> StageTimes:
        return replace(self, checkpoint_every=steps)


@dataclass(frozen=True)
class Weather:
    """What goes wrong.

    mtbf_h: hours between failures of one device (exponential); inf: none. restart_s: from a failure to the stage's new
    start. noise: a replica's step takes 1 + e times as long, e exponential with this mean. wait_s: mean wait for nodes
    before a stage, and for a new one after a failure, log-normal; wait_spread: deviation over mean.
    """

    mtbf_h: float = inf
    restart_s: float = 0.0
    noise: float = 0.0
    wait_s: float = 0.0
    wait_spread: float = 1.0

    def between_failures(self, devices: int) -> float:
        """Mean seconds between failures of any of the devices."""
        return self.mtbf_h * 3600 / devices if devices and self.mtbf_h < inf else inf


def young(save_s: float, between_s: float) -> float:
    """Seconds of work between checkpoints (Young 1974): first order of the optimum. inf where nothing fails."""
    return sqrt(2 * save_s * between_s) if between_s < inf else inf


def daly(save_s: float, between_s: float) -> float:
    """The same to a higher order (Daly 2006, eq. 37); at most one checkpoint between two failures."""
    if between_s == inf:
        return inf
    if save_s >= 2 * between_s:
        return between_s
    share = save_s / (2 * between_s)
    return young(save_s, between_s) * (1 + sqrt(share) / 3 + share / 9) - save_s


def best_interval(stage: StageTimes, weather: Weather) -> int | None:
    """Daly's interval in steps of a stage; None where saving is pointless or costs nothing known."""
    between = weather.between_failures(stage.devices)
    if between == inf or not stage.step_s or not stage.checkpoint_s:
        return None
    return max(1, round(daly(stage.checkpoint_s, between) / stage.step_s))
