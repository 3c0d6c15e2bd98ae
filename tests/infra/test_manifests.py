"""The Kubernetes manifests, resolved offline: schemas, policy, references, and that the checks can fail."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from infra.stack.profile import ENDPOINTS, QUIET
from tests.infra import cluster_policy as policy
from tests.infra.kustomize import build, patch

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "infra/kubernetes"
OVERLAYS = ("overlays/cpu", "overlays/gpu")
BUILT = {name: build(KUBERNETES / name) for name in ("base", *OVERLAYS, "pool", "rayjobs", "jobs")}


def of_kind(objects: list[dict], kind: str) -> list[dict]:
    return [each for each in objects if each["kind"] == kind]


def complaints(item: dict) -> list[str]:
    return policy.schema(item) + policy.secrets(item) + policy.isolation(item, "ringflow")


@pytest.mark.parametrize("name", BUILT)
def test_manifests_meet_schema_and_policy(name):
    assert [each for item in BUILT[name] for each in complaints(item)] + policy.over_quota(BUILT[name]) == []


BREAKS = [
    ("Deployment", "/spec/template/spec/securityContext/runAsNonRoot", False, "may run as root"),
    ("Deployment", "/spec/template/spec/securityContext/runAsUser", 0, "may run as root"),
    ("Deployment", "/spec/template/spec/containers/0/image", "ringflow-cpu:latest", "not pinned"),
    ("Deployment", "/spec/template/spec/containers/0/image", "ringflow-cpu", "not pinned"),
    ("Deployment", "/spec/template/spec/containers/0/imagee", "x", "imagee"),
    ("Deployment", "/spec/template/spec/containers/0/resources/limits", {"cpu": "1"}, "without requests and limits"),
    ("Deployment", "/spec/template/spec/containers/0/resources/requests/cpu", "100", "requests.cpu"),
    ("Deployment", "/spec/template/spec/containers/0/readinessProbe", None, "no readiness"),
    ("Deployment", "/spec/template/spec/containers/0/securityContext/readOnlyRootFilesystem", False, "writable root"),
    ("Deployment", "/spec/template/spec/containers/0/securityContext/procMount", "Unmasked", "unmasked /proc"),
    ("Deployment", "/spec/template/spec/containers/0/env/0", {"name": "X_TOKEN", "value": "1"}, "X_TOKEN"),
    ("Deployment", "/spec/template/spec/hostNetwork", True, "shares a namespace"),
    ("Deployment", "/spec/template/spec/volumes/0", {"name": "tmp", "hostPath": {"path": "/"}}, "the host's files"),
    ("RayCluster", "/spec/headGroupSpec/template/spec/hostUsers", True, "unmasked /proc"),
    ("RayCluster", "/spec/headGroupSpec/template/spec/containers/0/oops", 1, "oops"),
    ("RayCluster", "/spec/workerGroupSpecs/0/replica", 1, "replica"),
    ("RayCluster", "/spec/workerGroupSpecs/0/replicas", 9, "replicas outside"),
    ("RayCluster", "/spec/headGroupSpec/rayStartParams/num-cpus", 0, "is no string"),
    ("RayCluster", "/spec/authOptions", {"mode": "disabled"}, "without authentication"),
    ("ConfigMap", "/data/AWS_SECRET_ACCESS_KEY", "abc", "AWS_SECRET_ACCESS_KEY"),
    ("NetworkPolicy", "/spec/policyType", ["Egress"], "policyType"),
]


@pytest.mark.parametrize(("kind", "path", "value", "reason"), BREAKS)
def test_what_the_policy_refuses(kind, path, value, reason):
    broken = copy.deepcopy(BUILT["base"])
    first = of_kind(broken, kind)[0]
    if value is None:
        patch(first, [{"op": "remove", "path": path}])
    else:
        name = path.rpartition("/")[2]
        patch(first, [{"op": "replace" if name.isdigit() else "add", "path": path, "value": value}])
    assert any(reason in each for each in complaints(first) + policy.over_quota(broken))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("submissionMode", "HttpMode", "unknown submissionMode"),
        ("rayClusterSpec", {}, "needs either"),
        ("shutdownAfterJobFinishes", True, "would delete a cluster"),
        ("entryPoint", "x", "unknown field spec.entryPoint"),
    ],
)
def test_what_is_refused_of_a_job(field, value, reason):
    (job,) = copy.deepcopy(BUILT["jobs"])
    job["spec"][field] = value
    assert any(reason in each for each in policy.schema(job))


def test_a_tag_that_moves_is_not_pinned():
    assert policy.pinned("localhost:5000/a/b:1.2@sha256:" + 64 * "0")
    assert policy.pinned("registry.example.org/a:17-bookworm")
    assert not any(policy.pinned(each) for each in ("a", "localhost:5000/a", "localhost:5000/a:latest", "a:main"))


def test_a_patch_must_find_its_place():
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {}}
    with pytest.raises(ValueError, match="has no /data/a"):
        patch(item, [{"op": "replace", "path": "/data/a", "value": 1}])


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_take_every_image_from_the_registry(name):
    images = {
        each["image"]
        for item in BUILT[name]
        for _, _, template in policy.templates(item)
        for each in policy.containers(template)
    }
    assert images
    assert all(each.startswith("registry.example.org/ringflow-") for each in images)


def test_gpu_overlay_gives_workers_gpus_and_drivers_the_versions_of_the_workers():
    (cluster,) = of_kind(BUILT["overlays/gpu"], "RayCluster")
    ((group, _, template),) = [each for each in policy.templates(cluster) if each[0] != "RayCluster head"]
    assert template["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8", group
    (worker,) = [each for each in BUILT["overlays/gpu"] if each["metadata"]["name"] == "worker"]
    drivers = [*policy.containers(worker["spec"]["template"]), template["spec"]["containers"][0]]
    assert {each["image"] for each in drivers} == {"registry.example.org/ringflow-gpu:0.1.0"}


def test_versions_are_those_of_the_project_and_its_lock():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    ray = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)[1]
    (cluster,) = of_kind(BUILT["base"], "RayCluster")
    assert cluster["spec"]["rayVersion"] == ray
    for item in BUILT["base"]:
        for _, _, template in policy.templates(item):
            assert {each["image"] for each in policy.containers(template)} == {f"ringflow-cpu:{version}"}


def test_objects_refer_to_objects_that_exist():
    objects = BUILT["base"]
    names = {(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects}
    documented = (ROOT / "docs/cluster.md").read_text()
    for item in objects:
        space = item["metadata"].get("namespace")
        assert space is None or ("Namespace", None, space) in names
        for where, _, template in policy.templates(item):
            pod = template["spec"]
            assert ("PriorityClass", None, pod["priorityClassName"]) in names, where
            account = pod.get("serviceAccountName")
            assert account is None or ("ServiceAccount", space, account) in names, where
            volumes = {each["name"] for each in pod["volumes"]}
            wanted = {each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
            for container in policy.containers(template):
                assert {each["name"] for each in container["volumeMounts"]} <= volumes, where
                for source in container.get("envFrom", ()):
                    if "configMapRef" in source:
                        assert ("ConfigMap", space, source["configMapRef"]["name"]) in names, where
                    else:
                        wanted.add(source["secretRef"]["name"])
                for variable in container["env"]:
                    if "valueFrom" in variable:
                        wanted.add(variable["valueFrom"]["secretKeyRef"]["name"])
            assert all(f"create secret generic {each} " in documented for each in wanted), (where, wanted)


def test_every_pod_is_behind_a_network_policy_that_denies_the_rest():
    policies = of_kind(BUILT["base"], "NetworkPolicy")
    for space in ("ringflow", "ringflow-servers"):
        (denies,) = [each for each in policies if each["metadata"] == {"name": "default-deny", "namespace": space}]
        assert denies["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for item in BUILT["base"]:
        for where, _, template in policy.templates(item):
            labels = template["metadata"]["labels"]
            allowing = [
                each
                for each in policies
                if each["metadata"]["namespace"] == item["metadata"]["namespace"]
                and each["metadata"]["name"] != "default-deny"
                and each["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
            ]
            assert len(allowing) == 1, where
    open_ports = {
        port["port"] for each in policies for rule in each["spec"].get("ingress", ()) for port in rule.get("ports", ())
    }
    assert open_ports == {4200, 5000, 8265}


def test_services_select_pods_and_named_ports():
    for service in of_kind(BUILT["base"], "Service"):
        (deployment,) = [
            each
            for each in of_kind(BUILT["base"], "Deployment")
            if service["spec"]["selector"].items() <= each["spec"]["template"]["metadata"]["labels"].items()
        ]
        ports = {each["name"] for each in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports


def test_clients_have_every_endpoint_of_the_cluster_profile():
    (client,) = [each for each in of_kind(BUILT["base"], "ConfigMap") if each["metadata"]["name"] == "ringflow-client"]
    (worker,) = [each for each in BUILT["base"] if each["metadata"]["name"] == "worker"]
    (cluster,) = of_kind(BUILT["base"], "RayCluster")
    own = {each["name"]: each.get("value") for each in worker["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert set(ENDPOINTS) <= set(client["data"]) | set(own)
    assert QUIET.items() <= client["data"].items()
    head = f"{cluster['metadata']['name']}-head-svc.{cluster['metadata']['namespace']}.svc"  # the name KubeRay gives
    assert own["RAY_ADDRESS"] == f"{head}:6379"
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        service, space = re.match(r"http://([\w-]+)\.([\w-]+)\.svc:", client["data"][name]).groups()
        assert any(
            each["metadata"] == {"name": service, "namespace": space} for each in of_kind(BUILT["base"], "Service")
        )


def test_the_job_runs_a_recipe_on_the_cluster_of_the_base():
    (job,) = BUILT["jobs"]
    (cluster,) = of_kind(BUILT["base"], "RayCluster")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["metadata"]["namespace"] == cluster["metadata"]["namespace"]
    assert (ROOT / f"flows/recipes/{job['spec']['entrypoint'].removeprefix('ringflow run ')}.yaml").is_file()


def test_seccomp_profile_leaves_the_sandbox_what_it_calls():
    profile = json.loads((KUBERNETES / "seccomp/ringflow-sandbox.json").read_text())
    (rule,) = profile["syscalls"]
    assert rule["action"] == "SCMP_ACT_ERRNO"
    # bubblewrap and the supervisor; seccomp and prctl for the filter that they set on programs themselves
    needed = {
        "clone",
        "clone3",
        "unshare",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "sethostname",
        "prctl",
        "seccomp",
    }
    assert not needed & set(rule["names"])
    assert {"bpf", "kexec_load", "init_module", "keyctl", "perf_event_open", "open_by_handle_at"} <= set(rule["names"])
    mentioned = {
        template["spec"]["securityContext"]["seccompProfile"].get("localhostProfile")
        for item in BUILT["base"]
        for _, _, template in policy.templates(item)
    }
    assert mentioned == {None, "profiles/ringflow-sandbox.json"}


def test_the_manifests_hold_no_key():
    for path in [*KUBERNETES.rglob("*.yaml"), ROOT / "infra/compose.yaml"]:
        assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|://[^/\s$:]+:[^/\s$@{]+@", path.read_text()), path
        assert list(yaml.safe_load_all(path.read_text()))
