"""data clean: a component people use without a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.stack import JsonOption


def register(app: typer.Typer) -> None:
    data = typer.Typer(help="Work on data sets without a pipeline.", no_args_is_help=True)
    app.add_typer(data, name="data")

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
