"""MLflow as the place people look: a parent run per pipeline, a nested run per stage, resumed and never duplicated.

Truth stays in the store; MLflow holds what is searched and plotted. A tracker that cannot be reached is an
InfrastructureError within seconds and never a silent fallback to local files.
Tags to search by: ringflow.stage, ringflow.fingerprint, ringflow.recipe, git.commit, prefect.flow_run_id.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from components.artifacts.ref import ArtifactRef
from components.failures import BadInput, InfrastructureError, RingflowError
from components.recipe.secrets import refuse_in_address
from components.redact import redacted

CONNECT_DEADLINE_S = 5.0
# One request may take 20 s and is retried twice: MLflow's own defaults would wait for many minutes.
HTTP_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
MODEL_KINDS = ("checkpoint", "reward-model", "release")
DIGEST_CHARACTERS = 36
PARAM_CHARACTERS, TAG_CHARACTERS, PARAMS_PER_CALL = 6000, 5000, 100
# Without it MLflow's pages open an experiment as one of prompts and agents, whose run list hides metrics and models.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """One MLflow server and one experiment of it. Thread-safe. Make it with `open`."""

    def __init__(self, uri: str, experiment: str, client: Any, experiment_id: str) -> None:
        self.uri, self.experiment, self.experiment_id = uri, experiment, experiment_id
        self.client = client

    @classmethod
    def open(cls, uri: str | None = None, experiment: str = "ringflow") -> Tracker:
        """Connects, and makes the experiment if needed.

        Args:
            uri: http(s)://host:port of the server; MLFLOW_TRACKING_URI when absent.
        Raises BadInput without a URI; InfrastructureError within seconds when nobody answers there.
        """
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise BadInput(
                "no tracker is configured",
                where="MLFLOW_TRACKING_URI",
                remedy="Start the local stack with `ringflow up`, or set it to the MLflow server's URL",
            )
        if not uri.startswith(("http://", "https://")):
            raise BadInput("the tracker must be an MLflow server", where=uri, remedy="Give http(s)://host:port")
        refuse_in_address(uri, "MLFLOW_TRACKING_URI", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        _reach(uri)
        for name, value in HTTP_SETTINGS.items():
            os.environ.setdefault(name, value)
        import mlflow

        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient(tracking_uri=uri)
        with tracker_errors(uri):
            found = client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else _create_experiment(client, experiment)
        return cls(uri, experiment, client, experiment_id)

    def pipeline_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Run id of the parent run. With a `prefect.flow_run_id` tag seen before, that run goes on (a UI retry)."""
        flow = tags.get("prefect.flow_run_id")
        with tracker_errors(self.uri):
            if flow:
                found = self._search(f"tags.`prefect.flow_run_id` = '{flow}' and tags.`ringflow.kind` = 'pipeline'")
                if found:
                    self.client.update_run(found[0].info.run_id, status="RUNNING")
                    return found[0].info.run_id
            run = self.client.create_run(
                self.experiment_id, run_name=name, tags={**_tags(tags), "ringflow.kind": "pipeline"}
            )
        return run.info.run_id

    def stage_run(self, parent: str, node: str, fingerprint: str, tags: Mapping[str, str], params: Mapping[str, Any]):
        """The nested run of one stage fingerprint: an unfinished one goes on, below this parent, else a new one.

        Args:
            parent: run id of the pipeline run.
            params: the identity config; nested values become dotted names.
        Returns: a StageRun (components.lineage.stage_run).
        """
        from components.lineage.stage_run import StageRun

        query = f"tags.`ringflow.fingerprint` = '{fingerprint}' and tags.`ringflow.stage` = '{node}'"
        wanted = {
            **_tags(tags),
            "ringflow.kind": "stage",
            "ringflow.stage": node,
            "ringflow.fingerprint": fingerprint,
            "mlflow.parentRunId": parent,
        }
        with tracker_errors(self.uri):
            unfinished = [run for run in self._search(query) if run.info.status != "FINISHED"]
            if unfinished:
                run_id = unfinished[0].info.run_id
                self.client.update_run(run_id, status="RUNNING")
                for name, value in wanted.items():
                    self.client.set_tag(run_id, name, value)
            else:
                run_id = self.client.create_run(self.experiment_id, run_name=node, tags=wanted).info.run_id
                self._log_params(run_id, params)
        return StageRun(self, run_id, node, resumed=bool(unfinished))

    def reused(self, parent: str, node: str, ref: ArtifactRef) -> None:
        """Notes on the pipeline run that a stage's artifact was there already, so that the run names all its parts."""
        self.tag(parent, {f"ringflow.artifact.{node}": ref.uri})

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        with tracker_errors(self.uri):
            for name, value in _tags(tags).items():
                self.client.set_tag(run_id, name, value)

    def attach(self, run_id: str, path: str, folder: str | None = None) -> None:
        """Puts a local file beside a run."""
        with tracker_errors(self.uri):
            self.client.log_artifact(run_id, str(path), folder)

    def attach_folder(self, run_id: str, path: str, folder: str | None = None) -> None:
        """Puts all files of a local folder beside a run."""
        with tracker_errors(self.uri):
            self.client.log_artifacts(run_id, str(path), folder)

    def finish(self, run_id: str, status: RunStatus) -> None:
        with tracker_errors(self.uri):
            self.client.set_terminated(run_id, status)

    def run_url(self, run_id: str) -> str:
        """Address of a run in the MLflow UI."""
        return f"{self.uri}/#/experiments/{self.experiment_id}/runs/{run_id}"

    def model_id(self, ref: ArtifactRef) -> str | None:
        """The logged model that stands for an artifact, None if it was never logged."""
        with tracker_errors(self.uri):
            found = self.client.search_logged_models(
                [self.experiment_id], filter_string=f"tags.`manifest.sha256` = '{ref.manifest_sha256}'", max_results=1
            )
        return found[0].model_id if found else None

    def register(
        self,
        ref: ArtifactRef,
        name: str,
        alias: str = "",
        description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Registers an artifact's logged model and moves the alias to it; registering it again changes nothing.

        Returns: the version. Raises BadInput when the artifact has no logged model, and for an alias on anything but a
        release: only what passed the release stage's gates is called candidate or released.
        """
        from mlflow.exceptions import MlflowException

        if alias and ref.kind != "release":
            raise BadInput(
                f"a {ref.kind} cannot be {name}@{alias}",
                where=ref.uri,
                remedy="Aliases are given by the release stage, after its gates: ringflow run RECIPE --only release",
            )
        model_id = self.model_id(ref)
        if model_id is None:
            raise BadInput(
                f"{ref.stage} has no logged model", where=ref.uri, remedy="Log it with StageRun.output first"
            )
        with tracker_errors(self.uri):
            try:
                self.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            versions = self.client.search_model_versions(f"name = '{name}'")
            same = [v for v in versions if v.tags.get("manifest.sha256") == ref.manifest_sha256]
            version = same[0].version if same else self._new_version(name, model_id, ref, description, tags or {})
            if alias:
                self.client.set_registered_model_alias(name, alias, version)
        return str(version)

    def artifact_uri(self, reference: str) -> str:
        """Store URI behind `models:/name@alias`, `models:/name/version` or a run id. Raises BadInput when unknown."""
        return self.artifact(reference)[0]

    def newest_version(self, name: str, aliases: Sequence[str] = ()) -> str:
        """The version of a registered model with the first of the aliases that it has, else the newest; "" for none."""
        with tracker_errors(self.uri):
            versions = self.client.search_model_versions(f"name = '{name}'") if "'" not in name else []
            if not versions:
                return ""
            given = self.client.get_registered_model(name).aliases
        for alias in aliases:
            if alias in given:
                return str(given[alias])
        return str(max(int(version.version) for version in versions))

    def versions_of(self, uris: Sequence[str]) -> dict[str, list[str]]:
        """{artifact URI: [`name:version` with its aliases]} of every registered version made from one of the URIs."""
        wanted, found = set(uris), {}
        with tracker_errors(self.uri):
            for model in _all(self.client.search_registered_models):
                aliases: dict[str, list[str]] = {}
                for alias, version in model.aliases.items():
                    aliases.setdefault(str(version), []).append(f"@{alias}")
                for version in _all(self.client.search_model_versions, filter_string=f"name = '{model.name}'"):
                    uri = version.tags.get("artifact.uri", "")
                    if uri in wanted:
                        shown = [f"{model.name}:{version.version}", *sorted(aliases.get(str(version.version), []))]
                        found.setdefault(uri, []).append(" ".join(shown))
        return found

    def artifact(self, reference: str) -> tuple[str, str]:
        """(store URI, manifest sha256 or empty) behind `models:/name@alias`, `models:/name/version` or a run id."""
        from mlflow.exceptions import MlflowException

        with tracker_errors(self.uri):
            try:
                tags = self._tags_of(reference)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise BadInput(f"MLflow has no {reference}: {error.message}", where=self.uri) from error
                raise
        produced = [
            tags[name] for name in ("artifact.uri", "ringflow.artifact", "ringflow.artifact.release") if name in tags
        ]
        if not produced:
            known = sorted(name for name in tags if name.startswith("ringflow.artifact."))
            raise BadInput(
                f"{reference} names no artifact of its own",
                where=self.uri,
                remedy=f"Take one of: {', '.join(tags[name] for name in known)}" if known else "Did the run finish?",
            )
        return produced[0], tags.get("manifest.sha256", tags.get("ringflow.manifest_sha256", ""))

    def _tags_of(self, reference: str) -> Mapping[str, str]:
        if not reference.startswith("models:/"):
            return self.client.get_run(reference).data.tags
        name = reference.removeprefix("models:/")
        if "@" in name:
            return self.client.get_model_version_by_alias(*name.split("@", 1)).tags
        if "/" in name:
            return self.client.get_model_version(*name.split("/", 1)).tags
        return self.client.get_logged_model(name).tags

    def _new_version(
        self, name: str, model_id: str, ref: ArtifactRef, description: str, tags: Mapping[str, str]
    ) -> str:
        created = self.client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=self.client.get_logged_model(model_id).source_run_id,
            model_id=model_id,
            description=description,
            tags={**_tags(tags), **artifact_tags(ref)},
        )
        return created.version

    def _search(self, query: str) -> list:
        return list(self.client.search_runs([self.experiment_id], query, order_by=["attributes.start_time DESC"]))

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = [Param(name, redacted(value)[:PARAM_CHARACTERS]) for name, value in flatten(params).items()]
        for start in range(0, len(flat), PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=flat[start : start + PARAMS_PER_CALL])


def artifact_tags(ref: ArtifactRef) -> dict[str, str]:
    """The tags by which a logged model, a version or a run points into the store."""
    return {
        "artifact.uri": ref.uri,
        "manifest.sha256": ref.manifest_sha256,
        "ringflow.stage": ref.stage,
        "ringflow.fingerprint": ref.fingerprint,
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"a": {"b": 1}} -> {"a.b": "1"}; lists of plain values stay together, as JSON."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            flat |= flatten({str(index): item for index, item in enumerate(value)}, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


@contextmanager
def tracker_errors(uri: str):
    """MLflow's and HTTP's exceptions as ringflow's: BadInput for refused credentials, else InfrastructureError."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except RingflowError:
        raise
    except MlflowException as error:
        if error.error_code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"):
            raise BadInput(f"MLflow refused the credentials: {error.message}", where=uri) from error
        raise InfrastructureError(f"MLflow at {uri}: {error.message}") from error
    except (RequestException, OSError) as error:
        raise InfrastructureError(f"MLflow at {uri}: {error}") from error


def _reach(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=CONNECT_DEADLINE_S) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise BadInput(
                "MLflow refused the credentials", where=uri, remedy="Set MLFLOW_TRACKING_USERNAME"
            ) from error
        raise InfrastructureError(f"MLflow at {uri} answers {error.code} on /health") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise InfrastructureError(
            f"MLflow at {uri} cannot be reached: {reason}. Is the server up (`ringflow status`), "
            "is MLFLOW_TRACKING_URI right?"
        ) from error


def _all(search: Any, **arguments: Any) -> Iterator[Any]:
    """Every page of one of MLflow's searches."""
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return


def _create_experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return client.create_experiment(name, tags=EXPERIMENT_TAGS)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client.get_experiment_by_name(name).experiment_id


def _tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {name: redacted(str(value))[:TAG_CHARACTERS] for name, value in tags.items()}
