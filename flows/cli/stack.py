"""up, down, status: the embedded stack; and `ensure`, with which other commands get their servers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

# All of them set: someone else runs the servers, and ringflow starts none (the cluster profile).
ENDPOINTS = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RINGFLOW_STORE")


def home_directory() -> Path:
    from infra.stack import home_directory

    return Path(home_directory())


def cluster_profile() -> bool:
    return all(os.environ.get(name) for name in ENDPOINTS)


def ensure(start: bool = True) -> Path:
    """Puts the endpoints into this process's environment, starting the local stack if need be; returns the home.

    With start=False a stack that is down is a BadInput that says how to start it.
    """
    home = home_directory()
    if cluster_profile():
        return home
    from infra import stack

    if start:
        stack.up(home)
    else:
        require_up(home)
    os.environ.update(stack.environment(home))
    return home


def require_up(home: Path) -> None:
    from components.failures import InfrastructureError

    if not is_up(home):
        raise InfrastructureError(f"the local stack in {home} is down. Start it with `ringflow up`")


def is_up(home: Path) -> bool:
    """Whether every server of the local stack answers; in the cluster profile the endpoints are taken as given."""
    if cluster_profile():
        return True
    from infra import stack

    services = stack.status(home)
    return bool(services) and all(_healthy(service) for service in services.values())


def _healthy(service) -> bool:
    value = service.get("healthy") if isinstance(service, dict) else getattr(service, "healthy", None)
    return bool(value)


def register(app: typer.Typer) -> None:
    @app.command()
    def up(json_: JsonOption = False) -> None:
        """Start Prefect, MLflow, S3 and Ray on this machine. Safe to call twice."""
        from infra import stack

        home = home_directory()
        stack.up(home)
        _show(home, json_)

    @app.command()
    def down() -> None:
        """Stop what `up` started, and nothing else."""
        from infra import stack

        stack.down(home_directory())

    @app.command()
    def status(json_: JsonOption = False) -> None:
        """Show which servers run, and where. Exit code 1 when one is down."""
        home = home_directory()
        _show(home, json_)
        if not is_up(home):
            raise typer.Exit(1)


def _show(home: Path, json_: bool) -> None:
    from flows.cli.output import print_json, print_table
    from infra import stack

    services = {name: _row(service) for name, service in stack.status(home).items()}
    if json_:
        print_json({"home": str(home), "services": services})
        return
    print(f"home  {home}")
    print_table(
        ["service", "state", "url", "pid"],
        [
            [name, "up" if row.get("healthy") else "down", row.get("url", ""), row.get("pid", "")]
            for name, row in services.items()
        ],
    )


def _row(service) -> dict:
    from dataclasses import asdict, is_dataclass

    return asdict(service) if is_dataclass(service) else dict(service)
