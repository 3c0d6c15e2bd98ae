"""The first real stages, down to a base model on a real learner, as a flow for a worker to run.

The flow's process writes down every step with the address of the learner's node (`TOY_DIR`/actors), and while there is
a `gate-base` it freezes the learner in the middle of step TURN: a kill that follows hits it at work.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from components.artifacts.context import StageContext
from components.training import pretrain
from components.training.group import LearnerGroup
from tests.faults.mini import mini
from tests.faults.team import TURN

INTO_THE_STEP_S = 0.04  # of its 0.2 s on a core

real = pretrain.run_steps


def run_steps(
    context: StageContext, learners: LearnerGroup, *, step: Callable[[int], Mapping[str, float]], **named
) -> dict[str, float]:
    """components.training.loop.run_steps, every step with its trace."""
    directory, workers = Path(os.environ["TOY_DIR"]), learners._workers
    host, _ = workers.rendezvous(120)

    def freeze(learner: psutil.Process) -> None:
        began = _worked(learner)
        while _worked(learner) - began < INTO_THE_STEP_S:
            learner.resume()
            time.sleep(0.005)
            learner.suspend()
        (directory / f"reached-{context.node}").touch()

    def traced(index: int) -> Mapping[str, float]:
        with (directory / "actors").open("a") as stream:
            stream.write(f"{context.node} {index + 1} {host}\n")
        if index + 1 == TURN and (directory / f"gate-{context.node}").exists():
            learner = psutil.Process(workers._about[0]["pid"])
            learner.suspend()  # it finds the step's call when it is let go on, a few milliseconds at a time
            threading.Timer(0.2, freeze, [learner]).start()
        return step(index)

    return real(context, learners, step=traced, **named)


def _worked(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


pretrain.run_steps = run_steps

__all__ = ["mini"]
