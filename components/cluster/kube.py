"""A client of the Kubernetes API for the few calls that RayJobs take: get, list, create, delete, and a pod's log.

Plain HTTP by httpx, which ringflow has anyway: the official client, and the asynchronous one that Prefect's worker
brings, are large, are in no environment but the images, and their failures would have to be translated all the same. It
asks again every few seconds instead of watching, which needs one right less and has no state to lose.
Every request has a deadline, and failures are ringflow's kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from components.cluster.kubeconfig import Access, find_access
from components.failures import BadInput, InfrastructureError

CONNECT_S, ANSWER_S = 5.0, 30.0
# A log that says nothing for so long is asked for again, in case the connection is dead.
SILENT_S = 60.0
PAGE = 200


class AlreadyExists(InfrastructureError):
    """Somebody else has made an object of this name."""


class Kube:
    """Thread-safe. Objects are the JSON of the API."""

    def __init__(self, access: Access, namespace: str = "") -> None:
        self.where, self.namespace = f"{access.server} ({access.where})", namespace or access.namespace
        self._token = access.token
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        self._http = httpx.Client(base_url=access.server, verify=access.tls, timeout=timeout, trust_env=False)

    @classmethod
    def connect(cls, namespace: str = "") -> Kube:
        """namespace: in the place of the one that comes with the access. Raises BadInput without access."""
        return cls(find_access(), namespace)

    def close(self) -> None:
        self._http.close()

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """kind: as in a path, such as `v1/pods`. None when there is none."""
        return self._call("GET", self._path(kind, name), missing=True)

    def list(self, kind: str, labels: Mapping[str, str] | None = None, fields: str = "") -> list[dict[str, Any]]:
        """Objects with these labels, in no order, all pages."""
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            params = {"labelSelector": selector, "fieldSelector": fields, "limit": str(PAGE), "continue": token}
            given = {key: value for key, value in params.items() if value}
            answer = self._call("GET", self._path(kind), params=given, missing=bool(token))
            if answer is None:  # 410: the list grew old while we read it
                found, token = [], ""
                continue
            found += answer["items"]
            token = answer["metadata"].get("continue", "")
            if not token:
                return found

    def create(self, kind: str, item: Mapping[str, Any]) -> dict[str, Any]:
        """Raises AlreadyExists, and BadInput for an object that the server does not take or that has unknown fields."""
        made = self._call("POST", self._path(kind), json=item, params={"fieldValidation": "Strict"})
        assert made is not None
        return made

    def delete(self, kind: str, name: str) -> None:
        """Whoever depends on it is deleted afterwards, and its finalizers run first. None is no error."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        self._call("DELETE", self._path(kind, name), json=body, missing=True)

    def log(self, pod: str, container: str, since: str = "", follow: bool = True) -> Iterator[str]:
        """Lines `TIME TEXT`: those there are, or as they are written until the container ends.

        since: RFC 3339, in whole seconds.

        Ends early (as the container's end does) when nothing is said for SILENT_S; ask again then.
        """
        params = {"container": container, "timestamps": "true", "follow": str(follow).lower()}
        params |= {"sinceTime": since} if since else {}
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S, read=SILENT_S)
        path = self._path("v1/pods", f"{pod}/log")
        try:
            with self._http.stream("GET", path, params=params, headers=self._headers(), timeout=timeout) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise self._failure(answer, path)
                yield from answer.iter_lines()
        except httpx.ReadTimeout:
            return
        except httpx.HTTPError as error:
            raise InfrastructureError(f"Kubernetes at {self.where}, log of {pod}: {_text(error)}") from error

    def _path(self, kind: str, name: str = "") -> str:
        version, _, plural = kind.rpartition("/")
        root = "/api" if version == "v1" else "/apis"
        return f"{root}/{version}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def _headers(self) -> dict[str, str]:
        token = self._token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _call(
        self, method: str, path: str, json: Any = None, params: Mapping[str, str] | None = None, missing: bool = False
    ) -> dict[str, Any] | None:
        try:
            answer = self._http.request(method, path, json=json, params=params, headers=self._headers())
        except httpx.HTTPError as error:
            raise InfrastructureError(f"Kubernetes at {self.where} does not answer: {_text(error)}") from error
        if missing and answer.status_code in (404, 410):
            return None
        if answer.status_code >= 300:
            raise self._failure(answer, path)
        try:
            return answer.json()
        except ValueError as error:
            raise InfrastructureError(f"Kubernetes at {self.where} answers no JSON to {path}") from error

    def _failure(self, answer: httpx.Response, path: str) -> Exception:
        try:
            status = answer.json()
            said, reason = str(status.get("message", "")), str(status.get("reason", ""))
        except (ValueError, AttributeError):
            said, reason = answer.text[:500], ""
        text = f"Kubernetes at {self.where}, {path}: {answer.status_code} {said}"
        if reason == "AlreadyExists":
            return AlreadyExists(text)
        # Only a quota that is used up may be free again later.
        if answer.status_code == 403 and "exceeded quota" not in said:
            return BadInput(said, where=self.where, remedy="infra/kubernetes/rayjobs has the role that is needed")
        if answer.status_code == 401:
            return BadInput(
                "Kubernetes does not know this user", where=self.where, remedy="Renew the token or certificate"
            )
        if answer.status_code == 404 and "/apis/ray.io/" in path and "could not find" in said:
            return BadInput("this cluster has no RayJobs", where=self.where, remedy="Install KubeRay 1.6 or later")
        if answer.status_code in (400, 422) and not path.endswith("/log"):
            return BadInput(said, where=self.where, remedy="Correct execution.cluster.rayjob")
        return InfrastructureError(text)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
