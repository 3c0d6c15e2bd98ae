"""The few questions asked of the Prefect server over plain HTTP: importing Prefect takes longer than the answers."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from components.failures import BadInput, InfrastructureError

# The flows of this project. "The newest run" is one of a recipe: housekeeping comes by every night.
RECIPE_FLOWS = ("ring", "stage", "evaluate", "evaluate-standard", "compare", "refresh")
FLOWS = (*RECIPE_FLOWS, "housekeeping")
DEADLINE_S = 10.0
# Prefect answers 503 while its database is locked: nothing was done, ask again (as its own client does).
BUSY_PAUSES_S = (0.5, 1.0, 2.0, 0.0)


@cache
def _client():
    """One client for the process: making one loads certificates, which costs more than a question."""
    import httpx

    return httpx.Client(timeout=DEADLINE_S)


def ask(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One request; the parsed answer. Raises InfrastructureError when the server does not answer or refuses."""
    import httpx

    base = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not base:
        raise BadInput("no Prefect server is configured", where="PREFECT_API_URL", remedy="Run `ringflow up`")
    headers, auth = {}, None
    if key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    elif pair := os.environ.get("PREFECT_API_AUTH_STRING"):
        user, _, password = pair.partition(":")
        auth = (user, password)
    try:
        for pause in BUSY_PAUSES_S:
            response = _client().request(method, f"{base}{path}", json=body, headers=headers, auth=auth)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(pause)
        response.raise_for_status()
    except httpx.HTTPStatusError as error:
        raise InfrastructureError(f"Prefect at {base} refused {path}: {error.response.text[:300]}") from error
    except httpx.HTTPError as error:
        raise InfrastructureError(f"Prefect at {base} does not answer: {error}. Run `ringflow up`") from error
    return response.json() if response.content else None


def recent_runs(limit: int, states: Sequence[str] = (), flows: Sequence[str] = FLOWS) -> list[dict[str, Any]]:
    """Runs, the latest first; what a clock will start later is left out. states: Prefect state types such as FAILED."""
    body: dict[str, Any] = {
        "flows": {"name": {"any_": list(flows)}},
        "flow_runs": {"expected_start_time": {"before_": datetime.now(UTC).isoformat()}},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": limit,
    }
    if states:
        body["flow_runs"]["state"] = {"type": {"any_": list(states)}}
    return ask("POST", "/flow_runs/filter", body)


def flow_name(run: dict[str, Any]) -> str:
    """Which flow a run is of: one of FLOWS."""
    return ask("GET", f"/flows/{run['flow_id']}")["name"]


def find_run(name: str | None) -> dict[str, Any]:
    """The run of this name or id (or the beginning of an id); the newest when None. Raises BadInput."""
    if name is None:
        runs = recent_runs(1, flows=RECIPE_FLOWS)
        if not runs:
            raise BadInput("nothing has run yet", remedy="Start with `ringflow run smoke`")
        return runs[0]
    try:
        where: dict[str, Any] = {"id": {"any_": [str(uuid.UUID(name))]}}
    except ValueError:
        where = {"name": {"any_": [name]}}
    found = ask("POST", "/flow_runs/filter", {"flow_runs": where, "limit": 2, "sort": "START_TIME_DESC"})
    if not found:
        found = [run for run in recent_runs(200) if run["id"].startswith(name)]
    if not found:
        raise BadInput(f"no run is called {name!r}", remedy="`ringflow runs` lists them")
    return found[0]


def task_runs(run_id: str) -> list[dict[str, Any]]:
    body = {"flow_runs": {"id": {"any_": [run_id]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 200}
    return ask("POST", "/task_runs/filter", body)


def logs(run_id: str, offset: int, limit: int = 200) -> list[dict[str, Any]]:
    body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "limit": limit, "offset": offset}
    return ask("POST", "/logs/filter", body)


def cancel(run_id: str) -> str:
    """Asks the run to stop; the answer of the server. The run sees it within seconds."""
    state = {"type": "CANCELLING", "name": "Cancelling", "message": "cancelled with ringflow"}
    return ask("POST", f"/flow_runs/{run_id}/set_state", {"state": state})["status"]


def get_run(run_id: str) -> dict[str, Any]:
    return ask("GET", f"/flow_runs/{run_id}")


def deployments() -> list[dict[str, Any]]:
    """The deployments of this project on the server, each with its `flow/name` as `full_name`, by that name."""
    found = []
    for flow in FLOWS:
        body = {"flows": {"name": {"any_": [flow]}}, "limit": 50, "sort": "NAME_ASC"}
        found += [
            {**entry, "full_name": f"{flow}/{entry['name']}"} for entry in ask("POST", "/deployments/filter", body)
        ]
    return found


def pool_type(name: str) -> str:
    """The type of a work pool: process, kubernetes ... Raises BadInput when the server has none of this name."""
    found = ask("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": [name]}}})
    if not found:
        raise BadInput(
            "no such work pool", where=name, remedy="prefect work-pool create; docs/cluster.md has the commands"
        )
    return found[0]["type"]


def run_url(run_id: str) -> str:
    return f"{ui_url()}/runs/flow-run/{run_id}"


def ui_url() -> str:
    """Where the Prefect UI is, without a slash at the end."""
    api = os.environ.get("PREFECT_API_URL", "").rstrip("/").removesuffix("/api")
    return (os.environ.get("PREFECT_UI_URL") or api).rstrip("/")
