"""bench: figures measured on this machine."""

from __future__ import annotations

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
        if name in ("store", "learning", "modes", "guard", "pairwise"):
            from flows.cli import stack

            stack.ensure()  # before the benchmark's imports: Prefect reads its settings then
        registry.load(name)
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
        checks = measured["checks"]
        if checks:
            print()
            rows = [
                [
                    key,
                    f"{c['found']:.3g} {c['unit']}",
                    f"{c['allowed']:.3g}",
                    "ok" if c["passed"] else "FAILED",
                    c["why"],
                ]
                for key, c in checks.items()
            ]
            print_table(["check", "found", "allowed", "", ""], rows, right=["found", "allowed"])
        print()
        print_pairs(measured["setup"] | {"commit": measured["commit"]})
        if not all(check["passed"] for check in checks.values()):
            raise typer.Exit(1)
