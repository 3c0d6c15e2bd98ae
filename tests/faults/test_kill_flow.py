"""kill -9 of the flow's process at every place of a stage's life: the next run loses nothing and doubles nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.faults.mini import AT_THE_END, World

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

STAGES = ("corpus", "decontaminate")
# From which step the stage that was killed goes on: 6 means that it was finished.
GOES_ON = {
    "before it has the lease": 1,
    "lease taken, no step made": 1,
    "a resume point's files uploading": 3,
    "a resume point without its marker": 3,
    "a file of the result sent, its resume point not": 3,
    "the result's files uploading": 6,
    "files stored, no manifest": 6,
    "manifest stored, no commit": 6,
    "committed, lineage not recorded": 6,
    "lineage recorded, resume points still there": 6,
    AT_THE_END: 6,
}


AHEAD = 2  # runs that die while an earlier one is completed


class Killed:
    """One run per point, started a little before its test needs it."""

    def __init__(self, directory_of: Callable[[], Path]) -> None:
        self.directory_of = directory_of
        self.started: dict[str, tuple[World, BaseProcess]] = {}

    def at(self, point: str) -> tuple[World, BaseProcess]:
        points = list(GOES_ON)
        for number, name in enumerate(points[: points.index(point) + AHEAD + 1]):
            if name not in self.started and number >= points.index(point):
                world = World(self.directory_of())
                self.started[name] = world, world.start(STAGES[number % 2], name)
        return self.started[point]


@pytest.fixture(scope="module")
def killed(stack, tmp_path_factory) -> Iterator[Killed]:
    runs = Killed(lambda: tmp_path_factory.mktemp("killed"))
    yield runs
    for _, process in runs.started.values():
        process.kill()
        process.join(10)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(
            point,
            marks=pytest.mark.fault(
                "kill -9 of the flow process",
                point,
                "nothing done again" if step == 6 else f"goes on with step {step}" if step > 1 else "starts",
            ),
        )
        for point, step in GOES_ON.items()
    ],
)
def test_killed_there_the_next_run_completes_it_once(point, killed, toys) -> None:
    world, process = killed.at(point)
    process.join(240)
    assert process.exitcode == -signal.SIGKILL, world.log()
    before = world.calls()
    result = world.run()
    world.assert_whole(result)
    stage = STAGES[list(GOES_ON).index(point) % 2]
    again = world.calls() - before
    redone = sorted(int(call.split()[1]) for call in again if call.split()[0] == stage)
    assert redone == list(range(GOES_ON[point], 6))
    assert set(again.values()) <= {1}
