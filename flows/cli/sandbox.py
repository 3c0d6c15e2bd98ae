"""sandbox run, serve and languages: isolated execution without a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.stack import JsonOption

TierOption = Annotated[
    str, typer.Option("--tier", help="Weakest isolation allowed: strict, namespaces or rlimits (none, only limits).")
]


def register(app: typer.Typer) -> None:
    sandbox = typer.Typer(help="Run programs in isolation.", no_args_is_help=True)
    app.add_typer(sandbox, name="sandbox")

    @sandbox.command("run")
    def sandbox_run(
        file: Annotated[Path, typer.Argument(help="The program.")],
        language: Annotated[str, typer.Option("--language", "-l")],
        stdin: Annotated[Path | None, typer.Option("--stdin", help="File given as standard input.")] = None,
        tier: TierOption = "strict",
        json_: JsonOption = False,
    ) -> None:
        """Run one program in the sandbox and print what it said. Exit code 1 unless it ended well."""
        import sys
        from dataclasses import asdict

        from components.failures import BadInput
        from components.sandbox.run_file import run_file
        from flows.cli.output import print_json

        try:
            text = stdin.read_text() if stdin else ""
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read the input: {error}", where="--stdin") from error
        result = run_file(language, file, text, tier=_tier(tier))
        if json_:
            print_json(asdict(result))
        else:
            for case in result.tests:
                sys.stdout.write(case.stdout)
                sys.stderr.write(case.stderr)
            print(f"[{result.verdict}] {result.detail}".rstrip(), file=sys.stderr)
        if result.verdict != "accepted":
            raise typer.Exit(1)

    @sandbox.command()
    def serve(
        port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8080,
        workers: Annotated[int | None, typer.Option(help="Programs at one time; one per core when absent.")] = None,
        wait_s: Annotated[float, typer.Option("--wait", help="Seconds before a waiting request gets 504.")] = 60.0,
        library: Annotated[
            list[str] | None, typer.Option("--library", help="Package that programs may import; repeatable.")
        ] = None,
        tier: TierOption = "strict",
    ) -> None:
        """Answer SandboxFusion's POST /run_code on 127.0.0.1 until interrupted."""
        from components.cluster.connect import cores
        from components.sandbox import Sandbox
        from components.sandbox.service import serve as answer
        from components.telemetry.endpoint import metrics_served

        with metrics_served(), Sandbox(workers or cores(), _tier(tier), libraries=library or ()) as pool:
            answer(pool, port, wait_s=wait_s, announce=lambda line: print(line, flush=True))

    @sandbox.command()
    def languages(json_: JsonOption = False) -> None:
        """List the languages, which of them run here, and their versions."""
        from components.sandbox.service import languages as table
        from flows.cli.output import print_json, print_table

        rows = table()
        if json_:
            print_json(rows)
            return
        shown = [[row["language"], row["version"] or f"not here: {' '.join(row['packages'])}"] for row in rows]
        print_table(["language", "version"], shown)
        print(f"\n{sum(row['available'] for row in rows)} of {len(rows)} run here; `make languages` installs the rest")


def _tier(name: str):
    """A tier by its name. Raises BadInput that lists them."""
    from components.failures import BadInput
    from components.sandbox.types import TIERS

    if name not in TIERS:
        raise BadInput(f"no tier is called {name!r}", where="--tier", remedy=f"Tiers: {', '.join(TIERS)}")
    return name
