"""`ringflow plan` against what then happened, for every way to run again: real Prefect, worker, MLflow and S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import prefect_api
from flows.cli.app import app
from infra.stack.services import WORK_POOL
from tests.faults.mini import World, mini, wait_for
from tests.flows import toy

pytestmark = [pytest.mark.server, pytest.mark.timeout(580)]

ROOT = Path(__file__).parents[2]
NODES = ("corpus", "decontaminate", "base", "evaluate-base")
ENTRYPOINT = "tests/flows/toy_flow.py:mini"


@pytest.fixture
def world(toys, tmp_path, monkeypatch) -> World:
    monkeypatch.setenv("TOY_NODES", " ".join(NODES))
    monkeypatch.setattr("flows.recipe_flow.ring", mini)
    made = World(tmp_path)
    made.overrides += ["execution.retries=0"]
    return made


class Ways:
    """Every way to run; `plan` and `run` of one way take the same arguments."""

    def __init__(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self.world, self.capsys = world, capsys

    def command(self, *arguments: str) -> dict[str, Any]:
        """A `ringflow` command in this process; its JSON."""
        self.capsys.readouterr()
        assert app([*arguments, "--json"], standalone_mode=False) in (None, 0, 1)
        return json.loads(self.capsys.readouterr().out)

    def fresh(self, *more: str) -> tuple[list[str], list[str]]:
        options = [part for override in self.world.overrides for part in ("--set", override)]
        return ["plan", "smoke", *options, *more], ["run", "smoke", *options, *more]

    def again(self, run: str) -> tuple[list[str], list[str]]:
        return ["rerun", run, "--plan"], ["rerun", run]

    def compare(self, planned: dict[str, Any], action: Callable[[], Any]) -> list[tuple[str, str]]:
        """Does it, and asks that every stage did what was foretold. Returns [(verdict, reason)] of the nodes."""
        self.world.calls(forget=True)
        action()
        steps: dict[str, list[int]] = {node: [] for node in NODES}
        for call, times in self.world.calls(forget=True).items():
            assert times == 1
            steps[call.split()[0]].append(int(call.split()[1]))
        plan = {stage["stage"]: stage for stage in planned["stages"]}
        for node in NODES:
            verdict, reason = plan[node]["verdict"], plan[node]["reason"]
            first = {"HIT": None, "MISS": 1}.get(verdict, 0)
            if verdict == "RESUME":
                first = int(reason.split()[4].rstrip(";")) + 1
            ended = toy.TURN if (self.world.directory / f"fail-{node}").exists() else toy.STEPS
            expected = [] if first is None else list(range(first, ended + 1))
            assert sorted(steps[node]) == expected, (node, verdict, reason)
            if ended == toy.TURN:
                break
        return [(plan[node]["verdict"], plan[node]["reason"]) for node in NODES]

    def foretold(self, plan: list[str], run: list[str]) -> list[tuple[str, str]]:
        return self.compare(self.command(*plan), lambda: self.command(*run))


@pytest.fixture
def ways(world, capsys) -> Ways:
    return Ways(world, capsys)


def newest() -> str:
    return prefect_api.find_run(None)["name"]


def test_plan_foretells_fresh_runs_reruns_retries_changes_and_forced_stages(ways, world) -> None:
    failure = world.touch("fail-base", "Diverged")
    plan = ways.foretold(*ways.fresh())
    assert plan[0] == ("MISS", "never computed")
    assert plan[3] == ("MISS", "input model, corpus, contamination: computed after base, corpus, decontaminate")

    failure.unlink()
    name = newest()
    plan = ways.compare(ways.command(*ways.again(name)[0]), lambda: retry_by_command(name))
    assert [verdict for verdict, _ in plan] == ["HIT", "HIT", "RESUME", "MISS"]
    assert plan[2][1] == "goes on from step 2"
    assert plan[3] == ("MISS", "input model: computed after base")
    assert prefect_api.find_run(name)["state_type"] == "COMPLETED"

    assert {verdict for verdict, _ in ways.foretold(*ways.fresh())} == {"HIT"}
    assert {verdict for verdict, _ in ways.foretold(*ways.again(name))} == {"HIT"}

    plan = ways.foretold(*ways.fresh("--set", "base.steps=77"))
    assert [verdict for verdict, _ in plan] == ["HIT", "HIT", "MISS", "MISS"]
    assert plan[2][1] == "base.steps: 20 -> 77"

    plan = ways.foretold(*ways.fresh("--force", "decontaminate"))
    assert plan[1] == ("MISS", "forced")
    assert plan[2] == ("MISS", "input data: computed after decontaminate")
    plan = ways.foretold(*ways.again(newest()))
    assert {verdict for verdict, _ in plan} == {"HIT"}, "a rerun finds what the run forced"


def retry_by_command(name: str) -> None:
    """What docs/rerun.md says for a run that was started with `ringflow run`."""
    done = subprocess.run(
        [Path(sys.executable).parent / "prefect", "flow-run", "retry", name, "--entrypoint", ENTRYPOINT],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def deployment(world) -> Iterator[str]:
    """Id of a deployment of the toy flow, run by the stack's own worker."""
    flow = prefect_api.ask("POST", "/flows/", {"name": "ring"})["id"]
    environment = {name: os.environ[name] for name in ("TOY_DIR", "TOY_NODES")} | {"PYTHONPATH": str(ROOT)}
    body = {
        "name": f"toy-{uuid.uuid4().hex[:6]}",
        "flow_id": flow,
        "entrypoint": ENTRYPOINT,
        "work_pool_name": WORK_POOL,
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        "job_variables": {"env": environment},
        "enforce_parameter_schema": False,
    }
    made = prefect_api.ask("POST", "/deployments/", body)["id"]
    yield made
    prefect_api.ask("DELETE", f"/deployments/{made}")


def test_plan_foretells_a_retry_from_the_ui(ways, world, deployment) -> None:
    failure = world.touch("fail-base", "Diverged")
    lingering = world.touch("linger-base", "16")  # longer than the worker waits between two looks
    request = {"request": {"recipe": "smoke", "overrides": world.overrides}}
    body = {"parameters": request, "state": {"type": "SCHEDULED"}}
    run = prefect_api.ask("POST", f"/deployments/{deployment}/create_flow_run", body)
    ended(run["id"], "FAILED")
    name = prefect_api.get_run(run["id"])["name"]
    failure.unlink()
    lingering.unlink()

    def retry() -> None:
        # What the button sends, while the process of the failed run is still ending.
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        answer = prefect_api.ask("POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
        assert answer["status"] == "ACCEPT", answer
        ended(run["id"], "COMPLETED")

    plan = ways.compare(ways.command(*ways.again(run["id"])[0]), retry)
    assert [verdict for verdict, _ in plan] == ["HIT", "HIT", "RESUME", "MISS"]
    found = prefect_api.get_run(run["id"])
    assert found["name"] == name
    assert found["state"]["message"] == "2 computed, 2 reused"


def ended(run: str, state: str) -> None:
    """Waits for the run's end and asks for its state."""

    def final() -> bool:
        return prefect_api.find_run(run)["state_type"] in ("FAILED", "COMPLETED", "CRASHED", "CANCELLED")

    try:
        wait_for(final, 240, f"the end of {run}")
    except AssertionError as error:
        lines = [f"{line['timestamp']} {line['message']}" for line in prefect_api.logs(run, 0)]
        state = prefect_api.get_run(run)["state"]
        raise AssertionError(f"{error}: {state['name']}, {state['message']}\n" + "\n".join(lines[-60:])) from None
    found = prefect_api.find_run(run)
    assert found["state_type"] == state, found["state"]["message"]
