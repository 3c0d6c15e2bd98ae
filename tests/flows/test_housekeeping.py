"""Crashed runs are found and marked, living ones left alone; the flow and the command do the same."""

from __future__ import annotations

import json
import os

import pytest

from components.lineage.tracker import Tracker
from flows import crashed, prefect_api
from tasks.parent_run import end_runs_of
from tests.flows.test_recipe_flow import wait_for

pytestmark = pytest.mark.server


def test_a_killed_run_is_marked_and_a_living_one_is_not(toys) -> None:
    toys.block("corpus")
    alive = toys.command("run", "smoke", "--only", "corpus", *toys.set_options())
    try:
        wait_for(lambda: toys.blocked("corpus"), 120, "the corpus stage")
        run = prefect_api.find_run(None)
        wait_for(lambda: crashed.PROCESS in prefect_api.get_run(run["id"])["labels"], 30, "the run's label")
        assert run["id"] not in [found.key for found in crashed.survey_runs(settled_s=0)]
        alive.kill()
        alive.communicate()
        assert prefect_api.get_run(run["id"])["state_type"] == "RUNNING", "nobody told Prefect"
        assert run["id"] not in [found.key for found in crashed.survey_runs()], "it may be about to be retried"
        found = [found for found in crashed.survey_runs(settled_s=0) if found.key == run["id"]]
        assert [(item.place, item.why) for item in found] == [(run["name"], "its process is gone")]
        assert [item.kept for item in crashed.mark(found)] == [""]
    finally:
        alive.kill()
        alive.communicate()
    marked = prefect_api.get_run(run["id"])
    assert marked["state_type"] == "CRASHED"
    assert f"ringflow rerun {run['name']}" in marked["state"]["message"]
    assert {task["state_type"] for task in prefect_api.task_runs(run["id"])} == {"CRASHED"}
    tracker = Tracker.open(experiment=toys.project)
    runs = tracker.client.search_runs([tracker.experiment_id])
    assert len(runs) == 2
    assert {run.info.status for run in runs} == {"KILLED"}


def test_a_stage_that_goes_on_without_its_run_keeps_its_mlflow_run(toys) -> None:
    tracker = Tracker.open(experiment=f"{toys.project}-jobs")
    flow = {"prefect.flow_run_id": "7d9f0c3e-dead"}
    pipeline = tracker.pipeline_run("gone", flow)
    stages = [tracker.stage_run(pipeline, name, name * 32, flow, {}) for name in ("a", "b")]
    assert end_runs_of(tracker.uri, flow["prefect.flow_run_id"], "gone", at_work={"b" * 32}) == 2
    ids = [pipeline, *(stage.run_id for stage in stages)]
    assert [tracker.client.get_run(run).info.status for run in ids] == ["KILLED", "KILLED", "RUNNING"]


def test_the_command_tells_what_it_would_remove(toys) -> None:
    done = toys.command("tidy", "--dry-run", "--json", TOY_DIR=os.environ["TOY_DIR"])
    printed, errors = done.communicate(timeout=200)
    assert done.returncode == 0, errors
    told = json.loads(printed)
    assert told["dry_run"] is True
    assert all(item.keys() == {"kind", "place", "why", "bytes", "kept"} for item in told["found"])
    assert told["message"]


def test_the_flow_leaves_a_table_and_a_message(toys) -> None:
    from flows.housekeeping_flow import housekeeping
    from flows.request import HousekeepingRequest

    state = housekeeping(HousekeepingRequest(dry_run=True), return_state=True)
    assert state.is_completed()
    run_id = str(state.state_details.flow_run_id)
    (table,) = prefect_api.ask("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
    assert table["key"] == "housekeeping"
    assert table["description"] == state.message
