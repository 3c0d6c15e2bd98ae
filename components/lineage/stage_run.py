"""One stage's MLflow run: metrics, the artifacts it read, the artifact it made. Calls may be repeated after a retry.

Metrics are buffered and sent in batches by one background thread, so that a training loop never waits for a server. A
point already in the run is not added again when a resumed loop repeats its steps. MLflow has no edge to a produced
dataset, and does not deduplicate model outputs: the first is logged as an input with context `output:<name>`, the
second is looked up before it is logged.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts.ref import ArtifactRef
from components.failures import BadInput, DeadlineExceeded, InfrastructureError, LeaseLost
from components.lineage.tracker import DIGEST_CHARACTERS, MODEL_KINDS, RunStatus, artifact_tags, tracker_errors

if TYPE_CHECKING:
    from components.lineage.graph import Source
    from components.lineage.tracker import Tracker

POINTS_PER_CALL = 1000
DATASETS_PER_CALL, DATASET_NAME_CHARACTERS = 100, 500
SEND_EVERY_S = 2.0
# A stage goes on through a tracker's restart, but not without a tracker.
OUTAGE_LIMIT_S = 120.0


def metric_name(name: str) -> str:
    """`math/avg@8` -> `math/avg_at_8`: MLflow allows letters, digits and `_-. :/` in names."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)


class StageRun:
    """Made by Tracker.stage_run. Call `finish` (or leave the `with` block) to stop its thread."""

    def __init__(self, tracker: Tracker, run_id: str, node: str, resumed: bool) -> None:
        self.tracker, self.run_id, self.node, self.resumed = tracker, run_id, node, resumed
        self._buffer: list[Any] = []
        self._steps: dict[tuple[str, str], set[int]] = {}
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._failed_since, self._failure, self._rejected = 0.0, "", False
        self._models: dict[str, str | None] = {}
        self._guard: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_until_stopped, name=f"metrics-{node}", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return self.tracker.run_url(self.run_id)

    def guarded_by(self, check: Callable[[], None]) -> None:
        """Before anything is sent, `check` is called: it raises LeaseLost when the run belongs to another holder.

        A process that slept would otherwise wake up and log the points that its successor has logged meanwhile.
        """
        self._guard = check

    def metrics(self, values: Mapping[str, float], step: int, model: ArtifactRef | None = None) -> None:
        """Buffers scalars. A (name, step) already logged, by this process or before a resume, adds nothing.

        Args:
            model: the checkpoint the values judge (evaluations), so that MLflow shows them beside the model.
        Raises InfrastructureError when the tracker has been out of reach for longer than OUTAGE_LIMIT_S.
        """
        from mlflow.entities import Metric

        if self._failed_since and time.monotonic() - self._failed_since > OUTAGE_LIMIT_S:
            raise InfrastructureError(f"metrics of {self.node} not accepted for {OUTAGE_LIMIT_S:g} s: {self._failure}")
        if self._rejected:
            raise BadInput(f"MLflow refuses metrics of {self.node}: {self._failure}", where=self.url)
        model_id = self._model_id(model) if model else None
        now = int(time.time() * 1000)
        for spoken, value in values.items():
            name = metric_name(spoken)
            known = self._known_steps(name, model_id)
            with self._lock:
                if step in known:
                    continue
                known.add(step)
                self._buffer.append(Metric(name, float(value), now, step, model_id=model_id, run_id=self.run_id))

    def flush(self, deadline_s: float = 60.0) -> None:
        """Returns when all buffered points are stored. Call it before a resume point is saved: the steps before the
        point are never logged again. Raises DeadlineExceeded with the last error otherwise, LeaseLost (guarded_by)."""
        began = time.monotonic()
        while not self._send():
            if self._rejected:
                raise BadInput(f"MLflow refuses metrics of {self.node}: {self._failure}", where=self.url)
            if time.monotonic() - began > deadline_s:
                raise DeadlineExceeded(f"metrics of {self.node} not stored within {deadline_s:g} s: {self._failure}")
            time.sleep(0.5)

    def input(self, name: str, ref: ArtifactRef) -> None:
        """Records an artifact that was read: as dataset with content digest, and as model input for checkpoints."""
        self._log_dataset(f"input:{name}", ref)
        if ref.kind in MODEL_KINDS:
            model_id = self.tracker.model_id(ref)
            if model_id:
                from mlflow.entities import LoggedModelInput

                with tracker_errors(self.tracker.uri):
                    inputs = self.tracker.client.get_run(self.run_id).inputs
                    if model_id not in [model.model_id for model in inputs.model_inputs or []]:
                        self.tracker.client.log_inputs(self.run_id, models=[LoggedModelInput(model_id)])

    def output(self, name: str, ref: ArtifactRef, step: int = 0) -> str | None:
        """Records the artifact that was made; for one that holds a model, returns its logged model's id."""
        self._log_dataset(f"output:{name}", ref)
        tags = {"ringflow.artifact": ref.uri, "ringflow.manifest_sha256": ref.manifest_sha256}
        self.tracker.tag(self.run_id, tags)
        return self._log_model(ref, step) if ref.kind in MODEL_KINDS else None

    def attach(self, path: Path, name: str) -> None:
        """Puts a file beside the run under `name`, which may have folders."""
        folder, _, file = name.rpartition("/")
        if file == Path(path).name:
            self.tracker.attach(self.run_id, str(path), folder or None)
            return
        with tempfile.TemporaryDirectory() as scratch:
            renamed = Path(scratch) / file
            shutil.copyfile(path, renamed)
            self.tracker.attach(self.run_id, str(renamed), folder or None)

    def attach_all(self, files: Mapping[str, bytes], folder: str = "") -> None:
        """Puts several small files beside the run, in one go."""
        if not files:
            return
        with tempfile.TemporaryDirectory() as scratch:
            for name, data in files.items():
                (Path(scratch) / name).write_bytes(data)
            self.tracker.attach_folder(self.run_id, scratch, folder or None)

    def sources(self, shards: Sequence[Source]) -> None:
        """Records the data shards that a corpus was made from, as datasets with their own digests."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for shard in shards:
            dataset = Dataset(
                name=shard.uri[-DATASET_NAME_CHARACTERS:],
                digest=shard.sha256[:DIGEST_CHARACTERS],
                source_type="s3" if shard.uri.startswith("s3://") else "local",
                source=json.dumps({"uri": shard.uri}),
                profile=json.dumps({"records": shard.records}),
            )
            tags = {"mlflow.data.context": f"source:{shard.split}", "sha256": shard.sha256, "licence": shard.licence}
            inputs.append(DatasetInput(dataset, [InputTag(name, value[:500]) for name, value in tags.items() if value]))
        with tracker_errors(self.tracker.uri):
            for start in range(0, len(inputs), DATASETS_PER_CALL):
                self.tracker.client.log_inputs(self.run_id, datasets=inputs[start : start + DATASETS_PER_CALL])

    def tag(self, **tags: str) -> None:
        self.tracker.tag(self.run_id, {name.replace("__", "."): value for name, value in tags.items()})

    def abandon(self) -> None:
        """Stops without a word to the tracker: the run belongs to whoever has the lease now."""
        self._stop.set()
        with self._lock:
            self._buffer.clear()

    def finish(self, status: RunStatus, deadline_s: float = 60.0) -> None:
        """Sends what is buffered and ends the run. A FAILED or KILLED run is the one a retry goes on with."""
        self._stop.set()
        self._thread.join(deadline_s)
        self.flush(deadline_s)
        self.tracker.finish(self.run_id, status)

    def __enter__(self) -> StageRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._stop.is_set():
            self.finish("FINISHED" if kind is None else "FAILED")

    def _model_id(self, ref: ArtifactRef) -> str | None:
        if self._models.get(ref.manifest_sha256) is None:
            self._models[ref.manifest_sha256] = self.tracker.model_id(ref)
        return self._models[ref.manifest_sha256]

    def _known_steps(self, name: str, model_id: str | None) -> set[int]:
        key = (name, model_id or "")
        if key not in self._steps:
            steps: set[int] = set()
            if self.resumed:
                with tracker_errors(self.tracker.uri):
                    history = self.tracker.client.get_metric_history(self.run_id, name)
                steps = {point.step for point in history if (point.model_id or "") in (key[1], "")}
            with self._lock:
                self._steps.setdefault(key, steps)
        return self._steps[key]

    def _send(self) -> bool:
        """One round; False when something is left. A repeated batch is stored once: MLflow's key has the timestamp."""
        with self._sending:
            with self._lock:
                batch = self._buffer[:POINTS_PER_CALL]
            if not batch:
                return True
            try:
                self._guard()
                self.tracker.client.log_batch(self.run_id, metrics=batch)
            except LeaseLost:
                raise
            except Exception as error:
                self._failure = f"{type(error).__name__}: {error}"
                self._failed_since = self._failed_since or time.monotonic()
                self._rejected = getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
                return False
            self._failed_since, self._failure = 0.0, ""
            with self._lock:
                del self._buffer[: len(batch)]
                return not self._buffer

    def _send_until_stopped(self) -> None:
        while not self._stop.wait(SEND_EVERY_S):
            try:
                self._send()
            except LeaseLost:
                return  # whoever works on the stage hears it from the lease itself

    def _log_dataset(self, context: str, ref: ArtifactRef) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=ref.stage,
            digest=ref.manifest_sha256[:DIGEST_CHARACTERS],
            source_type="s3" if ref.uri.startswith("s3://") else "local",
            source=json.dumps({"uri": ref.uri}),
            profile=json.dumps(dict(ref.summary)),
        )
        tags = [InputTag("mlflow.data.context", context)]
        tags += [InputTag(name, value) for name, value in artifact_tags(ref).items()]
        with tracker_errors(self.tracker.uri):
            self.tracker.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, tags)])

    def _log_model(self, ref: ArtifactRef, step: int) -> str:
        import mlflow
        from mlflow.entities import LoggedModelOutput

        model_id = self.tracker.model_id(ref)
        with tracker_errors(self.tracker.uri):
            if model_id is None:
                model = mlflow.create_external_model(
                    name=f"{ref.stage}-{ref.fingerprint[:12]}",
                    source_run_id=self.run_id,
                    tags=artifact_tags(ref),
                    params={name: str(value) for name, value in ref.summary.items()},
                    model_type=ref.kind,
                    experiment_id=self.tracker.experiment_id,
                )
                model_id = model.model_id
            outputs = self.tracker.client.get_run(self.run_id).outputs
            if model_id not in [output.model_id for output in (outputs.model_outputs if outputs else None) or []]:
                self.tracker.client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step)])
        return model_id
