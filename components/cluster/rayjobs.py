"""Stages as RayJobs of KubeRay: a Ray cluster for each, made, found again, watched and deleted by the Kubernetes API.

A RayJob is found by its name, which is made of the stage, project and fingerprint and the number of the attempt; the
API server takes each name once, so of two that make the same one exactly one wins. The same questions are answered as
by Ray's Jobs API (components.cluster.jobs).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from components.cluster.following import Following
from components.cluster.jobs import JobState
from components.cluster.kube import AlreadyExists, Kube
from components.cluster.rayjob_spec import API, LOG, LONGEST_NAME, Ordered, rayjob
from components.cluster.rayjob_trouble import failure, hopeless, troubles
from components.failures import BadInput, InfrastructureError, RingflowError
from components.recipe.execution import ExecutionConfig

log = logging.getLogger(__name__)

RAYJOBS, PODS, EVENTS = f"{API}/rayjobs", "v1/pods", "v1/events"
MANAGED = {"app.kubernetes.io/managed-by": "ringflow"}
CLUSTER, TYPE = "ray.io/cluster", "ray.io/node-type"
PROJECT, STAGE, FINGERPRINT = "ringflow-project", "ringflow-stage", "ringflow-fingerprint"
RECONNECT_S = 2.0
# Ended RayJobs of a project, of which a dead flow took no leave, are removed after so long.
FORGET_S = 3600.0


class RayJobs:
    """Thread-safe. Made by `connect`, for one stage."""

    ours = ""

    def __init__(self, kube: Kube, execution: ExecutionConfig, node: str, stage: str) -> None:
        self._kube, self._execution, self._node, self._stage = kube, execution, node, stage

    @classmethod
    def connect(cls, execution: ExecutionConfig, node: str, stage: str) -> RayJobs:
        """stage: the node's type. Raises BadInput without access to an API server."""
        return cls(Kube.connect(execution.cluster.rayjob.namespace), execution, node, stage)

    def prefix(self, stage: str, fingerprint: str) -> str:
        """Of the names of all attempts at an artifact."""
        # Two projects may want the same artifact at one time, each in its own part of the store.
        whole = hashlib.sha256(f"{self._execution.project}/{stage}/{fingerprint}".encode()).hexdigest()
        return f"{stage[:16].rstrip('-')}-{whole[:20]}-"

    def of(self, prefix: str) -> list[JobState]:
        """Every job of ringflow whose name begins so, in no order."""
        found = self._kube.list(RAYJOBS, MANAGED)
        return [_state(each) for each in found if each["metadata"]["name"].startswith(prefix)]

    def get(self, job: str) -> JobState | None:
        """None when it is gone. message: while it waits for its cluster, what for.

        Raises BadInput for a cluster that can never come up, and deletes it.
        """
        item = self._kube.get(RAYJOBS, job)
        if item is None:
            return None
        state = _state(item)
        if state.status != "PENDING":
            return state
        pods = self._pods(item)
        if error := hopeless(pods):
            self._kube.delete(RAYJOBS, job)
            raise error
        return JobState(job, state.status, "; ".join(troubles(item, pods, self._events(item, pods))), state.about)

    def submit(self, job: str, command: str, stop: str, env: Mapping[str, str], about: Mapping[str, str]) -> bool:
        """Makes it; False when there is one of this name. Earlier attempts and forgotten jobs that ended go first."""
        if len(job) > LONGEST_NAME:
            raise BadInput(f"KubeRay takes names of at most {LONGEST_NAME} letters", where=job, remedy="Start again")
        self._make_room(job)
        labels = {**MANAGED, PROJECT: self._execution.project[:63].rstrip("-"), STAGE: self._node[:63].rstrip("-")}
        ordered = Ordered(job, command, stop, env, labels, about)
        try:
            self._kube.create(RAYJOBS, rayjob(ordered, self._execution, self._node, self._stage))
        except AlreadyExists:
            return False
        return True

    def stop(self, job: str) -> None:
        """Deletes it: KubeRay stops the job, then the pods end, each within its grace."""
        self._kube.delete(RAYJOBS, job)

    def clear(self, prefix: str) -> None:
        """Deletes the attempts at an artifact that is there: their clusters are not kept for anyone to look at."""
        for state in self.of(prefix):
            self._kube.delete(RAYJOBS, state.id)

    def follow(self, job: str) -> Following:
        return PodLog(self._kube, job)

    def failure(self, state: JobState) -> RingflowError:
        """What ended a job whose stage did not say it."""
        item = self._kube.get(RAYJOBS, state.id)
        if item is None:
            return InfrastructureError(f"RayJob {state.id} was deleted")
        pods = self._pods(item)
        return failure(item, pods, self._events(item, pods))

    def _pods(self, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        cluster = (item.get("status") or {}).get("rayClusterName")
        return self._kube.list(PODS, {CLUSTER: cluster}) if cluster else []

    def _events(self, item: Mapping[str, Any], pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of the job, of its cluster and of its pods, those that are gone too: all names begin with the job's."""
        names = {item["metadata"]["name"], *(pod["metadata"]["name"] for pod in pods)}
        cluster = (item.get("status") or {}).get("rayClusterName") or item["metadata"]["name"]
        found = self._kube.list(EVENTS, fields="type=Warning")
        about = [(each, each.get("involvedObject", {}).get("name", "")) for each in found]
        return [each for each, name in about if name in names or name.startswith(cluster)]

    def _make_room(self, job: str) -> None:
        """Failed attempts hold their pods for keep_s, and ended RayJobs count in the quota of the namespace."""
        attempts, now = job.rpartition("-")[0] + "-", time.time()
        for item in self._kube.list(RAYJOBS, {**MANAGED, PROJECT: self._execution.project[:63].rstrip("-")}):
            name = item["metadata"]["name"]
            # What was refused has no end, and what was deleted goes by itself.
            since = (item.get("status") or {}).get("endTime") or item["metadata"]["creationTimestamp"]
            old = now - datetime.fromisoformat(since).timestamp() > FORGET_S
            if _state(item).ended and (name.startswith(attempts) or old):
                self._kube.delete(RAYJOBS, name)


def _state(item: Mapping[str, Any]) -> JobState:
    """As Ray calls it: what waits for its cluster is PENDING too, and what is deleted is STOPPED."""
    status, metadata = item.get("status") or {}, item["metadata"]
    deployment, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    if deployment == "Complete":
        found = job or "SUCCEEDED"
    elif deployment in ("Failed", "ValidationFailed"):
        found = "FAILED"
    elif metadata.get("deletionTimestamp"):
        found = "STOPPED"
    else:
        found = "RUNNING" if deployment == "Running" and job == "RUNNING" else "PENDING"
    return JobState(metadata["name"], found, str(status.get("message", "")), metadata.get("annotations") or {})


class PodLog(Following):
    """The log container of the head's pod, and of the next one when a head is lost."""

    def __init__(self, kube: Kube, job: str) -> None:
        super().__init__(job)
        self._kube = kube
        # The last line's time, and how many lines had it: where to go on after a cut.
        self._pod, self._last, self._same = "", "", 0

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                item = self._kube.get(RAYJOBS, self._job)
                over = item is None or _state(item).ended
                if item is not None:
                    self._head(item, follow=not over)
            except RingflowError as error:
                log.debug("the log of %s is not followed: %s", self._job, error)
                over = False
            if over:
                return
            self._stop.wait(RECONNECT_S)

    def _head(self, item: Mapping[str, Any], follow: bool) -> None:
        cluster = (item.get("status") or {}).get("rayClusterName")
        heads = self._kube.list(PODS, {CLUSTER: cluster, TYPE: "head"}) if cluster else []
        if not heads:
            return
        name = max(heads, key=lambda pod: pod["metadata"]["creationTimestamp"])["metadata"]["name"]
        if name != self._pod:
            self._pod, self._last, self._same = name, "", 0
        last, seen = self._last, self._same
        for line in self._kube.log(name, LOG, f"{last[:19]}Z" if last else "", follow):
            if self._stop.is_set():
                return
            said, _, text = line.partition(" ")
            when = _padded(said)
            if when < last:
                continue
            if when == last and seen:
                seen -= 1
                continue
            self._last, self._same = when, self._same + 1 if when == self._last else 1
            self._take(text + "\n")


def _padded(time_text: str) -> str:
    """`2026-11-28T01:02:03.4Z` with nine digits of a second, so that times sort as text."""
    if not time_text.endswith("Z"):
        moved = datetime.fromisoformat(time_text).astimezone(UTC)
        time_text = moved.isoformat().replace("+00:00", "Z")
    whole, _, fraction = time_text.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}"
