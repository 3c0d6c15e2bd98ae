"""runs, logs, cancel, rerun: what ran, what it said, stopping it, and going on where it failed."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from flows.cli.stack import JsonOption

RunArgument = Annotated[str | None, typer.Argument(help="Name or id of a run; the newest when absent.")]

# What is left of 80 columns beside the other four.
MESSAGE = 24


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
        found = prefect_api.recent_runs(limit, "FAILED" if failed else None)
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
                (run["start_time"] or "")[:19].replace("T", " "),
                seconds(run["total_run_time"]),
                _short((run.get("state") or {}).get("message") or ""),
            ]
            for run in found
        ]
        print_table(["run", "state", "started (UTC)", "time", "message"], rows, right=["time"])

    @app.command()
    def logs(run: RunArgument = None) -> None:
        """Print what a run logged."""
        from flows import prefect_api
        from flows.cli import stack

        stack.ensure(start=False)
        found = prefect_api.find_run(run)
        offset = 0
        while lines := prefect_api.logs(found["id"], offset):
            for line in lines:
                print(f"{line['timestamp'][11:19]} {line['name'].split('.')[-1]}: {line['message']}")
            offset += len(lines)

    @app.command()
    def cancel(run: RunArgument = None) -> None:
        """Stop a run within seconds; finished stages and resume points are kept."""
        from components.failures import BadInput
        from flows import prefect_api
        from flows.cli import stack

        stack.ensure(start=False)
        found = prefect_api.find_run(run)
        if found["state_type"] not in ("RUNNING", "PENDING", "SCHEDULED", "PAUSED", "CANCELLING"):
            raise BadInput(f"{found['name']} is not running: {found['state_name']}")
        prefect_api.cancel(found["id"])
        print(f"{found['name']} was asked to stop; go on later with: ringflow rerun {found['name']}")

    @app.command()
    def rerun(
        run: RunArgument = None,
        plan: Annotated[bool, typer.Option("--plan", help="Only show what would be done.")] = False,
        json_: JsonOption = False,
    ) -> None:
        """Run again what a run did, here: finished stages are reused, the failed one resumes."""
        began = time.monotonic()
        from flows.cli import stack
        from flows.cli.run import quiet_prefect, run_request

        home = stack.ensure()
        from flows import prefect_api
        from flows.request import RunRequest

        found = prefect_api.find_run(run)
        request = RunRequest.model_validate(found["parameters"]["request"])
        if request.force:
            request = request.model_copy(update={"repeat_of": request.repeat_of or found["id"]})
        graph, _ = request.load()
        if plan:
            from flows.plan import make_plan, print_plan

            url, again = os.environ["RINGFLOW_STORE"], request.repeat_of or None
            made = make_plan(graph, url, request.start_at or None, request.only, request.force, again)
            return print_plan(made, graph, json_, home)
        quiet_prefect(home)
        run_request(request, list(graph.nodes), began, json_)


def _short(message: str) -> str:
    """One line of a message; --json and the Prefect UI have all of it."""
    line = message.splitlines()[0] if message else ""
    return line if len(line) <= MESSAGE else line[: MESSAGE - 1] + "…"
