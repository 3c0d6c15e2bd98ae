"""Stage `decontaminate`: the corpus without what resembles a benchmark item, and the evidence for every removal.

Output: data/<split>.jsonl (kept records, unchanged, in order), benchmarks/<name>.jsonl and sources.json (as in the
corpus), evidence.parquet, report.html, decontamination.json (counts, index fingerprint, and under `flagged` the
benchmark items that stand in the corpus: evaluation scores with and without them).

Records stream through in batches, so memory does not grow with the corpus.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.decontaminate import (
    Evidence,
    EvidenceFile,
    Examples,
    Run,
    flagged_items,
    index_fingerprint,
    write_report,
)
from components.data.decontaminate.detector import Detector
from components.data.decontaminate.engine import BATCH, build_items, fields
from components.data.dedup import prompt_keys
from components.data.jsonl import SPLITS, read_benchmarks, read_records
from components.data.schema import BenchmarkItem, Record
from components.failures import BadInput, IntegrityError
from components.recipe.data import DecontaminateConfig
from tasks.stage import StageConfig

# Losing more of a split than this says the corpus is the benchmark, or the thresholds are wrong: a person must look.
MAX_REMOVED_FRACTION = 0.5


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Raises BadInput when a split loses more than half, IntegrityError when a benchmark question is still inside."""
    section: DecontaminateConfig = config.section
    corpus = context.fetch(inputs["corpus"])
    benchmarks = read_benchmarks(corpus)
    items = sum(map(len, benchmarks.values()))
    splits = [split for split in SPLITS if (corpus / "data" / f"{split}.jsonl").is_file()]
    context.progress(0, len(splits) + 1, f"{items} benchmark items")
    evidence, examples, findings = EvidenceFile(context.output / "evidence.parquet"), Examples(), []

    def sink(finding: Evidence) -> None:
        evidence.write(finding)
        examples.add(finding)
        findings.append((finding.benchmark, finding.benchmark_item, finding.level, finding.decision))

    run = Run(Detector(build_items(benchmarks), section), sink)
    questions = {key for rows in benchmarks.values() for key in prompt_keys(rows)}
    for position, split in enumerate(splits):
        context.check()
        context.progress(position, len(splits) + 1, split)
        _clean(corpus, context, run, split, questions)
    evidence.close()
    for path in [*sorted((corpus / "benchmarks").glob("*.jsonl")), corpus / "sources.json"]:
        target = context.output / path.relative_to(corpus)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    counts = run.counts({name: len(rows) for name, rows in benchmarks.items()})
    fingerprint = index_fingerprint(benchmarks, section)
    write_report(context.output / "report.html", counts, examples, fingerprint, section)
    content = {"index_fingerprint": fingerprint, "counts": counts, "flagged": flagged_items(findings)}
    (context.output / "decontamination.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    for name in ("report.html", "evidence.parquet", "decontamination.json"):
        context.attach(context.output / name, f"decontamination/{name}")
    _gate(counts, splits)
    totals = {key: sum(counts[split][key] for split in splits) for key in ("removed", "review", "template")}
    kept = {split: counts[split]["kept"] for split in splits}
    context.progress(len(splits) + 1, len(splits) + 1, f"{sum(kept.values())} records kept")
    return StageResult(
        summary={
            **kept,
            **totals,
            "benchmark_items": items,
            "flagged_items": sum(map(len, content["flagged"].values())),
            "index_fingerprint": fingerprint,
        }
    )


def _clean(corpus: Path, context: StageContext, run: Run, split: str, questions: set[str]) -> None:
    """Writes the kept records of one split."""
    run.begin(split)
    target = context.output / "data" / f"{split}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8") as stream:
        for batch in _batches(read_records(corpus / "data" / f"{split}.jsonl", SPLITS[split])):
            ids = [record.id for record in batch]
            dropped = run.absorb(split, ids, run.detector.search(split, ids, [fields(record) for record in batch]))
            kept = [record for row, record in enumerate(batch) if row not in dropped]
            if split != "pretrain":
                _check(kept, questions)
            stream.writelines(f"{record.model_dump_json()}\n" for record in kept)


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(islice(records, BATCH)):
        yield batch


def _check(kept: list[Record] | list[BenchmarkItem], questions: set[str]) -> None:
    """The levels are clever, so the plain question is asked again: no benchmark question among what is kept."""
    for record, key in zip(kept, prompt_keys(kept), strict=True):
        if key in questions:
            raise IntegrityError(f"a benchmark question survived decontamination: {record.id} from {record.source}")


def _gate(counts: Mapping[str, dict], splits: list[str]) -> None:
    for split in splits:
        removed, records = counts[split]["removed"], counts[split]["records"]
        if removed > MAX_REMOVED_FRACTION * records:
            raise BadInput(
                f"{removed} of {records} records of split {split} resemble a benchmark item",
                where="decontaminate",
                remedy="Read decontamination/report.html; train on another corpus or raise the thresholds",
            )
