"""Why a RayJob does not come up, or what ended it: read from its conditions, its pods and their events.

A stage that failed in its own code says so itself. What is told here is what Kubernetes or KubeRay did to it: an image
that cannot be pulled, a quota, no node with room, a preemption, an eviction, a deadline. Pure functions on the objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from components.failures import BadInput, DeadlineExceeded, InfrastructureError, RingflowError

Object = Mapping[str, Any]

# Reasons of a waiting container that no waiting helps against.
WRONG = frozenset({"InvalidImageName", "ErrImageNeverPull"})
PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"})
LONGEST = 600


def troubles(job: Object, pods: Iterable[Object], events: Iterable[Object]) -> list[str]:
    """What is wrong at present, the most telling first; [] when nothing is known to be."""
    found = [*_of_cluster(job)]
    for pod in sorted(pods, key=lambda each: each["metadata"]["name"]):
        found += _of_pod(pod)
    if not found:
        warnings = [each for each in events if each.get("type") == "Warning"]
        warnings.sort(key=lambda each: each.get("lastTimestamp") or each.get("eventTime") or "")
        for each in warnings[-2:]:
            found.append(_short(f"{each.get('reason')}: {each.get('message') or each.get('note') or ''}"))
    return list(dict.fromkeys(found))


def failure(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> RingflowError:
    """Of a RayJob whose stage did not come to say how it ended.

    BadInput: KubeRay or Kubernetes refuse what the recipe describes. DeadlineExceeded: the job or its queue ran out of
    time. Otherwise InfrastructureError, which is retried.
    """
    name, status = job["metadata"]["name"], job.get("status") or {}
    reason, said = status.get("reason", ""), str(status.get("message", "")).strip()
    also = troubles(job, pods, events)
    why = f". {'; '.join(also)}" if also else ""
    if status.get("jobDeploymentStatus") == "ValidationFailed":
        return BadInput(said, where=f"RayJob {name}", remedy="Correct execution.cluster.rayjob")
    if reason == "DeadlineExceeded":
        return DeadlineExceeded(f"RayJob {name} passed its deadline and was ended: {said}{why}")
    if reason == "PreRunningDeadlineExceeded":
        return DeadlineExceeded(f"RayJob {name} had no cluster in time: {said}{why}")
    if reason == "SubmissionFailed":
        return InfrastructureError(f"RayJob {name}: its job could not be submitted: {said}{why}")
    if reason == "JobStatusCheckTimeoutExceeded":
        return InfrastructureError(f"RayJob {name}: its head was lost: {said}{why}")
    return InfrastructureError(f"RayJob {name} ended without saying why: {said[-1000:]}{why}")


def hopeless(pods: Iterable[Object]) -> BadInput | None:
    """What no waiting helps against."""
    for pod in pods:
        for container, waiting in _waiting(pod):
            if waiting.get("reason") in WRONG:
                return BadInput(
                    f"{waiting['reason']}: {_short(waiting.get('message', ''))}",
                    where=f"container {container} of pod {pod['metadata']['name']}",
                    remedy="Correct execution.cluster.rayjob.image",
                )
    return None


def _of_cluster(job: Object) -> Iterator[str]:
    """KubeRay's own condition: pods that it may not make, most often for a quota."""
    for condition in (job.get("status") or {}).get("rayClusterStatus", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            what = "quota" if "exceeded quota" in condition["message"] else condition["reason"]
            yield _short(f"{what}: {condition['message']}")


def _of_pod(pod: Object) -> Iterator[str]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions", ()):
        kind, holds = condition["type"], condition["status"]
        if kind == "DisruptionTarget" and holds == "True":
            what = "preempted" if condition.get("reason") == "PreemptionByScheduler" else "evicted"
            yield _short(f"pod {name} {what} ({condition.get('reason')}): {condition.get('message', '')}")
        elif kind == "PodScheduled" and holds == "False":
            reason = condition.get("reason", "Unschedulable").lower()
            yield _short(f"pod {name} {reason}: {condition.get('message', '')}")
    if status.get("reason") in ("Evicted", "Preempting", "NodeLost", "NodeShutdown", "Terminated"):
        yield _short(f"pod {name} {status['reason'].lower()}: {status.get('message', '')}")
    for container, waiting in _waiting(pod):
        reason = waiting.get("reason", "")
        if reason not in ("", "ContainerCreating", "PodInitializing"):
            what = "image cannot be pulled" if reason in PULL else reason
            yield _short(f"pod {name}, container {container}: {what}: {waiting.get('message', '')}")
    for each in status.get("containerStatuses", ()):
        for at in ("state", "lastState"):
            ended = (each.get(at) or {}).get("terminated") or {}
            if ended.get("exitCode"):
                reason = ended.get("reason", "Error")
                yield _short(f"pod {name}, container {each['name']}: {reason}, exit code {ended['exitCode']}")


def _waiting(pod: Object) -> Iterator[tuple[str, Object]]:
    status = pod.get("status") or {}
    for each in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        if waiting := (each.get("state") or {}).get("waiting"):
            yield each["name"], waiting


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
