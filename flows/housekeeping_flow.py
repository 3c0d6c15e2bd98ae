"""The flow `housekeeping`: leftovers of crashed and abandoned work, removed on a clock. See flows.tidy."""

from __future__ import annotations

import json

from prefect import flow
from prefect.context import get_run_context
from prefect.states import Completed, State

from flows.crashed import Heartbeat
from flows.execute import home_directory
from flows.naming import run_name
from flows.prefect_api import ask
from flows.request import HousekeepingRequest
from flows.tidy import tidy


@flow(name="housekeeping", flow_run_name=run_name)
def housekeeping(request: HousekeepingRequest) -> State:
    """Removes what nobody needs: expired leases, abandoned attempts, stale uploads, old copies; marks crashed runs.

    Beside running stages it is safe: what they work on is left alone.
    """
    run_id = str(get_run_context().flow_run.id)
    with Heartbeat(run_id):
        done = tidy(home_directory(), **request.model_dump())
    table = {
        "key": "housekeeping",
        "type": "table",
        "data": json.dumps(done.rows() or [{"what": done.message()}]),
        "description": done.message(),
        "flow_run_id": run_id,
    }
    ask("POST", "/artifacts/", table)
    return Completed(message=done.message())
