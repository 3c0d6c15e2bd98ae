"""deploy: the deployments of prefect.yaml on the server, for the form in the UI and for schedules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.stack import JsonOption

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 300


def register(app: typer.Typer) -> None:
    @app.command()
    def deploy(
        pool: Annotated[
            str, typer.Option(help="The work pool of all of them, in the place of the one in prefect.yaml.")
        ] = "",
        json_: JsonOption = False,
    ) -> None:
        """Register the deployments of prefect.yaml, for the form in the Prefect UI and for schedules.

        Each gets the job variables that the cluster section of its recipe says.
        """
        from flows import prefect_api
        from flows.cli import stack
        from flows.cli.output import print_json, print_table

        stack.ensure()
        _prefect_deploy()
        found = [_shown(_with_variables(entry, pool)) for entry in prefect_api.deployments()]
        if json_:
            print_json(found)
            return
        print_table(["deployment", "clock"], [[entry["deployment"], entry["clock"]] for entry in found])
        print()
        for entry in found:
            print(f"{entry['deployment']:<26} {entry['form']}")


def _prefect_deploy() -> None:
    """`prefect deploy --all`. Raises InfrastructureError with what it printed when it fails."""
    from components.failures import DeadlineExceeded, InfrastructureError

    command = [str(Path(sys.executable).parent / "prefect"), "--no-prompt", "deploy", "--all"]
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=DEADLINE_S, check=False, capture_output=True, text=True)
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"`prefect deploy --all` took longer than {DEADLINE_S} s") from error
    if done.returncode:
        raise InfrastructureError(
            f"`prefect deploy --all` ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}"
        )


def _with_variables(deployment: dict[str, Any], pool: str) -> dict[str, Any]:
    """The deployment, with the pool that is wanted and its job variables, on the server too."""
    from flows import prefect_api
    from flows.job_variables import of_deployment

    pool = pool or deployment["work_pool_name"]
    variables = of_deployment(deployment, prefect_api.pool_type(pool))
    changed = {
        name: value
        for name, value in (("work_pool_name", pool), ("job_variables", variables))
        if value != (deployment.get(name) or {})
    }
    if changed:
        prefect_api.ask("PATCH", f"/deployments/{deployment['id']}", changed)
    return {**deployment, **changed}


def _shown(deployment: dict[str, Any]) -> dict[str, Any]:
    from flows.prefect_api import ui_url

    clocks = [
        f"{entry['schedule'].get('cron') or 'own schedule'}, {'on' if entry['active'] else 'off'}"
        for entry in deployment["schedules"]
    ]
    return {
        "deployment": deployment["full_name"],
        "clock": "; ".join(clocks) or "-",
        "pool": deployment["work_pool_name"],
        "job_variables": deployment.get("job_variables") or {},
        "form": f"{ui_url()}/deployments/deployment/{deployment['id']}/run",
    }
