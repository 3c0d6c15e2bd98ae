"""lineage, explain, diff, impact, verify: what something was made from, what was made from it, and is it unchanged."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.stack import JsonOption

REFERENCE = "Registered model (name, name@alias, name:version), stage@fingerprint, stage, URI, file, run id or score."


class Format(StrEnum):
    text = "text"
    json = "json"
    mermaid = "mermaid"
    html = "html"


def register(app: typer.Typer) -> None:
    @app.command()
    def lineage(
        reference: Annotated[str, typer.Argument(metavar="REF", help=REFERENCE)],
        format_: Annotated[Format, typer.Option("--format", "-f")] = Format.text,
        out: Annotated[Path | None, typer.Option("--out", help="Write to this file instead of the terminal.")] = None,
        json_: JsonOption = False,
    ) -> None:
        """Print everything something was made from, down to every data shard."""
        store = _store()
        from components.lineage import page, render
        from components.lineage.graph import lineage as trace
        from flows.references import find_artifact

        form = "json" if json_ else format_.value
        graph = trace(store, find_artifact(reference, store))
        text = getattr(page if form == "html" else render, f"render_{form}")(graph)
        if out is None:
            print(text)
        else:
            out.write_text(text, encoding="utf-8")
            print(out)

    @app.command()
    def explain(
        score: Annotated[
            str, typer.Argument(metavar="SCORE", help="Such as evaluate-sft/nano-math; stage@fingerprint/..")
        ],
        answers: Annotated[int, typer.Option("--answers", "-n", min=0, help="How many answers to show.")] = 4,
        json_: JsonOption = False,
    ) -> None:
        """Explain one score: its answers and settings, the model, the data behind both."""
        store = _store()
        from components.evaluation import explain as explaining
        from components.lineage.references import score_of
        from flows.cli.output import print_json
        from flows.references import find_artifact

        ref = find_artifact(score, store)
        found = explaining.explain(store, ref, score_of(score, ref))
        if json_:
            print_json(explaining.to_json(found))
        else:
            print(explaining.render_text(found, answers), end="")

    @app.command()
    def diff(
        a: Annotated[str, typer.Argument(metavar="A", help=REFERENCE)],
        b: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
        json_: JsonOption = False,
    ) -> None:
        """Show what differs between the lineages of two models: values with origins, data, code, seeds."""
        store = _store()
        from components.lineage import diff as comparing
        from components.lineage.graph import lineage as trace
        from flows.cli.output import print_json
        from flows.references import find_artifact

        found = comparing.difference(*(trace(store, find_artifact(name, store)) for name in (a, b)))
        if json_:
            print_json(comparing.to_json(found))
        else:
            print(comparing.render_text(found), end="")

    @app.command()
    def impact(
        dataset: Annotated[
            str, typer.Argument(metavar="DATASET", help="A shard's sha256 or URI (* and ? match), or an artifact.")
        ],
        registry: Annotated[bool, typer.Option(help="Look up registered models too.")] = True,
        json_: JsonOption = False,
    ) -> None:
        """List every model and score that a data set touched."""
        store = _store()
        from components.lineage import impact as following
        from components.lineage.references import Catalog, resolve
        from flows.cli.output import print_json
        from flows.references import open_tracker

        catalog = Catalog(store)
        found = following.impact(
            dataset,
            catalog,
            lambda name: resolve(name, store, open_tracker, catalog),
            (lambda uris: open_tracker().versions_of(uris)) if registry else None,
        )
        if json_:
            print_json(following.to_json(found))
        else:
            print(following.render_text(found), end="")

    @app.command()
    def verify(
        uri: Annotated[str, typer.Argument(help="URI of an artifact, or any REF of `ringflow lineage`.")],
        json_: JsonOption = False,
    ) -> None:
        """Hash an artifact again and compare with its manifest. Exit code 1 when anything differs."""
        store = _store()
        from flows.cli.output import print_json
        from flows.references import find_artifact

        stored = "://" in uri and not uri.startswith("models:/")
        report = store.verify(uri if stored else find_artifact(uri, store).uri)
        if json_:
            from dataclasses import asdict

            print_json(asdict(report) | {"ok": report.ok})
        else:
            for problem in report.problems:
                print(problem)
            signed = f", signed by {report.signed_by}" if report.signed_by else ""
            verdict = f"matches its manifest{signed}" if report.ok else f"{len(report.problems)} problems"
            print(f"{report.uri}: {report.files} files, {report.bytes:,} bytes, {verdict}")
        if not report.ok:
            raise typer.Exit(1)


def _store():
    """The store of the running stack or of the environment."""
    from flows.cli import stack

    stack.ensure(start=False)
    from components.artifacts.store import Store

    return Store.open()
