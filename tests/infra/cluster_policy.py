"""What every manifest must keep, as functions from objects to complaints: schema, isolation, limits, secrets, quotas.

Kubernetes' own kinds are checked against its published schemas (the wheel kubernetes-validate, offline, unknown fields
refused). KubeRay's custom resources are no part of those: a RayJob is checked against KubeRay's own schema
(rayjob_schema.json), the fields of a RayCluster are listed here from KubeRay's API reference (ray.io/v1, release 1.6),
and pod templates are checked as Kubernetes' PodTemplate.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

OLDEST, NEWEST = "1.33", "1.37"  # 1.33 brought procMount in user namespaces
CLUSTER = """rayVersion authOptions headGroupSpec workerGroupSpecs enableInTreeAutoscaling autoscalerOptions suspend
    managedBy gcsFaultToleranceOptions headServiceAnnotations"""
HEAD = "template rayStartParams serviceType headService enableIngress labels resources"
GROUP = """groupName replicas minReplicas maxReplicas numOfHosts idleTimeoutSeconds suspend scaleStrategy template
    rayStartParams labels resources"""
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|AUTH_STRING|DATABASE_CONNECTION_URL|BACKEND_STORE_URI", re.I)
REFERENCE = re.compile(r"_SECRET_(NAME|KEY)$")
IMAGE = re.compile(r"(?:[^/@]+/)*[^/:@]+(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?")
UNITS = {"m": 1e-3, "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def pinned(image: str) -> bool:
    """By digest, or by a tag that names a version; a registry's port is no tag."""
    found = IMAGE.fullmatch(image)
    return bool(found and (found["digest"] or re.search(r"\d", found["tag"] or "")))


def quantity(text: Any) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()
    return float(number) * UNITS[unit]


def templates(item: dict) -> Iterator[tuple[str, int, dict]]:
    """(where, replicas, pod template) of everything in the object that becomes pods."""
    kind, spec = item["kind"], item.get("spec", {})
    if kind in ("Deployment", "StatefulSet"):
        yield f"{kind} {item['metadata']['name']}", spec.get("replicas", 1), spec["template"]
    elif kind == "Job":
        yield "Job", spec["parallelism"], spec["template"]
    elif kind == "RayCluster":
        yield "RayCluster head", 1, spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield f"RayCluster {group['groupName']}", group["maxReplicas"], group["template"]
    elif kind == "RayJob" and "rayClusterSpec" in spec:
        yield from templates({"kind": "RayCluster", "spec": spec["rayClusterSpec"]})


def containers(template: dict) -> list[dict]:
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def schema(item: dict) -> list[str]:
    name = f"{item['kind']} {item['metadata'].get('name', '')}"
    if item["apiVersion"] == "ray.io/v1":
        return [f"{name}: {each}" for each in (_ray_job(item) if item["kind"] == "RayJob" else _ray_cluster(item))]
    return [f"{name}: {each}" for each in _kubernetes(item)]


@cache
def _definitions(version: str) -> Registry:
    contents = json.loads((_schemas(version) / "_definitions.json").read_text())
    return (Resource.from_contents(contents) @ Registry()).crawl()


def _schemas(version: str) -> Any:
    return files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"


@cache
def _validator(version: str, kind: str, api_version: str) -> Draft202012Validator:
    """The wheel's own `validate` reads 2 MB of definitions for every object; here they are read once."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    path = _schemas(version) / f"{kind.lower()}-{group}.json"
    if not path.is_file():
        raise ValueError(f"Kubernetes {version} has no {kind} of {api_version}")
    return Draft202012Validator(json.loads(path.read_text()), registry=_definitions(version))


def _kubernetes(item: dict) -> list[str]:
    found = []
    for version in (OLDEST, NEWEST):
        errors = _validator(version, item["kind"], item["apiVersion"]).iter_errors(item)
        found += [f"{version}: {error.json_path}: {error.message}" for error in errors]
    return found


def _ray_cluster(item: dict) -> list[str]:
    spec = item["spec"]
    head, groups = spec["headGroupSpec"], spec["workerGroupSpecs"]
    found = [f"unknown field {each}" for each in set(spec) - set(CLUSTER.split())]
    found += [f"unknown field headGroupSpec.{each}" for each in set(head) - set(HEAD.split())]
    if spec.get("authOptions", {}).get("mode") != "token":
        found.append("Ray without authentication")
    if set(spec.get("authOptions", {})) - {"mode", "secretName"}:
        found.append("unknown field in authOptions")
    for each in (head, *groups):
        found += [f"rayStartParams.{k} is no string" for k, v in each["rayStartParams"].items() if type(v) is not str]
    for group in groups:
        found += [f"unknown field workerGroupSpecs.{each}" for each in set(group) - set(GROUP.split())]
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            found.append(f"{group['groupName']}: replicas outside [minReplicas, maxReplicas]")
    for where, _, template in templates(item):
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        found += [f"{where}: {each}" for each in _kubernetes(wrapped)]
    return found


def _ray_job(item: dict) -> list[str]:
    spec = item["spec"]
    unknown, wrong = ray_job_schema(item)
    found = unknown + wrong
    if "rayClusterSpec" in spec and not found:
        found += _ray_cluster({"kind": "RayCluster", "spec": spec["rayClusterSpec"]})
    if spec.get("submissionMode", "K8sJobMode") not in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"):
        found.append(f"unknown submissionMode {spec['submissionMode']}")
    if ("clusterSelector" in spec) == ("rayClusterSpec" in spec):
        found.append("needs either clusterSelector or rayClusterSpec")
    if "clusterSelector" in spec and spec.get("shutdownAfterJobFinishes"):
        found.append("would delete a cluster that it did not make")
    return found


@cache
def _ray_job_validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads((Path(__file__).parent / "rayjob_schema.json").read_text()))


def ray_job_schema(item: dict) -> tuple[list[str], list[str]]:
    """(unknown fields, what else is wrong) by KubeRay's schema, with the pod templates by Kubernetes' own."""
    unknown, wrong = [], []
    for error in _ray_job_validator().iter_errors(item):
        if error.validator == "additionalProperties":
            fields = set(error.instance) - set(error.schema["properties"])
            unknown += [f"unknown field {error.json_path[2:]}.{each}".replace(" .", " ") for each in sorted(fields)]
        else:
            wrong.append(f"{error.json_path[2:]}: {error.message}")
    return unknown, wrong


def isolation(item: dict, sandbox_namespace: str) -> list[str]:
    """No root, nothing writable but volumes, no capability, limits, probes, pinned images, no API server token."""
    found = []
    for where, _, template in templates(item):
        pod = template["spec"]
        context = pod.get("securityContext", {})
        if not (context.get("runAsNonRoot") is True and context.get("runAsUser", 0) > 0):
            found.append(f"{where}: may run as root")
        if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append(f"{where}: no seccomp profile")
        if pod.get("automountServiceAccountToken") is not False:
            found.append(f"{where}: holds a token of the API server")
        if any(pod.get(each) for each in ("hostNetwork", "hostPID", "hostIPC")):
            found.append(f"{where}: shares a namespace with the host")
        if any(set(volume) - {"name"} <= {"hostPath"} for volume in pod.get("volumes", ())):
            found.append(f"{where}: mounts the host's files")
        if not pod.get("priorityClassName"):
            found.append(f"{where}: no priority class")
        for container in containers(template):
            # Who waits for a job waits for its end; nobody waits for a sidecar that prints a log.
            probed = item["kind"] != "Job" and container["name"] != "log"
            found += [f"{where}/{container['name']}: {each}" for each in _container(container, probed)]
            unmasked = container.get("securityContext", {}).get("procMount") == "Unmasked"
            if unmasked and not (item["metadata"]["namespace"] == sandbox_namespace and pod.get("hostUsers") is False):
                found.append(f"{where}/{container['name']}: unmasked /proc without a user namespace of the pod")
    return found


def _container(container: dict, probed: bool) -> Iterator[str]:
    context, limits = container.get("securityContext", {}), container.get("resources", {}).get("limits", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "may gain privileges"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "writable root filesystem"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if not {"cpu", "memory"} <= set(limits) or not {"cpu", "memory"} <= set(container["resources"].get("requests", {})):
        yield "without requests and limits of cpu and memory"
    if probed and "startupProbe" not in container:
        yield "no startup probe"
    # A sidecar is only ordered by its start; the pod's service is the container's.
    if (
        probed
        and container.get("restartPolicy") != "Always"
        and not {"readinessProbe", "livenessProbe"} <= set(container)
    ):
        yield "no readiness or liveness probe"
    if not pinned(container["image"]):
        yield f"image {container['image']} is not pinned"
    for variable in container.get("env", ()):
        named = REFERENCE.search(variable["name"])  # says where a secret is, and is none
        if SECRET.search(variable["name"]) and not named and "secretKeyRef" not in variable.get("valueFrom", {}):
            yield f"{variable['name']} is not by reference to a secret"


def secrets(item: dict) -> list[str]:
    """No object holds the value of a secret."""
    if item["kind"] == "Secret":
        return [f"Secret {item['metadata']['name']} stands in a file"]
    if item["kind"] == "ConfigMap":
        return [f"ConfigMap {item['metadata']['name']}: {key}" for key in item["data"] if SECRET.search(key)]
    return []


def over_quota(objects: list[dict]) -> list[str]:
    """What the objects ask for beyond the ResourceQuota of their namespace."""
    found = []
    for quota in (each for each in objects if each["kind"] == "ResourceQuota"):
        asked: Counter[str] = Counter()
        for item in objects:
            if item["metadata"].get("namespace") != quota["metadata"]["namespace"]:
                continue
            for _, replicas, template in templates(item):
                asked["pods"] += replicas
                for container in containers(template):
                    for side in ("requests", "limits"):
                        for name, amount in container["resources"][side].items():
                            if side == "requests" or name in ("cpu", "memory"):
                                asked[f"{side}.{name}"] += replicas * quantity(amount)
        hard = quota["spec"]["hard"]
        found += [
            f"{quota['metadata']['name']}: {name} {amount:g} of {hard.get(name, 'none')}"
            for name, amount in asked.items()
            if name not in hard or amount > quantity(hard[name])
        ]
    return found
