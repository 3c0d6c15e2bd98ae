"""The MLflow run of a whole pipeline, over plain HTTP: a run that reuses everything never imports MLflow (seconds).

The full tracker (components.lineage.tracker) is opened by the first stage that computes something.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from components.artifacts.ref import ArtifactRef
from components.failures import BadInput, InfrastructureError
from components.lineage.tracker import DIGEST_CHARACTERS, EXPERIMENT_TAGS, MODEL_KINDS, artifact_tags
from components.recipe.secrets import refuse_in_address
from components.redact import redacted

DEADLINE_S = 10.0
PROXIED = "mlflow-artifacts:"
TAG_CHARACTERS = 5000


class ParentRun:
    """One run of kind `pipeline`; the run of the same Prefect flow run goes on when Prefect retries it."""

    def __init__(self, uri: str, experiment: str) -> None:
        if not uri.startswith(("http://", "https://")):
            raise BadInput(
                "the tracker must be an MLflow server",
                where=f"MLFLOW_TRACKING_URI={uri}",
                remedy="Start the local stack with `ringflow up`, or set it to http(s)://host:port",
            )
        refuse_in_address(uri, "MLFLOW_TRACKING_URI", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        self.uri, self.experiment = uri.rstrip("/"), experiment
        self.run_id, self.experiment_id, self._root = "", "", ""
        # one client for all questions: making one loads certificates, which costs more than a question
        self._client: Any = None
        self._opening = threading.Lock()

    @property
    def url(self) -> str:
        return self.url_of(self.run_id)

    def url_of(self, run_id: str) -> str:
        """The page of a run of this experiment."""
        return f"{self.uri}/#/experiments/{self.experiment_id}/runs/{run_id}"

    def start(self, name: str, tags: Mapping[str, str]) -> None:
        """Makes the run, or takes up the one of the same `prefect.flow_run_id`."""
        self.experiment_id = self._experiment()
        flow = tags["prefect.flow_run_id"]
        query = f"tags.`prefect.flow_run_id` = '{flow}' and tags.`ringflow.kind` = 'pipeline'"
        found = self._ask(
            "POST", "runs/search", {"experiment_ids": [self.experiment_id], "filter": query, "max_results": 1}
        ).get("runs", [])
        if found:
            self._is(found[0])
            self._ask("POST", "runs/update", {"run_id": self.run_id, "status": "RUNNING"})
            return
        pairs = {**tags, "ringflow.kind": "pipeline", "mlflow.runName": name}
        body = {
            "experiment_id": self.experiment_id,
            "run_name": name,
            "start_time": int(time.time() * 1000),
            "tags": _pairs(pairs),
        }
        self._is(self._ask("POST", "runs/create", body)["run"])

    def join(self, run_id: str, experiment_id: str) -> None:
        """Goes on with the run of another process, which ends it."""
        self.run_id, self.experiment_id = run_id, experiment_id

    def adopt(self, run_id: str, flow_run_id: str) -> None:
        """Puts a stage's run, which another pipeline's run began, below this one."""
        tags = {"mlflow.parentRunId": self.run_id, "prefect.flow_run_id": flow_run_id}
        self._ask("POST", "runs/log-batch", {"run_id": run_id, "tags": _pairs(tags)})

    def _is(self, run: Mapping[str, Any]) -> None:
        self.run_id, self._root = run["info"]["run_id"], run["info"].get("artifact_uri", "")

    def attach(self, path: Path) -> bool:
        """Puts a file beside the run, if the server itself takes artifacts; False where clients write to storage."""
        if not self._root.startswith(PROXIED):
            return False
        place = self._root.removeprefix(PROXIED).lstrip("/")
        url = f"{self.uri}/api/2.0/mlflow-artifacts/artifacts/{place}/{path.name}"
        response = self._request("PUT", url, path.read_bytes())
        if response.is_error:
            raise InfrastructureError(f"MLflow at {self.uri} refused {path.name}: {response.text[:300]}")
        return True

    def tag(self, tags: Mapping[str, str]) -> None:
        if tags:
            self._ask("POST", "runs/log-batch", {"run_id": self.run_id, "tags": _pairs(tags)})

    def edges(self, artifacts: Mapping[str, ArtifactRef]) -> None:
        """Datasets and logged models of the run: what its stages made or reused, by node. Repeating it adds nothing."""
        if not artifacts:
            return
        datasets = [{"tags": _pairs(tags), "dataset": dataset} for tags, dataset in map(_dataset, artifacts.items())]
        self._ask("POST", "runs/log-inputs", {"run_id": self.run_id, "datasets": datasets})
        known = self._ask("GET", f"runs/get?run_id={self.run_id}")["run"].get("outputs", {}).get("model_outputs", [])
        logged = {model["model_id"] for model in known}
        found = [self._model_id(ref) for ref in artifacts.values() if ref.kind in MODEL_KINDS]
        new = [model_id for model_id in dict.fromkeys(found) if model_id and model_id not in logged]
        if new:
            models = [{"model_id": model_id, "step": 0} for model_id in new]
            self._ask("POST", "runs/outputs", {"run_id": self.run_id, "models": models})

    def _model_id(self, ref: ArtifactRef) -> str:
        body = {
            "experiment_ids": [self.experiment_id],
            "filter": f"tags.`manifest.sha256` = '{ref.manifest_sha256}'",
            "max_results": 1,
        }
        found = self._ask("POST", "logged-models/search", body).get("models", [])
        return found[0]["info"]["model_id"] if found else ""

    def status_of(self, run_id: str) -> str:
        """RUNNING, FINISHED, FAILED, KILLED; empty for a run MLflow does not have (any more)."""
        found = self._ask("GET", f"runs/get?run_id={run_id}", missing_ok=True) if run_id else None
        return found["run"]["info"]["status"] if found else ""

    def finish(self, status: str) -> None:
        """status: FINISHED, FAILED or KILLED."""
        body = {"run_id": self.run_id, "status": status, "end_time": int(time.time() * 1000)}
        self._ask("POST", "runs/update", body)

    def _experiment(self) -> str:
        found = self._ask("GET", f"experiments/get-by-name?experiment_name={self.experiment}", missing_ok=True)
        if found:
            return found["experiment"]["experiment_id"]
        made = self._ask(
            "POST", "experiments/create", {"name": self.experiment, "tags": _pairs(EXPERIMENT_TAGS)}, missing_ok=True
        )
        if made:
            return made["experiment_id"]
        # another run made it between the two questions
        return self._ask("GET", f"experiments/get-by-name?experiment_name={self.experiment}")["experiment"][
            "experiment_id"
        ]

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, missing_ok: bool = False) -> Any:
        response = self._request(method, f"{self.uri}/api/2.0/mlflow/{path}", None if body is None else dict(body))
        code = response.json().get("error_code") if response.status_code in (400, 404) else None
        if missing_ok and code in ("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"):
            return None
        if response.is_error:
            raise InfrastructureError(f"MLflow at {self.uri} refused {path}: {response.text[:300]}")
        return response.json()

    def _request(self, method: str, url: str, body: dict[str, Any] | bytes | None) -> Any:
        """The answer. Raises InfrastructureError when there is none, BadInput when the credentials are refused."""
        import httpx

        headers, auth = {}, None
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        elif user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
            auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
        try:
            with self._opening:
                self._client = self._client or httpx.Client(timeout=DEADLINE_S)
            sent = {"content": body} if isinstance(body, bytes) else {"json": body}
            response = self._client.request(method, url, headers=headers, auth=auth, **sent)
        except httpx.HTTPError as error:
            raise InfrastructureError(
                f"MLflow at {self.uri} cannot be reached: {error or type(error).__name__}. "
                "Is the server up (`ringflow status`), is MLFLOW_TRACKING_URI right?"
            ) from error
        if response.status_code in (401, 403):
            raise BadInput(
                "MLflow refused the credentials",
                where=self.uri,
                remedy="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        return response


def end_runs_of(uri: str, flow_run_id: str, why: str, at_work: Collection[str] = ()) -> int:
    """Ends every run that a dead process left RUNNING, its stages' too, in any experiment; returns how many.

    A retry goes on with them, as after any failure. at_work: fingerprints of stages that go on without it.
    """
    client = ParentRun(uri, "")
    experiments = client._ask("POST", "experiments/search", {"max_results": 1000}).get("experiments", [])
    body = {
        "experiment_ids": [found["experiment_id"] for found in experiments],
        "filter": f"tags.`prefect.flow_run_id` = '{flow_run_id}' and attributes.status = 'RUNNING'",
        "max_results": 100,
    }
    runs = client._ask("POST", "runs/search", body).get("runs", []) if experiments else []
    runs = [run for run in runs if _tag(run, "ringflow.fingerprint") not in at_work]
    for run in runs:
        client.run_id = run["info"]["run_id"]
        client.tag({"ringflow.error": why})
        client.finish("KILLED")
    return len(runs)


def _tag(run: Mapping[str, Any], name: str) -> str:
    return next((tag["value"] for tag in run["data"].get("tags", ()) if tag["key"] == name), "")


def _dataset(item: tuple[str, ArtifactRef]) -> tuple[dict[str, str], dict[str, str]]:
    """(tags, dataset) of a node's artifact, as components.lineage.stage_run writes them."""
    node, ref = item
    dataset = {
        "name": ref.stage,
        "digest": ref.manifest_sha256[:DIGEST_CHARACTERS],
        "source_type": "s3" if ref.uri.startswith("s3://") else "local",
        "source": json.dumps({"uri": ref.uri}),
        "profile": json.dumps(dict(ref.summary)),
    }
    return {"mlflow.data.context": f"artifact:{node}", **artifact_tags(ref)}, dataset


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": redacted(str(value))[:TAG_CHARACTERS]} for key, value in tags.items()]
