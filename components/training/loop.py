"""The loop that pre-training, SFT and reward model training share: steps, resume points, metrics, divergence.

A step that produced NaN or infinity was refused before it touched a weight. Whatever led there may stand in weights and
moments already, so the loop goes back to the last resume point once (to the start when there is none), and leaves out
the batch that broke, as PaLM's training did around its loss spikes (arXiv 2204.02311, 5.1). The second time it stops
with the reason. That it went back is saved at once: a kill does not make it forget.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.artifacts.context import ResumePoint, StageContext
from components.failures import Diverged
from components.training.group import LearnerGroup
from components.training.probe import Probe

log = logging.getLogger(__name__)

LOG_EVERY = 10


@dataclass
class Progress:
    """What a resume point's state holds besides files. done: finished steps. left_out: indices of refused steps.

    diverged: what the first divergence said; empty while there was none.
    """

    done: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    left_out: list[int] = field(default_factory=list)
    diverged: str = ""

    def as_state(self) -> dict[str, Any]:
        return {"metrics": self.metrics, "left_out": self.left_out, "diverged": self.diverged}


def run_steps(
    context: StageContext,
    learners: LearnerGroup,
    *,
    begin: Callable[[], None],
    probe: Probe,
    total: int,
    checkpoint_every: int,
    step: Callable[[int], Mapping[str, float]],
    after: Callable[[int], None] = lambda done: None,
    describe: Callable[[Mapping[str, float]], str] = lambda metrics: f"loss {metrics['loss']:.3f}",
) -> dict[str, float]:
    """Runs `step(i)` for i in [resume point, total) and returns the last step's metrics.

    Args:
        begin: puts the learners into the state before step 0.
        probe: asked after every resume, before the next update.
        after: called with the number of finished steps, before a resume point of that number; what it sends (by
            `context.outbox`) belongs to the point.
    Raises:
        Diverged: a second step was not finite, or no step was.
        IntegrityError: the restored model is not the saved one (components.training.probe).
    """
    run = _restore(context, learners, begin, probe)
    while run.done < total:
        context.check()
        index, metrics = run.done, None
        if index not in run.left_out:
            try:
                metrics = dict(step(index))
            except Diverged as error:
                if run.diverged:
                    raise Diverged(
                        f"step {index}: {error}. The run had gone back once already: {run.diverged}. Lower the "
                        "learning rate, raise warmup_steps or lower clip_grad_norm"
                    ) from error
                run = _go_back(context, learners, begin, probe, index, error)
                continue
        run.done = done = index + 1
        if metrics is not None:
            if "tokens" in metrics:
                metrics["tokens_per_second"] = metrics["tokens"] / max(metrics["seconds"], 1e-9)
            run.metrics = metrics
            if done % LOG_EVERY == 0 or done == total or done == 1:
                context.metrics(metrics, done)
            context.progress(done, total, describe(metrics))
        after(done)
        if done % checkpoint_every == 0 and done < total:
            _save(context, learners, probe, run)
    if not run.metrics:
        raise Diverged(f"no step could be trained: {run.diverged}")
    return run.metrics


def _restore(context: StageContext, learners: LearnerGroup, begin: Callable[[], None], probe: Probe) -> Progress:
    """Puts the learners into the state of the newest resume point, or before step 0 when there is none."""
    point: ResumePoint | None = context.resume.latest(learners.load_resume)
    if point is None:
        begin()
        return Progress()
    probe.check(point.path, f"{context.node} step {point.step}")
    state = point.state
    return Progress(
        point.step, dict(state.get("metrics", {})), list(state.get("left_out", ())), state.get("diverged", "")
    )


def _go_back(
    context: StageContext,
    learners: LearnerGroup,
    begin: Callable[[], None],
    probe: Probe,
    index: int,
    error: Diverged,
) -> Progress:
    """The last good state, from which step `index` will be left out; saved at once."""
    run = _restore(context, learners, begin, probe)
    run.diverged = f"step {index}: {error}; went back to step {run.done}"
    run.left_out.append(index)
    log.warning("%s %s and leaves that step out", context.node, run.diverged)
    context.metrics({"divergences": 1.0}, index + 1)
    _save(context, learners, probe, run)
    return run


def _save(context: StageContext, learners: LearnerGroup, probe: Probe, run: Progress) -> None:
    directory = context.scratch / "resume"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    place = learners.save_resume(directory, context.resume.place(run.done))
    probe.save(directory)
    context.resume.save(run.done, directory, run.as_state(), place)
    shutil.rmtree(directory)
