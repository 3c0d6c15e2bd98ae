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
        corpus: Annotated[list[str], typer.Argument(help="Files to clean: .jsonl(.gz, .zst), .parquet, .csv, globs.")],
        benchmark: Annotated[list[str], typer.Option("--benchmark", help="Benchmark file; repeatable.")],
        out: Annotated[Path, typer.Option("--out", help="Directory for clean.jsonl, evidence.parquet, report.html.")],
        semantic: Annotated[bool, typer.Option(help="Also compare by meaning.")] = True,
        workers: Annotated[int, typer.Option(min=1, help="Processes; any number gives the same files.")] = 1,
        json_: JsonOption = False,
    ) -> None:
        """Remove records that also stand in a benchmark, with evidence. Exit code 3 if a critical gate fails."""
        from components.data.decontaminate import clean_files
        from components.recipe.data import DecontaminateConfig
        from flows.cli.output import print_json

        counts = clean_files(corpus, benchmark, out, DecontaminateConfig(semantic=semantic), workers)
        if json_:
            print_json(counts)
        else:
            _print_counts(counts, out)
        if any(gate["severity"] == "critical" for gate in counts["gates"]):
            raise typer.Exit(3)


def _print_counts(counts: dict, out: Path) -> None:
    from flows.cli.output import print_table

    columns = ["records", "kept", "removed", "review", "template", "malformed"]
    rows = [[Path(uri).name, *(f"{row[name]:,}" for name in columns)] for uri, row in counts["files"].items()]
    if len(rows) > 1:
        rows.append(["all", *(f"{counts[name]:,}" for name in columns)])
    print_table(["file", *columns], rows, right=columns)
    print()
    columns = ["items", "found", "removed", "review", "template"]
    rows = [
        [name, *(f"{row[key]:,}" for key in ("items", "hit_items", *columns[2:]))]
        for name, row in counts["benchmarks"].items()
    ]
    print_table(["benchmark", *columns], rows, right=columns)
    print()
    for gate in counts["gates"]:
        print(
            f"{gate['severity']}: {gate['file']}: {gate['meaning']} ({gate['observed']:.1%}, limit {gate['limit']:.0%})"
        )
    print(f"see {out / 'report.html'}")
