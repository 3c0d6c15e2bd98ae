"""The real StageContext: outputs on local disk until published, resume points in the store, metrics in the tracker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.artifacts.context import Load, ResumePoint, unread
from components.artifacts.folder import Folder
from components.artifacts.lease import Lease
from components.artifacts.outbox import Outbox
from components.artifacts.ref import ArtifactRef
from components.artifacts.resume import StoreResume
from components.artifacts.spent import own_work, spent_on
from components.artifacts.stored import Stored
from components.recipe.execution import ExecutionConfig
from components.telemetry.logs import Place, here
from tasks.node import Node
from tasks.progress import Progress
from tasks.session import Session

# Keys beside a stage's own state in a resume point: seconds of work that led to it, and what was sent before it.
WALL = "ringflow.wall_s"
SENT = "ringflow.sent"


class WorkClock:
    """Seconds of work of a stage, with those of earlier attempts up to the point it went on from."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._earlier: float | None = None

    def goes_on_from(self, seconds: float) -> None:
        """Only the first point counts: a later one, after a rollback, holds this attempt's own seconds."""
        if self._earlier is None:
            self._earlier = seconds

    def seconds(self) -> float:
        return (self._earlier or 0.0) + time.monotonic() - self._began


class TrackedResume:
    """The store's resume area; metrics up to a point are in the tracker before the point exists.

    outbox: goes back with the stage. said: told the step of every point that the stage goes on from.
    """

    def __init__(
        self, area: StoreResume, outbox: Outbox, tracked: Any, clock: WorkClock, said: Callable[[int], None]
    ) -> None:
        self._area, self._outbox, self._tracked, self._clock, self._said = area, outbox, tracked, clock, said

    def latest(self, load: Load = unread) -> ResumePoint | None:
        def loaded(point: ResumePoint) -> None:
            self._outbox.restore(point.state.get(SENT, {}))
            with own_work():  # starts learners, perhaps; what they wait for is counted there
                load(point)

        with spent_on("S3"):
            point = self._area.latest(loaded)
        self._clock.goes_on_from(float(point.state.get(WALL, 0.0)) if point else 0.0)
        if point is None:
            self._outbox.restore({})
            return None
        self._said(point.step)
        return replace(point, state={name: value for name, value in point.state.items() if name not in (WALL, SENT)})

    def place(self, step: int) -> Folder:
        return self._area.place(step)

    def save(self, step: int, directory: Path, state: Mapping[str, Any], place: Folder | None = None) -> None:
        if self._tracked is not None:
            with spent_on("MLflow"):
                self._tracked.flush()
        with spent_on("S3"):
            sent = self._outbox.state()
            self._area.save(step, directory, {**state, WALL: self._clock.seconds(), SENT: sent}, place)


class RunnerContext:
    """See components.artifacts.context.StageContext. `output` starts empty on every attempt; `resume` carries over.

    reads: URI of an input -> what the stage opened in it, `.` for all. clock: how long it has worked. place: for logs.
    """

    node: str
    seed: int
    execution: ExecutionConfig
    output: Path
    outbox: Outbox
    scratch: Path

    def __init__(
        self, node: Node, session: Session, lease: Lease, tracked: Any, progress: Progress, directory: Path
    ) -> None:
        self.node, self.seed, self.execution = node.name, node.seed, session.execution
        self.output, self.scratch = directory / "output", directory / "scratch"
        self.output.mkdir(parents=True)
        self.scratch.mkdir(parents=True)
        self.clock = WorkClock()
        self.place = here() or Place(session.run_id, node.name)
        self.outbox = session.store.outbox(lease)
        area = StoreResume(session.store, lease, self.scratch)
        self.resume = TrackedResume(area, self.outbox, tracked, self.clock, self._goes_on)
        self.reads: dict[str, set[str]] = {}
        self._session, self._lease, self._tracked, self._progress = session, lease, tracked, progress
        self._stage = node.stage.type

    def fetch(self, ref: ArtifactRef, subpath: str = "") -> Path:
        self.check()
        self.reads.setdefault(ref.uri, set()).add(subpath.strip("/") or ".")
        with spent_on("S3"):
            return self._session.store.fetch(ref, subpath)

    def locate(self, ref: ArtifactRef, subpath: str = "") -> Stored:
        self.check()
        self.reads.setdefault(ref.uri, set()).add(subpath.strip("/") or ".")
        with spent_on("S3"):
            return self._session.store.locate(ref, subpath.strip("/"))

    def earlier(self) -> ArtifactRef | None:
        loaded = self._session.loaded
        if loaded is None:
            return None
        return self._session.store.newest(self._session.execution.project, self._stage, loaded.recipe.name)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.place.step = step
        self._session.measured(self.node, values, step)
        if self._tracked is not None:
            with spent_on("MLflow"):
                self._tracked.metrics(values, step)

    def attach(self, path: Path, name: str) -> None:
        if self._tracked is not None:
            with spent_on("MLflow"):
                self._tracked.attach(path, name)

    def progress(self, done: int, total: int, text: str = "") -> None:
        with spent_on("Prefect"):
            self._session.board.progress(self.node, done, total, text)
            self._progress.set(done, total)

    def _goes_on(self, step: int) -> None:
        self._session.board.state(self.node, "running", f"goes on from step {step}")

    def check(self) -> None:
        self._session.stop.check()
        with spent_on("leases"):
            self._lease.check()
