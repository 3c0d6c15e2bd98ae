"""The loop that pre-training, SFT and reward model training share: steps, resume points, metrics, divergence.

A step that produced NaN or infinity was refused before it touched a weight: it is skipped once, as a roll-back by one
step, and stops the run the second time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.artifacts.context import ResumePoint, StageContext
from components.failures import Diverged
from components.training.group import LearnerGroup

LOG_EVERY = 10
ALLOWED_DIVERGENCES = 1
LEARNER_DIRECTORY = "learner"


def run_steps(
    context: StageContext,
    learners: LearnerGroup,
    *,
    total: int,
    checkpoint_every: int,
    step: Callable[[int], Mapping[str, float]],
    after: Callable[[int], None] = lambda done: None,
    keep: Path | None = None,
    describe: Callable[[Mapping[str, float]], str] = lambda metrics: f"loss {metrics['loss']:.3f}",
) -> dict[str, float]:
    """Runs `step(i)` for i in [resume point, total) and returns the last logged metrics.

    Call `restore` first. after: called with the number of finished steps, before a resume point of that number.
    keep: a directory that belongs to the state (candidates); it travels with every resume point.
    """
    point = context.resume.latest()
    first = point.step if point else 0
    divergences = int(point.state.get("divergences", 0)) if point else 0
    last: dict[str, float] = dict(point.state.get("metrics", {})) if point else {}
    for index in range(first, total):
        context.check()
        try:
            metrics = dict(step(index))
        except Diverged as error:
            divergences += 1
            if divergences > ALLOWED_DIVERGENCES:
                raise Diverged(f"step {index}: {error} (a divergence was skipped before)") from error
            context.metrics({"divergences": divergences}, index + 1)
            continue
        done = index + 1
        if "tokens" in metrics:
            metrics["tokens_per_second"] = metrics["tokens"] / max(metrics["seconds"], 1e-9)
        last = metrics
        if done % LOG_EVERY == 0 or done == total or done == 1:
            context.metrics(metrics, done)
        context.progress(done, total, describe(metrics))
        after(done)
        if done % checkpoint_every == 0 and done < total:
            _save(context, learners, done, keep, {"divergences": divergences, "metrics": last})
    return last


def restore(context: StageContext, learners: LearnerGroup, keep: Path | None = None) -> ResumePoint | None:
    """Puts the learners (and `keep`) into the state of the newest resume point; None when there is none."""
    point = context.resume.latest()
    if point is None:
        return None
    learners.load_resume(point.path / LEARNER_DIRECTORY)
    if keep is not None and (point.path / keep.name).is_dir():
        shutil.copytree(point.path / keep.name, keep, dirs_exist_ok=True)
    return point


def _save(
    context: StageContext, learners: LearnerGroup, done: int, keep: Path | None, state: Mapping[str, Any]
) -> None:
    directory = context.scratch / "resume"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    learners.save_resume(directory / LEARNER_DIRECTORY)
    if keep is not None and keep.is_dir():
        shutil.copytree(keep, directory / keep.name)
    context.resume.save(done, directory, state)
    shutil.rmtree(directory)
