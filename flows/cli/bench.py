"""bench and deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.stack import JsonOption


def register(app: typer.Typer) -> None:
    @app.command()
    def bench(
        name: Annotated[str | None, typer.Argument(help="Which benchmark; the list of names when absent.")] = None,
        steps: Annotated[int | None, typer.Option(help="Steps to measure, where a benchmark has them.")] = None,
        probe: Annotated[bool, typer.Option("--probe", help="icepop: zero learning rate, no drift.")] = False,
        option: Annotated[list[str] | None, typer.Option("--option", "-o", help="NAME=VALUE of the benchmark.")] = None,
        json_: JsonOption = False,
    ) -> None:
        """Measure one part on this machine."""
        from flows import bench as registry
        from flows.cli.output import print_json, print_pairs, print_table

        if name is None:
            print("\n".join(registry.names()))
            return
        registry.load(name)
        if name in ("store", "learning", "modes", "guard"):
            from flows.cli import stack

            stack.ensure()
        given = registry.options(name, option or [])
        measured = registry.measure(name, **({"steps": steps, "probe": probe or None} | given))
        if json_:
            print_json(measured)
            return
        rows = [
            [key, f"{f['value']:.4g}", f"{f['low']:.4g} to {f['high']:.4g}", f["unit"]]
            for key, f in measured["figures"].items()
        ]
        print_table([name, "median", "range", "unit"], rows, right=["median"])
        print()
        print_pairs(measured["setup"] | {"commit": measured["commit"]})

    @app.command()
    def deploy() -> None:
        """Register the deployments of prefect.yaml with the server, for the form in the UI and for schedules."""
        import subprocess
        import sys

        from components.failures import InfrastructureError
        from flows.cli import stack

        stack.ensure()
        prefect = Path(sys.executable).parent / "prefect"
        root = Path(__file__).resolve().parents[2]
        command = [str(prefect), "--no-prompt", "deploy", "--all"]
        done = subprocess.run(command, cwd=root, timeout=300, check=False)
        if done.returncode:
            raise InfrastructureError(f"`prefect deploy --all` ended with exit code {done.returncode}; see above")
