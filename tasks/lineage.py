"""A run's lineage in MLflow: the parent at once, the stages' runs when they compute, reuse noted at the end."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts.ref import ArtifactRef
from components.failures import Cancelled, LeaseLost, RingflowError
from tasks.node import Node
from tasks.parent_run import ParentRun

log = logging.getLogger(__name__)


class RunTracker:
    """Thread-safe. Stages call `stage` and `reused`; the flow calls `start`, `attach` and `finish`."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.parent = ParentRun(uri, experiment)
        self._tracker: Any = None
        self._opening = threading.Lock()
        self._reused: dict[str, str] = {}

    @property
    def computed(self) -> bool:
        """Whether any stage of this run opened the full tracker."""
        return self._tracker is not None

    @property
    def url(self) -> str:
        return self.parent.url

    def start(self, name: str, tags: Mapping[str, str]) -> None:
        self.parent.start(name, tags)

    def full(self) -> Any:
        """The components.lineage Tracker, opened on first use."""
        with self._opening:
            if self._tracker is None:
                from components.lineage.tracker import Tracker

                self._tracker = Tracker.open(self.parent.uri, self.parent.experiment)
            return self._tracker

    def stage(
        self, node: Node, fingerprint: str, identity: Mapping[str, Any], inputs: Mapping[str, ArtifactRef]
    ) -> TrackedStage:
        """The nested run of one stage fingerprint; after a failure or a kill the same run goes on."""
        config = {"seed": node.seed, "version": node.stage.version, **identity["config"]}
        tags = {"ringflow.stage_type": node.stage.type}
        run = self.full().stage_run(self.parent.run_id, node.name, fingerprint, tags, config)
        for name, ref in inputs.items():
            run.input(name, ref)
        return TrackedStage(run, node)

    def reused(self, node: str, ref: ArtifactRef) -> None:
        self._reused[f"ringflow.artifact.{node}"] = ref.uri

    def attach(self, path: Path) -> None:
        self.full().attach(self.parent.run_id, str(path))

    def finish(self, status: str, tags: Mapping[str, str]) -> None:
        self.parent.tag({**self._reused, **tags})
        self.parent.finish(status)


class TrackedStage:
    """The MLflow run of a stage at work."""

    def __init__(self, run: Any, node: Node) -> None:
        self._run, self._node = run, node
        self.run_id: str = run.run_id
        self.url: str = run.url

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.metrics(values, step)

    def flush(self) -> None:
        """Before a resume point is saved: its steps are never logged again."""
        self._run.flush()

    def attach(self, path: Path, name: str) -> None:
        self._run.attach(path, name)

    def finish(self, ref: ArtifactRef) -> None:
        self._run.output(self._node.name, ref)
        self._run.finish("FINISHED")

    def fail(self, error: BaseException) -> None:
        """Marks the run; a retry goes on with it. Never hides the error that made the stage fail."""
        status = "KILLED" if isinstance(error, (Cancelled, LeaseLost, KeyboardInterrupt)) else "FAILED"
        try:
            with contextlib.suppress(RingflowError):
                self._run.tag(ringflow__error=f"{type(error).__name__}: {error}"[:2000])
            self._run.finish(status, 5.0)
        except RingflowError as problem:
            log.warning("MLflow does not know that %s failed: %s", self._node.name, problem)
