"""Stages as RayJobs: what is ordered, found again, told apart and removed, by a real client of an API server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from components.cluster import rayjobs
from components.cluster.rayjobs import CLUSTER, RAYJOBS, TYPE, RayJobs
from components.failures import BadInput, DeadlineExceeded, InfrastructureError
from components.recipe.execution import ExecutionConfig
from tests.components.cluster.kube_world import REAL, World

IMAGE = "registry.example.org/ringflow-cpu:0.1.0"
FINGERPRINT = "0f" * 32
EXECUTION = ExecutionConfig(project="demo", cluster={"stages": "rayjob", "rayjob": {"image": IMAGE, "workers": [{}]}})


@pytest.fixture
def jobs(kube: World) -> RayJobs:
    return RayJobs(kube.client(), EXECUTION, "rlvr-1", "rlvr")


def submit(jobs: RayJobs, number: int = 1) -> str:
    name = f"{jobs.prefix('rlvr', FINGERPRINT)}{number}"
    assert jobs.submit(
        name, "cd /x && exec python -m tasks.job_main KEY", "true", {"A": "b"}, {"ringflow.recipe": "r/1"}
    )
    return name


def up(kube: World, name: str, **status: Any) -> None:
    """What KubeRay writes when it takes a job on."""
    known = {"jobId": name, "rayClusterName": f"{name}-x7k2p", "jobDeploymentStatus": "Initializing"}
    kube.status(RAYJOBS, name, **{**known, "startTime": "2026-11-28T00:00:00Z", **status})


def head(kube: World, name: str, **status: Any) -> None:
    kube.pod(f"{name}-x7k2p-head-abcde", {CLUSTER: f"{name}-x7k2p", TYPE: "head"}, **status)


@pytest.mark.skipif(not REAL, reason="RINGFLOW_TEST_KUBECONFIG names no API server: the stand-in alone is tested")
def test_a_real_api_server_is_tested_too(kube: World) -> None:
    assert (kube.server is None) == (kube.namespace != "ringflow")


def test_a_job_is_made_once_and_found_by_its_name(kube: World, jobs: RayJobs) -> None:
    prefix = jobs.prefix("rlvr", FINGERPRINT)
    assert jobs.of(prefix) == []
    name = submit(jobs)
    assert len(name) <= 47
    assert name.startswith("rlvr-")
    assert not jobs.submit(name, "true", "true", {}, {})
    (found,) = jobs.of(prefix)
    assert (found.id, found.status, found.ended) == (name, "PENDING", False)
    assert found.about["ringflow.recipe"] == "r/1"
    assert jobs.get(name) == found
    assert jobs.get(prefix + "2") is None
    assert (
        RayJobs(kube.client(), EXECUTION.model_copy(update={"project": "other"}), "rlvr-1", "rlvr").prefix(
            "rlvr", FINGERPRINT
        )
        != prefix
    )
    made = kube.admin.get(RAYJOBS, name)["spec"]
    assert (made["jobId"], made["submissionMode"], made["backoffLimit"]) == (name, "HTTPMode", 0)
    assert made["shutdownAfterJobFinishes"] is True
    assert (made["preRunningDeadlineSeconds"], made["activeDeadlineSeconds"]) == (900, 900 + 7 * 24 * 3600)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, "PENDING"),
        ({"jobDeploymentStatus": "Running"}, "PENDING"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, "PENDING"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, "RUNNING"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "SUCCEEDED"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "STOPPED"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "m"}, "FAILED"),
        ({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed"}, "FAILED"),
        ({"jobDeploymentStatus": "Suspended"}, "PENDING"),
    ],
)
def test_states_are_those_of_ray(kube: World, jobs: RayJobs, status: dict, expected: str) -> None:
    name = submit(jobs)
    up(kube, name, **status)
    state = jobs.get(name)
    assert (state.status, state.ended) == (expected, expected in ("SUCCEEDED", "STOPPED", "FAILED"))


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: gpu"}
PREEMPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "by prod"}
DRAINED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drain"}


def waiting(reason: str, message: str = "") -> dict:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": "ray-head", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0, "state": state}


def oom() -> dict:
    state = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    return {**waiting("x"), "state": state}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"phase": "Pending", "conditions": [UNSCHEDULABLE]}, "unschedulable: 0/3 nodes: gpu"),
        (
            {"phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff", "back-off")]},
            "image cannot be pulled",
        ),
        (
            {"phase": "Pending", "containerStatuses": [waiting("CreateContainerConfigError", 'secret "x"')]},
            'secret "x"',
        ),
        ({"phase": "Failed", "conditions": [PREEMPTED]}, "preempted (PreemptionByScheduler): by prod"),
        ({"phase": "Failed", "conditions": [DRAINED]}, "evicted (EvictionByEvictionAPI): drain"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on ephemeral-storage"}, "evicted: low on ephemeral"),
        ({"phase": "Running", "containerStatuses": [oom()]}, "OOMKilled, exit code 137"),
    ],
)
def test_what_a_job_waits_for_is_read_from_its_pods(kube: World, jobs: RayJobs, status: dict, says: str) -> None:
    name = submit(jobs)
    up(kube, name)
    head(kube, name, **status)
    state = jobs.get(name)
    assert state.status == "PENDING"
    assert says in state.message
    up(kube, name, jobDeploymentStatus="Failed", reason="JobStatusCheckTimeoutExceeded", message="no answer")
    failure = jobs.failure(jobs.get(name))
    assert isinstance(failure, InfrastructureError)
    assert says in str(failure)
    assert "its head was lost: no answer" in str(failure)


def test_pods_that_may_not_be_made_are_told_by_the_cluster_s_condition(kube: World, jobs: RayJobs) -> None:
    name = submit(jobs)
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod"}
    condition |= {"message": 'pods "x" is forbidden: exceeded quota: ray', "lastTransitionTime": "2026-11-28T00:00:00Z"}
    up(kube, name, rayClusterStatus={"conditions": [condition]})
    assert jobs.get(name).message.startswith("quota: pods")


def test_a_warning_speaks_where_no_status_does(kube: World, jobs: RayJobs) -> None:
    name = submit(jobs)
    up(kube, name)
    head(kube, name)
    assert jobs.get(name).message == ""
    kube.warn("somebody-else", "Failed", "not ours")
    kube.warn(f"{name}-x7k2p-head-abcde", "FailedMount", "no volume")
    assert jobs.get(name).message == "FailedMount: no volume"


def test_an_image_that_is_no_name_ends_the_wait_at_once(kube: World, jobs: RayJobs) -> None:
    name = submit(jobs)
    up(kube, name)
    head(kube, name, phase="Pending", containerStatuses=[waiting("InvalidImageName", "couldn't parse")])
    with pytest.raises(BadInput, match="InvalidImageName: couldn't parse"):
        jobs.get(name)
    assert jobs.get(name) is None


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        ({"reason": "DeadlineExceeded", "message": "passed"}, DeadlineExceeded, "passed its deadline and was ended"),
        ({"reason": "PreRunningDeadlineExceeded", "message": "m"}, DeadlineExceeded, "had no cluster in time"),
        ({"reason": "SubmissionFailed", "message": "500"}, InfrastructureError, "could not be submitted: 500"),
        ({"reason": "AppFailed", "message": "exit 1"}, InfrastructureError, "ended without saying why: exit 1"),
        ({"jobDeploymentStatus": "ValidationFailed", "message": "no containers"}, BadInput, "no containers"),
    ],
)
def test_failures_are_told_apart(kube: World, jobs: RayJobs, status: dict, kind: type, says: str) -> None:
    name = submit(jobs)
    up(kube, name, **{"jobDeploymentStatus": "Failed", **status})
    failure = jobs.failure(jobs.get(name))
    assert type(failure) is kind
    assert says in str(failure)


def test_a_job_that_is_deleted_is_stopped_until_it_is_gone(kube: World, jobs: RayJobs) -> None:
    name = submit(jobs)
    item = kube.admin.get(RAYJOBS, name)
    item["metadata"]["finalizers"] = ["ray.io/rayjob-finalizer"]
    kube.admin._call("PUT", kube.admin._path(RAYJOBS, name), json=item)
    jobs.stop(name)
    assert jobs.get(name).status == "STOPPED"
    assert not jobs.submit(name, "true", "true", {}, {})
    item = kube.admin.get(RAYJOBS, name)
    item["metadata"]["finalizers"] = []
    kube.admin._call("PUT", kube.admin._path(RAYJOBS, name), json=item)
    assert jobs.get(name) is None
    jobs.stop(name)  # who is gone may be stopped again
    assert "was deleted" in str(jobs.failure(rayjobs.JobState(name, "STOPPED")))


def test_attempts_that_ended_make_room_and_all_go_with_the_artifact(kube: World, jobs: RayJobs) -> None:
    first = submit(jobs)
    up(kube, first, jobDeploymentStatus="Failed", jobStatus="FAILED", endTime="2026-11-28T00:00:00Z")
    other = f"{jobs.prefix('sft', FINGERPRINT)}1"
    assert jobs.submit(other, "true", "true", {}, {})
    forgotten = f"{jobs.prefix('base', FINGERPRINT)}1"
    assert jobs.submit(forgotten, "true", "true", {}, {})
    up(kube, forgotten, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", endTime="2026-11-01T00:00:00Z")
    second = submit(jobs, 2)
    assert {job.id for job in jobs.of("")} == {other, second}
    jobs.clear(jobs.prefix("rlvr", FINGERPRINT))
    assert [job.id for job in jobs.of("")] == [other]


def test_the_log_is_followed_line_by_line_and_goes_on_after_a_cut(kube: World, jobs: RayJobs) -> None:
    lines = [f"2026-11-28T01:02:03.00000000{n}Z line {n}" for n in (1, 2, 2, 3)]
    later = ["2026-11-28T01:02:04.5Z line 4", "2026-11-28T01:02:05Z line 5"]
    asked: list[str] = []

    def logs(pod: str, container: str, since: str, follow: bool) -> Iterator[str]:
        asked.append(since)
        assert (pod.endswith("-head-abcde"), container) == (True, "log")
        yield from lines[:3] if not since else [*lines, *later] if len(asked) > 2 else lines

    kube.logs = logs
    name = submit(jobs)
    up(kube, name, jobDeploymentStatus="Running", jobStatus="RUNNING")
    head(kube, name, on_node=True)
    heard: list[str] = []
    with jobs.follow(name) as tail:
        until(lambda: heard.extend(tail.lines(1.0)) or len(heard) >= 4)
        up(kube, name, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
        until(lambda: heard.extend(tail.lines(1.0)) or (tail.ended.is_set() and not tail.waiting))
    assert heard == ["line 1", "line 2", "line 2", "line 3", "line 4", "line 5"]
    assert asked[:2] == ["", "2026-11-28T01:02:03Z"]


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up


def test_the_role_is_enough_and_no_more(kube: World, jobs: RayJobs) -> None:
    client = kube.client()
    for kind, item in (("v1/secrets", None), ("v1/pods", {"metadata": {"name": "x"}}), ("v1/services", None)):
        with pytest.raises(BadInput, match="infra/kubernetes/rayjobs has the role"):
            client.create(kind, item) if item else client.list(kind)
    with pytest.raises(BadInput):
        client.get("v1/pods", "x")


def test_what_a_server_refuses_of_a_recipe_is_bad_input(kube: World, jobs: RayJobs, monkeypatch) -> None:
    real = rayjobs.rayjob

    def with_(**spec: Any) -> None:
        monkeypatch.setattr(rayjobs, "rayjob", lambda *a: (lambda item: item["spec"].update(spec) or item)(real(*a)))

    with_(submisionMode="HTTPMode")
    with pytest.raises(BadInput, match="unknown field"):
        submit(jobs)
    with_(ttlSecondsAfterFinished="soon")
    with pytest.raises(BadInput, match="ttlSecondsAfterFinished"):
        submit(jobs)


def test_an_answer_that_does_not_come_is_a_failure_of_the_machinery(kube: World, jobs: RayJobs) -> None:
    if kube.server is None:
        pytest.skip("of the stand-in, which can be taken away")
    name = submit(jobs)
    kube.server.away = True
    with pytest.raises(InfrastructureError, match="currently unable"):
        jobs.get(name)
    kube.server.away = False
    kube.server.tokens.pop("stages")
    with pytest.raises(BadInput, match="does not know this user"):
        jobs.get(name)


def test_a_list_that_grows_old_is_read_again(kube: World, jobs: RayJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    if kube.server is None:
        pytest.skip("of the stand-in, whose pages can be made to grow old")
    monkeypatch.setattr("components.cluster.kube.PAGE", 2)
    names = {submit(jobs, number) for number in range(1, 6)}
    kube.server.objects.forget_pages = True
    assert {job.id for job in jobs.of("")} == names
