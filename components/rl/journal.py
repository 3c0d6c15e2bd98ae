"""What an RL run writes down: metrics.jsonl, sample evidence, resume points, and what the guard said.

All of it is kept in each resume point, so that the output of a resumed stage is that of an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from components.artifacts.context import StageContext
from components.artifacts.folder import Folder
from components.failures import Diverged
from components.rl.batch import Group, Prompt
from components.rl.evidence import count_alarms, keep_rewards, note_alarms, sample_groups
from components.rl.guard import Guard, Verdict
from components.rl.ledger import PromptMixture
from components.training.probe import Probe

log = logging.getLogger(__name__)


class Saves(Protocol):
    """The learner's part of a resume point."""

    def save_resume(self, directory: Path, place: Folder) -> Folder: ...


class Carries(Protocol):
    """The collector's part of a resume point."""

    def save(self, directory: Path) -> None: ...


@dataclass
class RlSummary:
    """steps: trained. first and last: mean reward over the first and the last tenth of the steps (at least one).

    retired: prompts not drawn any more, by why. warnings: the guard's. alarms: of the reward monitors.
    """

    steps: int
    reward_first: float
    reward_last: float
    outcomes: dict[str, int]
    retired: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    alarms: int = 0


class Journal:
    """The record of one run."""

    def __init__(self, context: StageContext, probe: Probe) -> None:
        self.context, self.probe = context, probe
        self.file, self.rollouts = context.output / "metrics.jsonl", context.output / "rollouts"
        self.rewards: list[float] = []
        self.warnings: list[str] = []
        shutil.rmtree(self.rollouts, ignore_errors=True)
        self.rollouts.mkdir(parents=True)
        self.file.write_text("")

    def note(self, step: int, verdict: Verdict) -> None:
        """Keeps what the guard said, unless it was ok."""
        if verdict.action != "ok":
            self.warnings.append(f"step {step}: {verdict.action}: {verdict.diagnosis}")
            log.warning("%s step %d: %s: %s", self.context.node, step, verdict.action, verdict.diagnosis)

    def stop(self, step: int, verdict: Verdict, metrics: Mapping[str, float]) -> Diverged:
        """What to raise: the diagnosis, with the step's metrics logged."""
        self.context.metrics(dict(metrics), step)
        return Diverged(f"{self.context.node} stopped at step {step}: {verdict.diagnosis}")

    def alarms(self, step: int, found: Sequence[str]) -> None:
        """Notes what the monitors of the rewards found; a person decides."""
        note_alarms(self.rollouts, step, found)
        for text in found:
            log.warning("%s step %d: reward monitor: %s", self.context.node, step, text)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        self.context.metrics(metrics, step)
        if "reward/mean" in metrics:
            self.rewards.append(metrics["reward/mean"])
        with self.file.open("a") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")

    def evidence(
        self,
        step: int,
        groups: Sequence[Group],
        prompts: Sequence[Prompt],
        decode: Callable[[list[int]], str],
        every: int,
    ) -> None:
        """Keeps every reward; puts the first groups of every `every`-th step into the tracker, in full."""
        keep_rewards(self.rollouts, step, groups, prompts, decode)
        if step % every == 0:
            path = sample_groups(self.rollouts, step, groups, prompts, decode)
            self.context.attach(path, f"rollouts/{path.name}")

    def checkpoint(
        self,
        step: int,
        learners: Saves,
        version: int,
        mixture: PromptMixture,
        guard: Guard,
        collector: Carries,
    ) -> None:
        """Saves everything the loop needs to go on at `step`."""
        directory = self.context.scratch / "resume"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        place = learners.save_resume(directory, self.context.resume.place(step))
        self.probe.save(directory)
        collector.save(directory)
        shutil.copytree(self.rollouts, directory / "rollouts")
        shutil.copy(self.file, directory / "metrics.jsonl")
        state = {"version": version, "ledger": mixture.state_dict(), "guard": guard.state_dict()}
        self.context.resume.save(step, directory, state | {"warnings": self.warnings}, place)
        shutil.rmtree(directory)

    def restore(self, path: Path, warnings: list[str]) -> None:
        """Takes over what was written before the resume point, once the restored policy proved to be the saved one."""
        self.probe.check(path, f"{self.context.node} {path.name}")
        self.warnings = list(warnings)
        shutil.copytree(path / "rollouts", self.rollouts, dirs_exist_ok=True)
        shutil.copy(path / "metrics.jsonl", self.file)
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        self.rewards = [line["reward/mean"] for line in lines if "reward/mean" in line]

    def summary(self, steps: int, mixture: PromptMixture) -> RlSummary:
        tenth = max(len(self.rewards) // 10, 1)
        return RlSummary(
            steps=steps,
            reward_first=float(np.mean(self.rewards[:tenth])) if self.rewards else float("nan"),
            reward_last=float(np.mean(self.rewards[-tenth:])) if self.rewards else float("nan"),
            outcomes=dict(mixture.outcomes),
            retired=dict(mixture.retired),
            warnings=self.warnings,
            alarms=count_alarms(self.rollouts),
        )
