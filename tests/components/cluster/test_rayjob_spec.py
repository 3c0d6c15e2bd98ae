"""What is ordered of KubeRay: schema and policy, the pods of the base, sizes and places of the recipe, no secret."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from components.cluster.rayjob_spec import Ordered, log_command, rayjob
from components.failures import BadInput
from components.recipe.cluster import ClusterConfig
from components.recipe.execution import ExecutionConfig
from tests.components.cluster.kuberay import Printed
from tests.infra import cluster_policy as policy
from tests.infra.kustomize import build

ROOT = Path(__file__).parents[3]
IMAGE = "registry.example.org/ringflow-gpu:0.1.0"
ORDERED = Ordered(
    "rlvr-0f-1", "cd /x && exec python", "exec python -m tasks.job_stop KEY 15", {"A": "b"}, {}, {"c": "d"}
)
GPU = {"cpus": 96, "memory_gib": 1200, "gpus": 8, "shm_gib": 400, "resources": {"rdma/hca": 8}}
GPU |= {"node_selector": {"nvidia.com/gpu.present": "true"}, "tolerations": [{"key": "nvidia.com/gpu"}]}


def execution(device: str = "cpu", learners: int = 2, **rayjob: Any) -> ExecutionConfig:
    cluster = {"stages": "rayjob", "rayjob": {"image": IMAGE, **rayjob}}
    return ExecutionConfig(device=device, learners=learners, engines=learners, cluster=cluster)


def ordered(given: ExecutionConfig, node: str = "rlvr-1", stage: str = "rlvr") -> dict[str, Any]:
    made = rayjob(ORDERED, given, node, stage)
    made["metadata"]["namespace"] = "ringflow"
    return made


def groups(item: dict[str, Any]) -> list[dict[str, Any]]:
    return item["spec"]["rayClusterSpec"]["workerGroupSpecs"]


@pytest.mark.parametrize(
    "given",
    [
        execution(),
        execution(workers=[{}]),
        execution("cuda", 16, workers=[GPU], pull_secrets=["registry"], env_from_keys={"K": {"name": "s", "key": "k"}}),
    ],
    ids=["a head alone", "workers", "GPUs"],
)
def test_it_meets_schema_and_policy_and_holds_no_secret(given: ExecutionConfig) -> None:
    item = ordered(given)
    assert policy.schema(item) + policy.isolation(item, "ringflow") + policy.secrets(item) == []
    (token,) = [
        each
        for each in item["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
        if each["name"] == "RAY_AUTH_TOKEN"
    ]
    assert token["valueFrom"] == {"secretKeyRef": {"name": "ringflow-ray", "key": "auth_token"}}


def test_its_pods_are_those_of_the_standing_cluster() -> None:
    """Whatever the sandbox, Ray and the policies ask of a pod stands in one file; the code must not fall behind it."""
    (standing,) = [each for each in build(ROOT / "infra/kubernetes/base") if each["kind"] == "RayCluster"]
    own = ordered(execution(workers=[{"cpus": 4, "memory_gib": 16}]))["spec"]["rayClusterSpec"]
    assert (own["rayVersion"], own["authOptions"]) == (standing["spec"]["rayVersion"], standing["spec"]["authOptions"])
    head, (workers,) = standing["spec"]["headGroupSpec"], standing["spec"]["workerGroupSpecs"]
    assert {**own["headGroupSpec"], "template": 0} == {**head, "template": 0}
    for ours, theirs in ((own["headGroupSpec"], head), (own["workerGroupSpecs"][0], workers)):
        ours, theirs = ours["template"], theirs["template"]
        assert ours["metadata"] == theirs["metadata"]
        added, sized = ("initContainers",), ("containers", "volumes", "priorityClassName")
        rest = [{k: v for k, v in each["spec"].items() if k not in added + sized} for each in (ours, theirs)]
        assert rest[0] == rest[1]
        assert [each["name"] for each in ours["spec"]["volumes"]] == [
            each["name"] for each in theirs["spec"]["volumes"]
        ]
        (mine,), (its,) = ours["spec"]["containers"], theirs["spec"]["containers"]
        rest = [{k: v for k, v in each.items() if k not in ("image", "resources", "lifecycle")} for each in (mine, its)]
        assert rest[0] == rest[1]


def test_the_pods_have_sizes_and_places_of_the_recipe() -> None:
    (group,) = groups(ordered(execution("cuda", 16, workers=[GPU])))
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 2  # sixteen GPUs, eight in a pod
    pod = group["template"]["spec"]
    asked = pod["containers"][0]["resources"]
    assert asked["requests"] == asked["limits"]
    assert asked["limits"] == {"cpu": "96", "memory": "1228800Mi", "rdma/hca": "8", "nvidia.com/gpu": "8"}
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert pod["volumes"][2]["emptyDir"] == {"medium": "Memory", "sizeLimit": "409600Mi"}


def test_a_stage_may_have_other_pods_than_the_rest() -> None:
    given = execution(
        "cuda", 8, workers=[GPU], per_stage={"corpus": {"workers": []}, "rlvr-2": {"workers": [{"cpus": 1}]}}
    )
    assert groups(ordered(given, "corpus", "corpus")) == []
    head = ordered(given, "corpus", "corpus")["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert "num-cpus" not in head["rayStartParams"]  # the work is done there
    assert ordered(given)["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert groups(ordered(given, "rlvr-2"))[0]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "1"
    assert groups(ordered(given, "rlvr-1"))[0]["replicas"] == 1


def test_too_few_gpus_are_refused_before_anything_waits_for_them() -> None:
    with pytest.raises(BadInput, match="fewer GPUs than its learners and engines take, 16"):
        ordered(execution("cuda", 16, workers=[{**GPU, "replicas": 1}]))


def test_deadlines_and_the_environment_are_the_recipe_s() -> None:
    given = execution().cluster.model_copy(update={"queue_deadline_s": 60, "job_deadline_s": 100})
    spec = ordered(ExecutionConfig(cluster=given.model_dump()))["spec"]
    assert (spec["preRunningDeadlineSeconds"], spec["activeDeadlineSeconds"]) == (60, 160)
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"A": "b"}}
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"], spec["backoffLimit"]) == (True, 300, 0)


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        ({"stages": "rayjob"}, "needs rayjob.image"),
        ({"stages": "rayjob", "rayjob": {"image": "r/x"}}, "not an image by digest"),
        ({"stages": "rayjob", "rayjob": {"image": IMAGE}, "resources": {"cpus": 1}}, "rayjob.head sizes it"),
        ({"rayjob": {"workers": [{}, {}]}}, "two groups of workers have one name"),
        ({"rayjob": {"head": {"memory_gib": 2, "shm_gib": 2}}}, "shm_gib counts as memory"),
        ({"rayjob": {"head": {"cpu": 2}}}, "Extra inputs"),
    ],
)
def test_what_a_recipe_cannot_say(cluster: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ClusterConfig.model_validate(cluster)


def test_the_sidecar_prints_the_job_s_log_from_its_beginning_and_ends_when_told(tmp_path: Path) -> None:
    """The command itself, beside a Ray that starts later and a second time."""
    printed = Printed(["sh", "-c", log_command("a-1", str(tmp_path))])
    for session in ("one", "two"):
        logs = tmp_path / session / "logs"
        logs.mkdir(parents=True)
        (logs / "job-driver-a-1.log").write_text(f"first of {session}\n")
        (tmp_path / "next").symlink_to(tmp_path / session)
        (tmp_path / "next").rename(tmp_path / "session_latest")
        wait_for(printed, f"first of {session}")
    with (logs / "job-driver-a-1.log").open("a") as stream:
        stream.write("second of two\n")
    wait_for(printed, "second of two")
    printed.process.terminate()
    assert printed.process.wait(10) == 0


def wait_for(printed: Printed, text: str) -> None:
    give_up = time.monotonic() + 20
    while not any(line.endswith(text) for line in printed.lines("", False)):
        assert time.monotonic() < give_up, text
        time.sleep(0.05)


def test_the_order_is_json_that_kubectl_takes() -> None:
    item = ordered(execution("cuda", 16, workers=[GPU]))
    assert json.loads(json.dumps(item)) == item
    assert subprocess.list2cmdline([item["spec"]["entrypoint"]])
