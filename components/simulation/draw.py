"""Plays a pipeline many times: failures, checkpoints, stragglers and queues over the stages, one after another.

A stage waits for its nodes, starts, and runs step after step; a step ends when its slowest replica does. A failure of
any device it holds stops it: work since the last checkpoint is lost, a new node is waited for, and the stage starts
again from there, as ringflow's does. Failures come at any time that devices are held. The three causes have random
numbers of their own, so that changing one of them leaves the others' draws alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, sqrt

import numpy as np

from components.failures import BadInput
from components.simulation.stage import PARTS, WORK, StageTimes, Weather

AT = {part: number for number, part in enumerate(PARTS)}
MOST_FAILURES = 20_000  # of one stage: it will not finish


@dataclass(frozen=True)
class Drawn:
    """seconds: [draws, stages, parts]. held: the same without what was waited before a stage held its devices."""

    stages: tuple[StageTimes, ...]
    seconds: np.ndarray
    held: np.ndarray
    failures: np.ndarray  # [draws, stages]

    def wall(self) -> np.ndarray:
        """[draws] seconds of the whole pipeline."""
        return self.seconds.sum((1, 2))

    def device_hours(self) -> np.ndarray:
        """[draws, stages]."""
        return self.held.sum(2) * np.array([stage.devices for stage in self.stages]) / 3600


def draw(stages: Sequence[StageTimes], weather: Weather, draws: int, seed: int = 0) -> Drawn:
    """Independent plays of the pipeline; the same seed gives the same ones.

    Raises:
        BadInput: a stage fails so often that it would never end.
    """
    shape = (draws, len(stages), len(PARTS))
    seconds, held, failures = np.zeros(shape), np.zeros(shape), np.zeros(shape[:2], int)
    for number in range(draws):
        for at, stage in enumerate(stages):
            play = _Play(stage, weather, [np.random.default_rng([seed, number, at, cause]) for cause in range(3)])
            before = play.wait() if stage.devices else 0.0
            play.run()
            held[number, at] = play.spent
            seconds[number, at] = play.spent
            seconds[number, at, AT["waiting"]] += before
            failures[number, at] = play.failures
    return Drawn(tuple(stages), seconds, held, failures)


class _Play:
    """One stage, once."""

    def __init__(self, stage: StageTimes, weather: Weather, sources: Sequence[np.random.Generator]) -> None:
        self.stage, self.weather = stage, weather
        self.fails, self.noise, self.queue = sources
        self.spent, self.failures = np.zeros(len(PARTS)), 0
        self.between = weather.between_failures(stage.devices)
        self.left = self._next()  # seconds of held time until the next failure

    def wait(self) -> float:
        mean, spread = self.weather.wait_s, self.weather.wait_spread
        if not mean:
            return 0.0
        variance = log(1 + spread**2)
        return float(mean * np.exp(sqrt(variance) * self.queue.standard_normal() - variance / 2))

    def run(self) -> None:
        stage, spent = self.stage, self.spent
        work = stage.durations()
        late = work[:, : AT["rollout"] + 1].sum(1) * self._slowest(stage.count)
        saved = np.zeros(stage.count)
        if stage.saves:
            saved[stage.checkpoint_every - 1 : stage.count - 1 : stage.checkpoint_every] = stage.checkpoint_s
        begun = np.concatenate([[0.0], np.cumsum(work.sum(1) + late + saved)])  # of held time, without failures
        every = stage.checkpoint_every or stage.count + 1
        points = np.arange(stage.saves + 1) * every  # steps that a resume point stands for
        self._start(0.0)
        done = 0
        while (rest := begun[-1] - begun[done]) > self.left:
            reached = begun[done] + self.left
            point = int(points[np.searchsorted(begun[points], reached, side="right") - 1])
            point = max(point, done)
            spent[AT["lost work"]] += reached - begun[point]
            done = point
            self._fail()
        self.left -= rest
        spent[: len(WORK)] += work.sum(0)
        spent[AT["stragglers"]] += late.sum()
        spent[AT["checkpoints"]] += saved.sum()

    def _slowest(self, count: int) -> np.ndarray:
        """[count] how much longer the slowest replica takes: the largest of `ranks` exponential variables."""
        if not self.weather.noise or not self.stage.devices:
            return np.zeros(count)
        uniform = self.noise.random(count)
        return -self.weather.noise * np.log1p(-(uniform ** (1 / self.stage.ranks)))

    def _next(self) -> float:
        return inf if self.between == inf else float(self.between * self.fails.standard_exponential())

    def _fail(self) -> None:
        """A failure now: what it takes until the stage runs again."""
        self._count()
        self.left = self._next()
        self._pass("waiting", self.wait())
        self._pass("restarts", self.weather.restart_s)
        self._start(self.stage.resume_s)

    def _start(self, reading: float) -> None:
        if reading:
            self._pass("restarts", reading)
        self._pass("restarts" if self.failures else "orchestration", self.stage.start_s)

    def _pass(self, part: str, seconds: float) -> None:
        """Time without progress; a failure in it begins it anew."""
        while seconds > self.left:
            self.spent[AT["lost work"]] += self.left
            self._count()
            self.left = self._next()
        self.left -= seconds
        self.spent[AT[part]] += seconds

    def _count(self) -> None:
        self.failures += 1
        if self.failures > MOST_FAILURES:
            raise BadInput(
                f"fails {MOST_FAILURES:,} times without an end: every {self.between:.0f} s, with "
                f"{self.stage.start_s + self.weather.restart_s:.0f} s to start again and "
                f"{self.stage.checkpoint_every * self.stage.step_s:.0f} s of work between checkpoints",
                where=self.stage.name,
                remedy="Lower checkpoint_every, or give a longer --mtbf",
            )
