"""The real StageContext: outputs on local disk until published, resume points in the store, metrics in the tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts.context import ResumePoint
from components.artifacts.lease import Lease
from components.artifacts.ref import ArtifactRef
from components.artifacts.resume import StoreResume
from components.recipe.execution import ExecutionConfig
from tasks.node import Node
from tasks.progress import PrefectProgress
from tasks.session import Session


class TrackedResume:
    """The store's resume area; metrics up to a point are in the tracker before the point exists."""

    def __init__(self, area: StoreResume, tracked: Any) -> None:
        self._area, self._tracked = area, tracked

    def latest(self) -> ResumePoint | None:
        return self._area.latest()

    def save(self, step: int, directory: Path, state: Mapping[str, Any]) -> None:
        if self._tracked is not None:
            self._tracked.flush()
        self._area.save(step, directory, state)


class RunnerContext:
    """See components.artifacts.context.StageContext. `output` starts empty on every attempt; `resume` carries over."""

    node: str
    seed: int
    execution: ExecutionConfig
    output: Path
    scratch: Path

    def __init__(
        self, node: Node, session: Session, lease: Lease, tracked: Any, progress: PrefectProgress, directory: Path
    ) -> None:
        self.node, self.seed, self.execution = node.name, node.seed, session.execution
        self.output, self.scratch = directory / "output", directory / "scratch"
        self.output.mkdir(parents=True)
        self.scratch.mkdir(parents=True)
        self.resume = TrackedResume(StoreResume(session.store, lease, self.scratch), tracked)
        self._session, self._lease, self._tracked, self._progress = session, lease, tracked, progress

    def fetch(self, ref: ArtifactRef, subpath: str = "") -> Path:
        self.check()
        return self._session.store.fetch(ref, subpath)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if self._tracked is not None:
            self._tracked.metrics(values, step)

    def attach(self, path: Path, name: str) -> None:
        if self._tracked is not None:
            self._tracked.attach(path, name)

    def progress(self, done: int, total: int, text: str = "") -> None:
        self._session.board.progress(self.node, done, total, text)
        self._progress.set(done, total)

    def check(self) -> None:
        self._session.stop.check()
        self._lease.check()
