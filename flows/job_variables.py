"""Prefect's job variables of a deployment, from the cluster section of the recipe that its form starts with.

`env` reaches the process (or the pod) of a run before Python starts there, which is the only time at which some
variables are read. What prefect.yaml says of the same variable stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.recipe.cluster import ClusterConfig
from components.recipe.load import read_recipe
from flows.forms import RECIPES

PROCESS, KUBERNETES = "process", "kubernetes"
# Of infra/kubernetes/rayjobs: the one account that may order RayJobs.
ORDERS_RAYJOBS = {"service_account_name": "stages", "api_server_token": True}


def job_variables(cluster: ClusterConfig, pool_type: str) -> dict[str, Any]:
    """What a pool of this type is given: one of processes has no pods, and of other types ringflow knows nothing.

    The names of the second are those of infra/kubernetes/pool/base-job-template.json.
    """
    found: dict[str, Any] = {"env": dict(cluster.env)} if cluster.env else {}
    if pool_type == KUBERNETES:
        pod = cluster.pod
        found |= {"image": pod.image} if pod.image else {}
        found |= {"cpu": f"{pod.cpus:g}"} if pod.cpus else {}
        found |= {"memory": f"{pod.memory_gib * 1024:.0f}Mi"} if pod.memory_gib else {}
        found |= ORDERS_RAYJOBS if cluster.stages == "rayjob" else {}
    return found if pool_type in (PROCESS, KUBERNETES) else {}


def of_deployment(deployment: Mapping[str, Any], pool_type: str) -> dict[str, Any]:
    """The job variables a deployment should have: of its default recipe, below what it was given.

    deployment: as Prefect's API has it, before anything of this was added. Raises BadInput for a recipe that is none.
    """
    request = (deployment.get("parameters") or {}).get("request") or {}
    given = dict(deployment.get("job_variables") or {})
    recipe = request.get("recipe_file") or request.get("recipe")
    if not recipe:
        return given
    cluster = read_recipe(recipe, request.get("overrides", ()), RECIPES).recipe.execution.cluster
    found = job_variables(cluster, pool_type)
    env = {**found.get("env", {}), **given.get("env", {})}
    return {**found, **given, **({"env": env} if env else {})}
