"""tidy: housekeeping by hand; the deployment `housekeeping` does the same on a clock."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows.cli.stack import JsonOption


def register(app: typer.Typer) -> None:
    @app.command()
    def tidy(
        dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show, remove nothing.")] = False,
        resume_days: Annotated[
            int, typer.Option(min=0, help="Remove resume points of unfinished stages after so many days; 0 never.")
        ] = 0,
        cache_days: Annotated[
            int, typer.Option(min=0, help="Remove local copies not used for so many days; 0 never.")
        ] = 30,
        upload_hours: Annotated[int, typer.Option(min=1, help="Give unfinished uploads up after so many hours.")] = 24,
        json_: JsonOption = False,
    ) -> None:
        """Remove what crashed and abandoned work left, and mark crashed runs. Safe beside running stages."""
        from dataclasses import asdict

        from flows.cli import stack
        from flows.cli.output import print_json, print_table
        from flows.tidy import tidy as clean

        home = stack.ensure(start=False)
        done = clean(
            home,
            dry_run=dry_run,
            resume_days=resume_days,
            cache_days=cache_days,
            upload_hours=upload_hours,
            report=lambda line: print(line, file=sys.stderr),
        )
        if json_:
            found = [{k: v for k, v in asdict(item).items() if k in SHOWN} for item in done.found]
            print_json({"dry_run": dry_run, "message": done.message(), "found": found})
            return
        rows = done.rows()
        if rows:
            print_table(["what", "result", "size", "why"], [list(row.values())[:4] for row in rows], right=["size"])
            print()
            for row in rows:
                print(f"{row['what']:<8} {row['where']}")
            print()
        print(done.message())


SHOWN = ("kind", "place", "why", "bytes", "kept")
