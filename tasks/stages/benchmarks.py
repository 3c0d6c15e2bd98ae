"""Stage `benchmarks`: standard benchmarks from files or the hub as an artifact of their own.

Output: benchmarks/<name>.jsonl, files/<benchmark.file> (baseline answers, standings, criteria), sources.json.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.jsonl import write_records
from components.data.sources import SourceEntry, read_bytes, write_sources
from components.evaluation.benchmark import find
from components.evaluation.benchmark_data import read_benchmark
from components.evaluation.scores import FILES
from components.failures import BadInput
from components.recipe.evaluation import BenchmarksConfig
from tasks.stage import StageConfig


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Raises BadInput when a record is no item, or a file that a benchmark must have is not given."""
    section: BenchmarksConfig = config.section
    entries, counts = [], {}
    for position, wanted in enumerate(section.benchmarks):
        context.check()
        context.progress(position, len(section.benchmarks), wanted.name)
        benchmark = find(wanted.name)
        given = {file.file for file in section.files if file.benchmark == wanted.name}
        for name in benchmark.needs:
            if name not in given:
                raise BadInput(
                    f"{benchmark.title} needs its {name}",
                    where=f"benchmark {wanted.name}",
                    remedy=f"Give it: --file {wanted.name}.{name}=PATH",
                )
        for name in given - set(benchmark.files):
            raise BadInput(
                f"{benchmark.title} uses no file {name!r}",
                where=f"--file {wanted.name}.{name}",
                remedy=f"It can use: {', '.join(benchmark.files) or 'none'}",
            )
        data = read_benchmark(benchmark, wanted.uri)
        counts[wanted.name] = write_records(context.output / "benchmarks" / f"{wanted.name}.jsonl", data.items)
        if data.left_out:
            counts[f"{wanted.name} left out"] = data.left_out
        licence = data.licence or "none stated"
        entries += [SourceEntry(uri, digest, licence, items, wanted.name) for uri, digest, items in data.shards]
    for file in section.files:
        target = context.output / FILES / f"{file.benchmark}.{file.file}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read_bytes(file.uri))
    write_sources(context.output / "sources.json", entries)
    return StageResult(summary=counts)


def files_of(corpus: Path) -> dict[str, Path]:
    """`benchmark.file` -> path, of an artifact of this stage; none of a recipe's corpus."""
    return {path.name: path for path in sorted((corpus / FILES).glob("*"))}


def keep_files(files: Mapping[str, Path], output: Path) -> None:
    """Beside an evaluation, so that its metrics can be computed again from it alone."""
    for name, path in files.items():
        (output / FILES).mkdir(exist_ok=True)
        shutil.copyfile(path, output / FILES / name)
