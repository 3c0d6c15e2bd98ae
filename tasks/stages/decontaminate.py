"""Stage `decontaminate`: the corpus without what resembles a benchmark item, and the evidence for every removal.

Output: data/<split>.jsonl (kept records, unchanged, in order), benchmarks/<name>.jsonl and sources.json (as in the
corpus), evidence.parquet, report.html, decontamination.json (counts and index fingerprint).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.decontaminate import DecontaminationResult, decontaminate, write_evidence, write_report
from components.data.dedup import check_disjoint
from components.data.jsonl import read_benchmarks, read_corpus, write_corpus
from components.failures import BadInput, IntegrityError
from components.recipe.data import DecontaminateConfig
from tasks.stage import StageConfig

# Losing more of a split than this says the corpus is the benchmark, or the thresholds are wrong: a person must look.
MAX_REMOVED_FRACTION = 0.5


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Raises BadInput when a split loses more than half, IntegrityError when a benchmark question is still inside."""
    section: DecontaminateConfig = config.section
    corpus = context.fetch(inputs["corpus"])
    data, benchmarks = read_corpus(corpus), read_benchmarks(corpus)
    context.progress(0, 2, f"{sum(map(len, data.values()))} records against {sum(map(len, benchmarks.values()))} items")
    result = decontaminate(data, benchmarks, section)
    context.check()
    context.progress(1, 2, f"{len(result.removed)} findings")
    _write(context, result, benchmarks, section)
    shutil.copyfile(corpus / "sources.json", context.output / "sources.json")
    _gate(result, data, benchmarks)
    context.progress(2, 2, f"{sum(map(len, result.kept.values()))} records kept")
    totals = {key: sum(result.counts[split][key] for split in data) for key in ("removed", "review", "template")}
    return StageResult(
        summary={
            **{split: len(rows) for split, rows in result.kept.items()},
            **totals,
            "benchmark_items": sum(map(len, benchmarks.values())),
            "index_fingerprint": result.fingerprint,
        }
    )


def _write(context: StageContext, result: DecontaminationResult, benchmarks, section: DecontaminateConfig) -> None:
    write_corpus(context.output, result.kept, benchmarks)
    write_evidence(context.output / "evidence.parquet", result.findings)
    write_report(context.output / "report.html", result, section)
    (context.output / "decontamination.json").write_text(
        json.dumps({"index_fingerprint": result.fingerprint, "counts": result.counts}, indent=1, sort_keys=True) + "\n"
    )
    for name in ("report.html", "evidence.parquet", "decontamination.json"):
        context.attach(context.output / name, f"decontamination/{name}")


def _gate(result: DecontaminationResult, data, benchmarks) -> None:
    for split, rows in data.items():
        removed = len(rows) - len(result.kept[split])
        if removed > MAX_REMOVED_FRACTION * len(rows):
            raise BadInput(
                f"{removed} of {len(rows)} records of split {split} resemble a benchmark item",
                where="decontaminate",
                remedy="Read decontamination/report.html; train on another corpus or raise the thresholds",
            )
    left = [
        overlap for overlap in check_disjoint(result.kept, benchmarks) if overlap.other_split.startswith("benchmark:")
    ]
    if left:
        raise IntegrityError(f"{len(left)} benchmark questions survived decontamination, first: {left[0]}")
