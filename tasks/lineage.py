"""A run's lineage in MLflow: the parent at once, the stages' runs when they compute, reuse noted at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.artifacts.provenance import Provenance
from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.failures import Cancelled, LeaseLost, RingflowError
from components.lineage.graph import lineage, shards
from components.lineage.page import render_html
from components.lineage.render import render_json
from tasks.node import Node
from tasks.parent_run import ParentRun
from tasks.recorded import stored_records, tags_of
from tasks.registration import register

log = logging.getLogger(__name__)

HISTORY_READERS = 4


class RunTracker:
    """Thread-safe. Stages call `stage` and `reused`; the flow calls `start`, `attach` and `finish`."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.parent = ParentRun(uri, experiment)
        self._tracker: Any = None
        self._opening = threading.Lock()
        self._artifacts: dict[str, ArtifactRef] = {}
        self._made_by: dict[str, str] = {}
        self._stages: dict[str, TrackedStage] = {}
        self._flow_run = ""
        self.attached: set[str] = set()  # names of files beside the pipeline's run

    @property
    def computed(self) -> bool:
        """Whether any stage of this run opened the full tracker."""
        return self._tracker is not None

    @property
    def url(self) -> str:
        return self.parent.url

    def start(self, name: str, tags: Mapping[str, str]) -> None:
        self.parent.start(name, tags)
        self._flow_run = tags["prefect.flow_run_id"]

    def full(self) -> Any:
        """The components.lineage Tracker, opened on first use."""
        with self._opening:
            if self._tracker is None:
                from components.lineage.tracker import Tracker

                os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
                self._tracker = Tracker.open(self.parent.uri, self.parent.experiment)
            return self._tracker

    def stage(
        self,
        node: Node,
        fingerprint: str,
        identity: Mapping[str, Any],
        made: Provenance,
        records: Mapping[str, bytes],
    ) -> TrackedStage:
        """The nested run of one stage fingerprint; after a failure or a kill the same run goes on.

        made: what is known when the stage starts; its inputs are logged. records: files put beside the run.
        """
        config = {"seed": node.seed, "version": node.stage.version, **identity["config"]}
        tags = tags_of(node, made)
        run = self.full().stage_run(self.parent.run_id, node.name, fingerprint, tags, config)
        for name, ref in made.inputs.items():
            run.input(name, ref)
        run.attach_all(records, "recorded")
        tracked = TrackedStage(run, node, self, made)
        self._stages[node.name] = tracked
        return tracked

    def adopt(self, node: str, run_id: str) -> None:
        """The stage run that a job writes to, begun for a run that is gone, belongs to this one from now on."""
        self._made_by[node] = run_id
        try:
            self.parent.adopt(run_id, self._flow_run)
        except RingflowError as error:  # it stays below the other one: the work and its record are whole
            log.warning("MLflow did not move the run of %s: %s", node, error)

    def reused(self, node: Node, store: Store, ref: ArtifactRef, identity: Mapping[str, Any]) -> None:
        """Notes a reused artifact, which keeps its first producer: the run and all else its manifest names.

        If that run was cut off after the commit, or is gone from MLflow, it is completed from the manifest.
        """
        made = store.read_manifest(ref).provenance
        self._made_by[node.name] = made.mlflow_run_id
        if self.parent.status_of(made.mlflow_run_id) != "FINISHED":
            records = stored_records(store, ref)
            self.stage(node, ref.fingerprint, identity, made, records).finish(store, ref, made)
        self.note(node.name, ref)

    def note(self, node: str, ref: ArtifactRef) -> None:
        """The artifact is part of this run."""
        self._artifacts[node] = ref

    def series(self, node: str) -> dict[str, list[tuple[int, float]]]:
        """{metric: [(step, value)]} of a node's artifact: what this run logged, else what MLflow has."""
        tracked = self._stages.get(node)
        if tracked is not None and not tracked.resumed:
            return tracked.series
        run_id = tracked.run_id if tracked is not None else self._made_by.get(node, "")
        return _history(self.full(), run_id) if run_id else {}

    def attach(self, path: Path) -> None:
        if not self.parent.attach(path):
            self.full().attach(self.parent.run_id, str(path))
        self.attached.add(path.name)

    def page(self, node: str, path: str) -> str:
        """Where MLflow shows a file or folder beside the run that made a node's artifact; empty while unknown."""
        tracked = self._stages.get(node)
        run_id = tracked.run_id if tracked is not None else self._made_by.get(node, "")
        return f"{self.parent.url_of(run_id)}/artifacts/{path}" if run_id else ""

    def finish(self, status: str, tags: Mapping[str, str]) -> None:
        """Ends the pipeline's run; it names every artifact it used or made, as tags, datasets and models."""
        self.parent.tag({**{f"ringflow.artifact.{node}": ref.uri for node, ref in self._artifacts.items()}, **tags})
        self.parent.edges(self._artifacts)
        self.parent.finish(status)


class TrackedStage:
    """The MLflow run of a stage at work."""

    def __init__(self, run: Any, node: Node, tracker: RunTracker, made: Provenance) -> None:
        self._run, self._node, self._tracker = run, node, tracker
        self._tags = tags_of(node, made)
        # An evaluation's numbers stand in MLflow at the model they judge too.
        self._judged = made.inputs.get("model") if node.stage.produces == "evaluation" else None
        self.run_id: str = run.run_id
        self.url: str = run.url
        self.resumed: bool = run.resumed
        self.series: dict[str, list[tuple[int, float]]] = {}

    def guarded_by(self, check: Callable[[], None]) -> None:
        """check: raises LeaseLost once another run has the stage; nothing is told to the tracker from then on."""
        self._run.guarded_by(check)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.metrics(values, step, model=self._judged)
        for name, value in values.items():
            self.series.setdefault(name, []).append((step, float(value)))

    def flush(self) -> None:
        """Before a resume point is saved: its steps are never logged again."""
        self._run.flush()

    def attach(self, path: Path, name: str) -> None:
        self._run.attach(path, name)

    def finish(self, store: Store, ref: ArtifactRef, made: Provenance) -> None:
        """Records the artifact, registers a release, and ends the run last: a FINISHED run is a complete one."""
        self._run.output(self._node.name, ref)
        self._run.sources(shards(store, ref))
        if made.work is not None:
            work = {"work/wall_seconds": made.work.wall_s, "work/device_hours": made.work.device_hours}
            self._run.metrics(work, 0)
        if ref.kind == "release":
            graph = lineage(store, ref)
            pages = {"lineage.html": render_html(graph).encode(), "lineage.json": render_json(graph).encode()}
            self._run.attach_all(pages)
            if "registered_model" in ref.summary:
                register(self._run, ref, self._tracker.url, self._tags)
        self._run.finish("FINISHED")
        self._tracker.note(self._node.name, ref)

    def fail(self, error: BaseException) -> None:
        """Marks the run; a retry goes on with it. Never hides the error that made the stage fail.

        Without the lease it says nothing: the run may be at work for its new holder, or finished by it.
        """
        if isinstance(error, LeaseLost):
            return self._run.abandon()
        status = "KILLED" if isinstance(error, (Cancelled, KeyboardInterrupt)) else "FAILED"
        try:
            with contextlib.suppress(RingflowError):
                self._run.tag(ringflow__error=f"{type(error).__name__}: {error}"[:2000])
            self._run.finish(status, 5.0)
        except RingflowError as problem:
            log.warning("MLflow does not know that %s failed: %s", self._node.name, problem)


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
