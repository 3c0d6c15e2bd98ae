"""The text of a RayJob (KubeRay, ray.io/v1): a Ray cluster for one stage, which its job ends with.

The pods are those of infra/kubernetes/base/ray.yaml, where the reasons stand for what the sandbox asks of them; sizes
and places are the recipe's. KubeRay submits the job to the head by HTTP, without a pod of its own, and tries once: the
next attempt is ringflow's. A sidecar of the head prints the job's log, so whoever attends to the job reads it from the
API server, and needs neither a way to the head nor Ray's token.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from components.failures import BadInput
from components.recipe.execution import ExecutionConfig
from components.recipe.rayjob import Head, Pods, RayJobConfig, Workers

API, KIND = "ray.io/v1", "RayJob"
PART_OF = "app.kubernetes.io/part-of"
LOG = "log"
# KubeRay's limit of names, which become those of services and pods.
LONGEST_NAME = 47
USER = 10001
GRACE_S = 60
# Of the log container and of what else the head's pod does besides Ray.
LOG_CPU, LOG_MEMORY = "50m", "64Mi"


@dataclass(frozen=True)
class Ordered:
    """A job to make. command: of a shell in the head's pod. stop: of one that ends the command's process in good order,
    and its seconds. env: of the job and its workers. labels, about: what is said of it (about: of any length)."""

    name: str
    command: str
    stop: str
    env: Mapping[str, str]
    labels: Mapping[str, str]
    about: Mapping[str, str]


def rayjob(ordered: Ordered, execution: ExecutionConfig, node: str, stage: str) -> dict[str, Any]:
    """The object. Raises BadInput when its workers have too few GPUs for the learners and engines of the recipe."""
    cluster = execution.cluster
    config = cluster.rayjob
    head, workers = config.of_stage(node, stage)
    gpus = sum(group.gpus * replicas(group, execution) for group in workers)
    if workers == config.workers and 0 < gpus < execution.gpus:
        raise BadInput(
            f"the workers of a stage have fewer GPUs than its learners and engines take, {execution.gpus}",
            where="execution.cluster.rayjob.workers",
            remedy="Leave replicas out, raise it, or lower execution.learners and engines",
        )
    queue_s, job_s = math.ceil(cluster.queue_deadline_s), math.ceil(cluster.job_deadline_s)
    return {
        "apiVersion": API,
        "kind": KIND,
        "metadata": {
            "name": ordered.name,
            "labels": {PART_OF: "ringflow", **ordered.labels},
            "annotations": dict(ordered.about),
        },
        "spec": {
            "entrypoint": ordered.command,
            "jobId": ordered.name,
            "submissionMode": "HTTPMode",
            "runtimeEnvYAML": json.dumps({"env_vars": dict(ordered.env)}),  # JSON is YAML
            "backoffLimit": 0,
            "preRunningDeadlineSeconds": queue_s,
            "activeDeadlineSeconds": queue_s + job_s,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": config.keep_s,
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token", "secretName": config.ray_auth},
                "headGroupSpec": {
                    "serviceType": "ClusterIP",
                    # No learner on the head, where there are other pods for them.
                    "rayStartParams": {"dashboard-host": "0.0.0.0"} | ({"num-cpus": "0"} if workers else {}),
                    "template": _head(head, config, ordered),
                },
                "workerGroupSpecs": [_workers(group, config, execution) for group in workers],
            },
        },
    }


def replicas(group: Workers, execution: ExecutionConfig) -> int:
    if group.replicas is not None:
        return group.replicas
    return max(math.ceil(execution.gpus / group.gpus), 1) if group.gpus else 1


def _head(pods: Head, config: RayJobConfig, ordered: Ordered) -> dict[str, Any]:
    ports = {"gcs-server": 6379, "dashboard": 8265, "metrics": 8080}
    container = _container("ray-head", pods, config, "/api/gcs_healthz", 8265)
    container["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    container["lifecycle"] = {"preStop": {"exec": {"command": ["sh", "-c", ordered.stop]}}}
    template = _template("ray-head", pods, config, [container])
    template["spec"]["initContainers"] = [_log(config, ordered.name)]
    return template


def _workers(group: Workers, config: RayJobConfig, execution: ExecutionConfig) -> dict[str, Any]:
    count = replicas(group, execution)
    container = _container("ray-worker", group, config, "/api/local_raylet_healthz", 52365)
    return {
        "groupName": group.name,
        "replicas": count,
        "minReplicas": count,
        "maxReplicas": count,
        "rayStartParams": {},
        "template": _template("ray-worker", group, config, [container]),
    }


def _template(name: str, pods: Pods, config: RayJobConfig, containers: list[dict[str, Any]]) -> dict[str, Any]:
    sizes = {"tmp": {"sizeLimit": f"{pods.disk_gib:g}Gi"}, "home": {"sizeLimit": "10Gi"}}
    sizes["shm"] = {"medium": "Memory", "sizeLimit": _memory(pods.shm_gib)}
    spec: dict[str, Any] = {
        "hostUsers": False,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "priorityClassName": pods.priority_class,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "Localhost", "localhostProfile": "profiles/ringflow-sandbox.json"},
            "appArmorProfile": {"type": "Unconfined"},
        },
        "containers": containers,
        "volumes": [{"name": each, "emptyDir": size} for each, size in sizes.items()],
    }
    if config.pull_secrets:
        spec["imagePullSecrets"] = [{"name": each} for each in config.pull_secrets]
    if pods.node_selector:
        spec["nodeSelector"] = dict(pods.node_selector)
    if pods.tolerations:
        spec["tolerations"] = [
            {key: value for key, value in each.model_dump().items() if value} for each in pods.tolerations
        ]
    return {"metadata": {"labels": {PART_OF: "ringflow", "app.kubernetes.io/name": name}}, "spec": spec}


def _container(name: str, pods: Pods, config: RayJobConfig, health: str, port: int) -> dict[str, Any]:
    amounts = {"cpu": f"{pods.cpus:g}", "memory": _memory(pods.memory_gib)}
    amounts |= {resource: str(amount) for resource, amount in pods.resources.items()}
    if pods.gpus:
        amounts["nvidia.com/gpu"] = str(pods.gpus)
    keys = {"RAY_AUTH_TOKEN": {"name": config.ray_auth, "key": "auth_token"}}
    keys |= {variable: each.model_dump() for variable, each in config.env_from_keys.items()}
    probe = {"httpGet": {"path": health, "port": port}}
    return {
        "name": name,
        "image": config.image,
        "envFrom": [
            *({"configMapRef": {"name": each}} for each in config.env_from_config),
            *({"secretRef": {"name": each}} for each in config.env_from_secrets),
        ],
        "env": [
            {"name": "HOME", "value": "/home/ringflow"},
            *({"name": variable, "valueFrom": {"secretKeyRef": key}} for variable, key in keys.items()),
        ],
        "startupProbe": {**probe, "periodSeconds": 5, "failureThreshold": 60},
        "readinessProbe": {**probe, "periodSeconds": 10, "timeoutSeconds": 5},
        "livenessProbe": {**probe, "periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": 6},
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": {**_confined(), "procMount": "Unmasked"},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "home", "mountPath": "/home/ringflow"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _log(config: RayJobConfig, job: str) -> dict[str, Any]:
    """A sidecar that prints the log Ray writes of the job, from its beginning, until the head has ended."""
    amounts = {"cpu": LOG_CPU, "memory": LOG_MEMORY}
    return {
        "name": LOG,
        "image": config.image,
        "restartPolicy": "Always",
        "command": ["sh", "-c", log_command(job)],
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": _confined(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp", "readOnly": True}],
    }


def log_command(job: str, temp_dir: str = "/tmp/ray") -> str:
    file = shlex.quote(f"{temp_dir}/session_latest/logs/job-driver-{job}.log")
    # The first process of a container ignores a SIGTERM it has no handler for, and the pod would stay for its grace.
    # With inotify, tail misses that another directory has become the latest session.
    return f"trap 'kill $! 2>/dev/null; exit 0' TERM; tail ---disable-inotify -n +1 -F {file} 2>/dev/null & wait"


def _confined() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def _memory(gib: float) -> str:
    return f"{round(gib * 1024)}Mi"
