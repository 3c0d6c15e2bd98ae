"""The first real stages, down to a base model on a real learner, as a flow for a worker to run.

The flow's process writes down every step with the address of the learner's node (`TOY_DIR`/actors), and while there is
a `gate-base` it freezes the learner in the middle of step TURN: a kill that follows hits it at work.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from components.artifacts.context import StageContext
from components.training import pretrain
from components.training.group import LearnerGroup
from tests.faults.mini import mini
from tests.faults.team import TURN

INTO_THE_STEP_S = 0.05

real = pretrain.run_steps


def run_steps(
    context: StageContext, learners: LearnerGroup, *, step: Callable[[int], Mapping[str, float]], **named
) -> dict[str, float]:
    """components.training.loop.run_steps, every step with its trace."""
    directory, workers = Path(os.environ["TOY_DIR"]), learners._workers
    host, _ = workers.rendezvous(120)

    def freeze() -> None:
        os.kill(workers._about[0]["pid"], signal.SIGSTOP)
        (directory / f"reached-{context.node}").touch()

    def traced(index: int) -> Mapping[str, float]:
        with (directory / "actors").open("a") as stream:
            stream.write(f"{context.node} {index + 1} {host}\n")
        if index + 1 == TURN and (directory / f"gate-{context.node}").exists():
            threading.Timer(INTO_THE_STEP_S, freeze).start()
        return step(index)

    return real(context, learners, step=traced, **named)


pretrain.run_steps = run_steps

__all__ = ["mini"]
