"""up, down, status: the embedded stack; and `ensure`, with which other commands get their servers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def home_directory() -> Path:
    from infra.stack.home import home_directory

    return home_directory()


def ensure(start: bool = True) -> Path:
    """Puts the endpoints into this process's environment and returns the home; starts the local stack if need be.

    Raises:
        InfrastructureError: with start=False, when the local stack is down; says how to start it.
    """
    from components.failures import InfrastructureError

    home = home_directory()
    if start:
        from infra.stack.supervisor import up

        os.environ.update(up(home, report=lambda line: print(line, file=sys.stderr)).environment)
    elif not is_up(home):
        raise InfrastructureError(f"the local stack in {home} is down. Start it with `ringflow up`")
    else:
        from infra.stack.profile import environment

        os.environ.update(environment(home))
    os.environ.setdefault("RINGFLOW_HOME", str(home))
    return home


def is_up(home: Path) -> bool:
    """Whether the servers that hold results and runs answer (Ray is needed only to compute)."""
    from infra.stack.supervisor import status

    return all(service.state == "healthy" for service in status(home) if service.name not in ("ray", "jobs"))


def register(app: typer.Typer) -> None:
    @app.command()
    def up(
        jobs: Annotated[
            bool | None,
            typer.Option("--jobs/--no-jobs", help="Also Ray's Jobs API, for `execution.cluster.stages: job`."),
        ] = None,
        json_: JsonOption = False,
    ) -> None:
        """Start Prefect, MLflow, S3 and Ray on this machine. Safe to call twice."""
        from infra.stack.supervisor import up as start

        state = start(home_directory(), jobs=jobs, report=lambda line: print(line, file=sys.stderr))
        for note in state.notes:
            print(note, file=sys.stderr)
        _show(state.home, state.services, json_)

    @app.command()
    def down(json_: JsonOption = False) -> None:
        """Stop what `up` started, and nothing else."""
        from flows.cli.output import print_json
        from infra.stack.supervisor import down as stop

        ended = stop(home_directory())
        if json_:
            print_json({"ended": ended})
        else:
            print(f"ended {len(ended)} processes" if ended else "nothing was running")

    @app.command()
    def status(json_: JsonOption = False) -> None:
        """Show which servers run, and where. Exit code 1 when one is down."""
        from infra.stack.supervisor import status as probe

        home = home_directory()
        services = probe(home)
        _show(home, services, json_)
        if any(service.state != "healthy" for service in services):
            raise typer.Exit(1)


def _show(home: Path, services: list, json_: bool) -> None:
    from flows.cli.output import print_json, print_table

    if json_:
        print_json({"home": str(home), "services": [service.as_json() for service in services]})
        return
    print(f"home  {home}")
    rows = [[s.name, s.state, s.url, s.pid or "", s.detail.splitlines()[0] if s.detail else ""] for s in services]
    print_table(["service", "state", "url", "pid", "detail"], rows, right=["pid"])
