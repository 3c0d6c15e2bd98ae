"""A run's lineage in MLflow: the parent at once, the stages' runs when they compute, reuse noted at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.artifacts.ref import ArtifactRef
from components.failures import Cancelled, LeaseLost, RingflowError
from tasks.node import Node
from tasks.parent_run import ParentRun

log = logging.getLogger(__name__)

HISTORY_READERS = 4


class RunTracker:
    """Thread-safe. Stages call `stage` and `reused`; the flow calls `start`, `attach` and `finish`."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.parent = ParentRun(uri, experiment)
        self._tracker: Any = None
        self._opening = threading.Lock()
        self._artifacts: dict[str, str] = {}
        self._made_by: dict[str, str] = {}
        self._stages: dict[str, TrackedStage] = {}

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

                os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
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
        tracked = TrackedStage(run, node, self._artifacts)
        self._stages[node.name] = tracked
        return tracked

    def reused(
        self,
        node: Node,
        ref: ArtifactRef,
        inputs: Mapping[str, ArtifactRef],
        identity: Mapping[str, Any],
        made_by: str,
    ) -> None:
        """Notes a reused artifact. If its own MLflow run was cut off after the commit, or is gone, completes it.

        made_by: the MLflow run in the artifact's manifest; the artifact keeps it as its first producer.
        """
        self._artifacts[f"ringflow.artifact.{node.name}"] = ref.uri
        self._made_by[node.name] = made_by
        if self.parent.status_of(made_by) != "FINISHED":
            self.stage(node, ref.fingerprint, identity, inputs).finish(ref)

    def series(self, node: str) -> dict[str, list[tuple[int, float]]]:
        """{metric: [(step, value)]} of a node's artifact: what this run logged, else what MLflow has."""
        tracked = self._stages.get(node)
        if tracked is not None and not tracked.resumed:
            return tracked.series
        run_id = tracked.run_id if tracked is not None else self._made_by.get(node, "")
        return _history(self.full(), run_id) if run_id else {}

    def attach(self, path: Path) -> None:
        self.full().attach(self.parent.run_id, str(path))

    def finish(self, status: str, tags: Mapping[str, str]) -> None:
        self.parent.tag({**self._artifacts, **tags})
        self.parent.finish(status)


class TrackedStage:
    """The MLflow run of a stage at work."""

    def __init__(self, run: Any, node: Node, artifacts: dict[str, str]) -> None:
        self._run, self._node, self._artifacts = run, node, artifacts
        self.run_id: str = run.run_id
        self.url: str = run.url
        self.resumed: bool = run.resumed
        self.series: dict[str, list[tuple[int, float]]] = {}

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.metrics(values, step)
        for name, value in values.items():
            self.series.setdefault(name, []).append((step, float(value)))

    def flush(self) -> None:
        """Before a resume point is saved: its steps are never logged again."""
        self._run.flush()

    def attach(self, path: Path, name: str) -> None:
        self._run.attach(path, name)

    def finish(self, ref: ArtifactRef) -> None:
        """Records the artifact, registers a release, and ends the run last: a FINISHED run is a complete one."""
        self._run.output(self._node.name, ref)
        if "registered_model" in ref.summary:
            name, alias = str(ref.summary["registered_model"]), str(ref.summary.get("alias", ""))
            self._run.tracker.register(ref, name, alias, _description(ref, name, alias, self.url))
        self._run.finish("FINISHED")
        self._artifacts[f"ringflow.artifact.{self._node.name}"] = ref.uri

    def fail(self, error: BaseException) -> None:
        """Marks the run; a retry goes on with it. Never hides the error that made the stage fail."""
        status = "KILLED" if isinstance(error, (Cancelled, LeaseLost, KeyboardInterrupt)) else "FAILED"
        try:
            with contextlib.suppress(RingflowError):
                self._run.tag(ringflow__error=f"{type(error).__name__}: {error}"[:2000])
            self._run.finish(status, 5.0)
        except RingflowError as problem:
            log.warning("MLflow does not know that %s failed: %s", self._node.name, problem)


def _description(ref: ArtifactRef, name: str, alias: str, url: str) -> str:
    """Markdown of a registered version: from here to its run, artifact, card and lineage."""
    return (
        f"Made by [{ref.stage}]({url}); artifact `{ref.uri}` (README.md is the model card).\n\n"
        f"Lineage: `ringflow lineage models:/{name}@{alias}`. Bytes: `ringflow verify {ref.uri}`."
    )


def _history(tracker: Any, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """All metrics of an MLflow run. {} for a run that is gone: a picture is then drawn without it."""
    from mlflow.exceptions import MlflowException

    try:
        names = list(tracker.client.get_run(run_id).data.metrics)
        with ThreadPoolExecutor(HISTORY_READERS) as pool:
            histories = list(pool.map(lambda name: tracker.client.get_metric_history(run_id, name), names))
    except MlflowException as error:
        log.warning("metrics of MLflow run %s cannot be read: %s", run_id, error)
        return {}
    return {n: [(point.step, point.value) for point in h] for n, h in zip(names, histories, strict=True)}
