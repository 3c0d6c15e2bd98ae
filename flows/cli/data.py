"""data clean and sandbox run: two components people use without a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.stack import JsonOption


def register(app: typer.Typer) -> None:
    data = typer.Typer(help="Work on data sets without a pipeline.", no_args_is_help=True)
    sandbox = typer.Typer(help="Run programs in isolation.", no_args_is_help=True)
    app.add_typer(data, name="data")
    app.add_typer(sandbox, name="sandbox")

    @data.command()
    def clean(
        corpus: Annotated[list[str], typer.Argument(help="Files to clean: .jsonl, .jsonl.gz, .parquet, globs.")],
        benchmark: Annotated[list[str], typer.Option("--benchmark", help="Benchmark file; repeatable.")],
        out: Annotated[Path, typer.Option("--out", help="Directory for clean.jsonl, evidence.parquet, report.html.")],
        semantic: Annotated[bool, typer.Option(help="Also compare by meaning.")] = True,
        json_: JsonOption = False,
    ) -> None:
        """Remove records that also stand in a benchmark, with evidence for each."""
        from components.data.decontaminate import clean_files
        from components.recipe.data import DecontaminateConfig
        from flows.cli.output import print_json, print_pairs

        counts = clean_files(corpus, benchmark, out, DecontaminateConfig(semantic=semantic))
        if json_:
            print_json(counts)
            return
        print_pairs({name: value for name, value in counts.items() if not isinstance(value, dict)})
        print(f"see {out / 'report.html'}")

    @sandbox.command("run")
    def sandbox_run(
        file: Annotated[Path, typer.Argument(help="The program.")],
        language: Annotated[str, typer.Option("--language", "-l")],
        stdin: Annotated[Path | None, typer.Option("--stdin", help="File given as standard input.")] = None,
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
        result = run_file(language, file, text)
        if json_:
            print_json(asdict(result))
        else:
            for case in result.tests:
                sys.stdout.write(case.stdout)
                sys.stderr.write(case.stderr)
            print(f"[{result.verdict}] {result.detail}".rstrip(), file=sys.stderr)
        if result.verdict != "accepted":
            raise typer.Exit(1)
