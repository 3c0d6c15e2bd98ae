"""runs, logs, cancel, rerun: what ran, what it said, stopping it, and going on where it failed."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime
from typing import Annotated, Any

import typer

from flows.cli.stack import JsonOption

RunArgument = Annotated[str | None, typer.Argument(help="Name or id of a run; the newest when absent.")]

WIDTH = 80
LEAST_MESSAGE = 16
LIVE = ("RUNNING", "PENDING", "SCHEDULED", "PAUSED", "CANCELLING")
LOOK_EVERY_S = 1.0
# The watcher of a run looks every few seconds, stages have a grace, then learners and engines are ended.
CANCEL_DEADLINE_S = 90.0
LEVELS = {30: "warning: ", 40: "error: ", 50: "critical: "}


def register(app: typer.Typer) -> None:
    @app.command()
    def runs(
        limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200)] = 20,
        failed: Annotated[bool, typer.Option("--failed", help="Only runs that failed.")] = False,
        json_: JsonOption = False,
    ) -> None:
        """List runs, newest first."""
        from flows import prefect_api
        from flows.cli import stack
        from flows.cli.output import print_json, print_table, seconds

        stack.ensure(start=False)
        found = prefect_api.recent_runs(limit, ("FAILED", "CRASHED") if failed else ())
        if json_:
            print_json(
                [
                    {
                        "run": run["name"],
                        "id": run["id"],
                        "state": run["state_name"],
                        "message": (run.get("state") or {}).get("message"),
                        "started": run["start_time"],
                        "seconds": run["total_run_time"],
                        "parameters": run["parameters"],
                        "url": prefect_api.run_url(run["id"]),
                    }
                    for run in found
                ]
            )
            return
        rows = [
            [
                run["name"],
                run["state_name"],
                _clock(run["start_time"]),
                seconds(run["estimated_run_time"]),
                _message(run),
            ]
            for run in found
        ]
        left = _room(rows)
        rows = [[*row[:-1], _short(row[-1], left)] for row in rows]
        print_table(["run", "state", "started", "time", "message"], rows, right=["time"])

    @app.command()
    def logs(
        run: RunArgument = None,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    ) -> None:
        """Print what a run logged. With --follow the exit code tells how the run ended, as for `run`."""
        from flows import prefect_api
        from flows.cli import stack

        stack.ensure(start=False)
        found = prefect_api.find_run(run)
        offset, stages = 0, dict[str, str]()
        while True:
            state = prefect_api.get_run(found["id"]) if follow else found
            while lines := prefect_api.logs(found["id"], offset):
                if any(line["task_run_id"] and line["task_run_id"] not in stages for line in lines):
                    stages |= {task["id"]: task["name"] for task in prefect_api.task_runs(found["id"])}
                for line in lines:
                    said_by = stages.get(line["task_run_id"], "") or "run"
                    print(f"{_time(line['timestamp'])} {said_by}: {LEVELS.get(line['level'], '')}{line['message']}")
                offset += len(lines)
            sys.stdout.flush()
            if not follow:
                return
            if state["state_type"] not in LIVE:
                break
            time.sleep(LOOK_EVERY_S)
        print(f"{state['name']} {state['state_name'].lower()}: {_message(state)}", file=sys.stderr)
        if state["state_type"] != "COMPLETED":
            raise typer.Exit(130 if state["state_type"] == "CANCELLED" else 1)

    @app.command()
    def cancel(
        run: RunArgument = None,
        wait: Annotated[bool, typer.Option(help="Wait until it has stopped.")] = True,
    ) -> None:
        """Stop a run within seconds, or take it out of the queue; finished stages and resume points are kept.

        Of a run whose process died: stops the job of its stage that goes on.
        """
        began = time.monotonic()
        from components.failures import BadInput, DeadlineExceeded
        from flows import crashed, orphans, prefect_api
        from flows.cli import stack

        stack.ensure(start=False)
        found = prefect_api.find_run(run)
        go_on = f"go on later with: ringflow rerun {found['name']}"
        if found["state_type"] not in LIVE or crashed.died(found):
            if found["state_type"] == "COMPLETED" or not (done := orphans.end(found)):
                raise BadInput(f"{found['name']} is not running: {found['state_name']}")
            print(f"{found['name']}: {done}; {go_on}")
            return
        prefect_api.cancel(found["id"])
        if not wait:
            print(f"{found['name']} was asked to stop; {go_on}")
            return
        while (state := prefect_api.get_run(found["id"]))["state_type"] in LIVE:
            if time.monotonic() - began > CANCEL_DEADLINE_S:
                raise DeadlineExceeded(
                    f"{found['name']} is still {state['state_name']}, {CANCEL_DEADLINE_S:g} s after it was asked to "
                    "stop. If its process is gone, `ringflow tidy` marks it"
                )
            time.sleep(0.5)
        print(f"{found['name']} {state['state_name'].lower()} after {time.monotonic() - began:.0f} s; {go_on}")

    @app.command()
    def rerun(
        run: RunArgument = None,
        plan: Annotated[bool, typer.Option("--plan", help="Only show what would be done.")] = False,
        json_: JsonOption = False,
    ) -> None:
        """Run again what a run did, here: finished stages are reused, the failed one resumes."""
        from flows.cli import stack
        from flows.cli.run import quiet_prefect, run_request

        home = stack.ensure()
        from flows import prefect_api
        from flows.again import request_of

        flow, request = request_of(prefect_api.find_run(run))
        graph, _ = request.load()
        if flow == "ring":
            graph = graph.part(request.choice(graph)[0])
        if plan:
            return _plan_again(flow, request, graph, json_, home)
        quiet_prefect(home)
        run_request(flow, request, list(graph.nodes), json_)


def _plan_again(flow: str, request: Any, graph: Any, json_: bool, home: Any) -> None:
    """What the rerun would do. An evaluation's model is looked up by its flow, so there is nothing to plan with."""
    from components.failures import BadInput
    from flows.plan import make_plan, print_plan

    if flow not in ("ring", "stage", "refresh"):
        raise BadInput("an evaluation has no plan", remedy="Run it again: a known result is reused")
    allowed, forced = request.choice(graph) if flow != "refresh" else (graph.nodes, ())
    again = getattr(request, "repeat_of", "") or None
    print_plan(make_plan(graph, os.environ["RINGFLOW_STORE"], None, allowed, forced, again), graph, json_, home)


def _message(run: dict[str, Any]) -> str:
    return (run.get("state") or {}).get("message") or ""


def _clock(stamp: str | None) -> str:
    """Local time, `11-24 23:05`."""
    return datetime.fromisoformat(stamp).astimezone().strftime("%m-%d %H:%M") if stamp else ""


def _time(stamp: str) -> str:
    return datetime.fromisoformat(stamp).astimezone().strftime("%H:%M:%S")


def _room(rows: list[list[str]]) -> int:
    """Columns left for the message, at the width of the terminal."""
    from shutil import get_terminal_size

    headings = ("run", "state", "started", "time")
    used = sum(max([len(name), *(len(row[i]) for row in rows)]) + 2 for i, name in enumerate(headings))
    return max(get_terminal_size((WIDTH, 24)).columns - used, LEAST_MESSAGE)


def _short(message: str, room: int) -> str:
    """One line of a message; --json and the Prefect UI have all of it."""
    line = message.splitlines()[0] if message else ""
    return line if len(line) <= room else line[: room - 1] + "…"
