"""The Kubernetes work pool: its template, what a pod of a run becomes of it, and what else the pool brings.

Prefect's own worker renders the template where prefect-kubernetes is installed (it is in the images only); elsewhere
that test is skipped and Prefect's common part renders it.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.templating import apply_values

from components.recipe.cluster import ClusterConfig
from flows.job_variables import KUBERNETES, PROCESS, job_variables, of_deployment
from tests.infra import cluster_policy as policy
from tests.infra.kustomize import build, patch

ROOT = Path(__file__).parents[2]
POOL = ROOT / "infra/kubernetes/pool"
TEMPLATE = json.loads((POOL / "base-job-template.json").read_text())
OBJECTS = build(POOL)
FULL = ClusterConfig(env={"A": "b"}, pod={"image": "registry.example.org/r:0.1.0", "cpus": 1.5, "memory_gib": 2.5})
# What the worker adds to every run.
RUN = {"name": "smoke-run", "command": "prefect flow-run execute", "labels": {"prefect.io/flow-run-id": "x"}}


def defaults() -> dict[str, Any]:
    return {name: about["default"] for name, about in TEMPLATE["variables"]["properties"].items()}


def rendered(**values: Any) -> dict:
    """The Kubernetes job of a run, with its environment as the worker puts it in (before the template's own)."""
    configuration = apply_values(TEMPLATE["job_configuration"], defaults() | RUN | values)
    job = configuration["job_manifest"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["args"] = container["args"].split()
    container["env"] = [{"name": k, "value": v} for k, v in configuration["env"].items()] + container["env"]
    return job


def complaints(job: dict) -> list[str]:
    return policy.schema(job) + policy.isolation(job, "ringflow")


def pod_of(job: dict) -> dict:
    return job["spec"]["template"]["spec"]


def test_every_placeholder_is_a_variable_and_every_variable_is_used() -> None:
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(TEMPLATE["job_configuration"])))
    assert used == set(TEMPLATE["variables"]["properties"])
    Draft202012Validator.check_schema(TEMPLATE["variables"])
    Draft202012Validator(TEMPLATE["variables"]).validate(defaults())


@pytest.mark.parametrize("values", [{}, job_variables(FULL, KUBERNETES)], ids=["defaults", "all variables"])
def test_the_pod_of_a_run_meets_schema_and_policy(values: dict) -> None:
    assert complaints(rendered(**values)) == []


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("/spec/template/spec/securityContext/runAsUser", 0, "may run as root"),
        ("/spec/template/spec/automountServiceAccountToken", True, "token of the API server"),
        ("/spec/template/spec/priorityClassName", "", "no priority class"),
        ("/spec/template/spec/containers/0/securityContext/procMount", "Unmasked", "unmasked /proc"),
        ("/spec/template/spec/containers/0/resources/limits", {}, "without requests and limits"),
        ("/spec/template/spec/containers/0/image", "ringflow-cpu", "is not pinned"),
        ("/spec/template/spec/containers/0/env/0", {"name": "X_TOKEN", "value": "1"}, "X_TOKEN"),
        ("/spec/template/spec/container", [], "container"),
    ],
)
def test_what_the_policy_refuses_of_it(path: str, value: Any, reason: str) -> None:
    broken = copy.deepcopy(rendered())
    last = path.rpartition("/")[2]
    patch(broken, [{"op": "replace" if last.isdigit() else "add", "path": path, "value": value}])
    assert any(reason in each for each in complaints(broken))


def test_variables_of_a_recipe_reach_the_pod() -> None:
    (container,) = pod_of(rendered(**job_variables(FULL, KUBERNETES)))["containers"]
    assert container["image"] == "registry.example.org/r:0.1.0"
    assert container["resources"]["requests"] == container["resources"]["limits"] == {"cpu": "1.5", "memory": "2560Mi"}
    assert container["env"][0] == {"name": "A", "value": "b"}
    assert job_variables(FULL, PROCESS) == {"env": {"A": "b"}}
    assert job_variables(ClusterConfig(), KUBERNETES) == {} == job_variables(FULL, "docker")
    Draft202012Validator({**TEMPLATE["variables"], "additionalProperties": False}).validate(
        job_variables(FULL, KUBERNETES)
    )


def test_only_a_run_whose_stages_are_rayjobs_gets_a_token_and_its_role_is_narrow() -> None:
    cluster = ClusterConfig(stages="rayjob", rayjob={"image": "registry.example.org/r:0.1.0"})
    values = job_variables(cluster, KUBERNETES)
    job = rendered(**values)
    assert complaints(job) == ["Job: holds a token of the API server"]
    objects = build(ROOT / "infra/kubernetes/rayjobs")
    account, space = pod_of(job)["serviceAccountName"], job["metadata"]["namespace"]
    (role,) = [each for each in objects if each["kind"] == "Role" and each["metadata"]["name"] == account]
    (binding,) = [each for each in objects if each["kind"] == "RoleBinding" and each["metadata"]["name"] == account]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": space}]
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert granted == {
        *(("rayjobs", verb) for verb in ("create", "delete", "get", "list")),
        *{("events", "list"), ("pods", "list"), ("pods/log", "get")},
    }
    assert pod_of(rendered())["automountServiceAccountToken"] is False
    (network,) = [each["spec"] for each in objects if each["metadata"]["name"] == "runs-api-server"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert network["podSelector"]["matchLabels"].items() <= labels.items()


def test_a_deployment_has_those_of_its_recipe_below_its_own() -> None:
    overrides = ["execution.cluster.env={A: recipe, B: recipe}", "execution.cluster.pod.cpus=2"]
    deployment = {
        "parameters": {"request": {"recipe": "smoke", "overrides": overrides}},
        "job_variables": {"env": {"B": "given"}, "memory": "1Gi"},
    }
    expected = {"cpu": "2", "memory": "1Gi", "env": {"A": "recipe", "B": "given"}}
    assert of_deployment(deployment, KUBERNETES) == expected
    assert of_deployment({"parameters": {"request": {}}, "job_variables": {"working_dir": "/"}}, PROCESS) == {
        "working_dir": "/"
    }


def test_what_the_pod_names_exists_and_is_documented() -> None:
    job, documented = rendered(), (ROOT / "docs/cluster.md").read_text()
    names = {(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in OBJECTS}
    space = job["metadata"]["namespace"]
    pod = pod_of(job)
    assert ("PriorityClass", None, pod["priorityClassName"]) in names
    (container,) = pod["containers"]
    for source in container["envFrom"]:
        if "configMapRef" in source:
            assert ("ConfigMap", space, source["configMapRef"]["name"]) in names
        else:
            assert f"-n {space} create secret generic {source['secretRef']['name']} " in documented
    (cluster,) = [each for each in OBJECTS if each["kind"] == "RayCluster"]
    head = f"{cluster['metadata']['name']}-head-svc.{cluster['metadata']['namespace']}.svc"
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert (env["RAY_ADDRESS"], env["RAY_API_SERVER_ADDRESS"]) == (f"{head}:6379", f"http://{head}:8265")
    template = cluster["spec"]["headGroupSpec"]["template"]
    assert 8265 in [port["containerPort"] for port in template["spec"]["containers"][0]["ports"]]


def test_network_policies_let_a_run_reach_what_it_asks_and_nothing_reach_it() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in OBJECTS if each["kind"] == "NetworkPolicy"}
    labels = rendered()["spec"]["template"]["metadata"]["labels"]
    run, ray = policies["runs"], policies["jobs-api"]
    assert run["podSelector"]["matchLabels"].items() <= labels.items()
    assert "app.kubernetes.io/part-of" not in labels  # Prefect gives it another value
    assert run["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in run
    assert {port["port"] for rule in run["egress"] for port in rule["ports"]} == {53, 8265, 4200, 5000, 443}
    (rule,) = ray["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    (cluster,) = [each for each in OBJECTS if each["kind"] == "RayCluster"]
    head = cluster["spec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    assert ray["podSelector"]["matchLabels"].items() <= head.items()


def test_the_worker_of_the_pool_may_make_jobs_in_its_namespace_and_nothing_else() -> None:
    (role,) = [each for each in OBJECTS if each["kind"] == "Role"]
    assert not [each for each in OBJECTS if each["kind"] in ("ClusterRole", "ClusterRoleBinding")]
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert {resource for resource, verb in granted if verb in ("create", "patch", "delete")} == {"jobs"}
    assert not {"secrets", "*"} & {resource for resource, _ in granted}
    tokens = [
        each["metadata"]["name"]
        for each in OBJECTS
        for _, _, template in policy.templates(each)
        if "serviceAccountToken" in json.dumps(template["spec"].get("volumes", ()))
    ]
    assert tokens == ["pod-worker"]


@pytest.mark.skipif(find_spec("prefect_kubernetes") is None, reason="prefect-kubernetes is in the images only")
@pytest.mark.parametrize("values", [{}, job_variables(FULL, KUBERNETES)], ids=["defaults", "all variables"])
def test_prefects_own_worker_makes_a_job_of_it(values: dict) -> None:
    from prefect.client.schemas.objects import FlowRun
    from prefect_kubernetes.settings import KubernetesSettings
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    assert TEMPLATE["job_configuration"].keys() <= KubernetesWorkerJobConfiguration.model_fields.keys()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):  # the template has no block to ask it for
        configuration = asyncio.run(KubernetesWorkerJobConfiguration.from_template_and_values(TEMPLATE, values))
        configuration.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="smoke-run"))
    job = configuration.job_manifest
    assert complaints(job) == []
    assert job["spec"]["template"]["metadata"]["labels"]["ringflow-role"] == "run"
    env = {each["name"]: each.get("value") for each in pod_of(job)["containers"][0]["env"]}
    assert env["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    (worker,) = [each for each in OBJECTS if each["metadata"]["name"] == "pod-worker" and each["kind"] == "Deployment"]
    said = {each["name"]: each.get("value") for each in pod_of(worker)["containers"][0]["env"]}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in said.items():
            if name.startswith("PREFECT_INTEGRATIONS"):
                patched.setenv(name, value)
        read = KubernetesSettings()
    assert (read.cluster_uid, read.observer.namespaces) == ("ringflow", {"ringflow"})
    assert read.worker.api_auth_string_secret_name == "ringflow-client"
    assert read.worker.api_auth_string_secret_key == "PREFECT_API_AUTH_STRING"
