"""lineage and verify: where something came from, and whether its bytes are still those that were recorded."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.stack import JsonOption


class Format(StrEnum):
    text = "text"
    json = "json"
    mermaid = "mermaid"
    html = "html"


def register(app: typer.Typer) -> None:
    @app.command()
    def lineage(
        reference: Annotated[
            str, typer.Argument(metavar="REF", help="models:/name@alias, run id, artifact URI, score.")
        ],
        format_: Annotated[Format, typer.Option("--format", "-f")] = Format.text,
        out: Annotated[Path | None, typer.Option("--out", help="Write to this file instead of the terminal.")] = None,
        json_: JsonOption = False,
    ) -> None:
        """Print everything something was made from, down to every data shard."""
        from flows.cli import stack

        stack.ensure(start=False)
        from components.artifacts.store import Store
        from components.lineage import render
        from components.lineage.graph import lineage as trace
        from flows.references import find_artifact

        store = Store.open()
        graph = trace(store, find_artifact(reference, store))
        text = getattr(render, f"render_{'json' if json_ else format_.value}")(graph)
        if out is None:
            print(text)
        else:
            out.write_text(text, encoding="utf-8")
            print(out)

    @app.command()
    def verify(
        uri: Annotated[str, typer.Argument(help="URI of an artifact, or models:/name@alias.")],
        json_: JsonOption = False,
    ) -> None:
        """Hash an artifact again and compare with its manifest. Exit code 1 when anything differs."""
        from flows.cli import stack

        stack.ensure(start=False)
        from components.artifacts.store import Store
        from flows.cli.output import print_json
        from flows.references import find_artifact

        store = Store.open()
        report = store.verify(uri if "://" in uri else find_artifact(uri, store).uri)
        if json_:
            from dataclasses import asdict

            print_json(asdict(report) | {"ok": report.ok})
        else:
            for problem in report.problems:
                print(problem)
            verdict = "matches its manifest" if report.ok else f"{len(report.problems)} problems"
            print(f"{report.uri}: {report.files} files, {report.bytes:,} bytes, {verdict}")
        if not report.ok:
            raise typer.Exit(1)
