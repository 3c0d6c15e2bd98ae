"""Stage `corpus`: sources -> records of schema.py, gated by Great Expectations.

Output: data/<split>.jsonl, benchmarks/<name>.jsonl, sources.json (the data shards lineage shows), quarantine.jsonl
(malformed records, never dropped silently), gates/ (Data Docs and results.json).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from components.artifacts.context import StageContext, StageResult
from components.artifacts.digest import bytes_sha256
from components.artifacts.ref import ArtifactRef
from components.data.dedup import check_disjoint
from components.data.gates import GateReport, run_gates, suite
from components.data.jsonl import SPLITS, write_corpus
from components.data.schema import BenchmarkItem, Record
from components.data.sources import (
    Quarantined,
    SourceEntry,
    ingest,
    write_quarantine,
    write_sources,
)
from components.data.statistics import columns
from components.failures import BadInput
from components.recipe.data import CorpusConfig, FileSource, GeneratorSource
from tasks.stage import StageConfig

HELDOUT_FRACTION = 0.1


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Raises BadInput when a source cannot be read, names an unknown layout, or a critical gate fails."""
    section: CorpusConfig = config.section
    data: dict[str, list[Record]] = {split: [] for split in SPLITS}
    benchmarks: dict[str, list[BenchmarkItem]] = {}
    sources: list[SourceEntry] = []
    quarantine: list[Quarantined] = []
    total = len(section.sources) + len(section.benchmarks) + 1
    for position, source in enumerate((*section.sources, *section.benchmarks)):
        context.check()
        context.progress(position, total, "generator" if isinstance(source, GeneratorSource) else source.uri)
        if isinstance(source, GeneratorSource):
            _generate(source, context.seed, data, benchmarks, sources)
            continue
        ingested = ingest(source)
        sources += ingested.sources
        quarantine += ingested.quarantine
        if isinstance(source, FileSource):
            data[source.split] += ingested.records
        elif source.name in benchmarks:
            raise BadInput(f"two benchmarks are named {source.name}", where="corpus.benchmarks", remedy="Rename one")
        else:
            benchmarks[source.name] = ingested.records
    _hold_out(data)
    context.check()
    context.progress(total - 1, total, "gates")
    report = _gate(context, section, config, data, benchmarks, sources)
    counts = write_corpus(context.output, data, benchmarks)
    write_sources(context.output / "sources.json", sources)
    write_quarantine(context.output / "quarantine.jsonl", quarantine)
    context.progress(total, total, f"{sum(map(len, data.values()))} records")
    return StageResult(
        summary={
            **counts,
            "sources": len(sources),
            "quarantined": len(quarantine),
            "expectations": report.evaluated,
            "warnings": len(report.warnings),
        }
    )


def _generate(source: GeneratorSource, seed: int, data, benchmarks, sources: list[SourceEntry]) -> None:
    """Adds the generator's splits; its entry in sources.json is digested over everything it made."""
    from components.data.generator import generate

    made = generate(source, seed)
    uri = f"generator:nano?seed={seed}"
    for split in SPLITS:
        rows = getattr(made, split)
        data[split] += rows
        sources.append(_generated_entry(uri, rows, split))
    for name, items in made.benchmarks.items():
        benchmarks[name] = [*benchmarks.get(name, []), *items]
        sources.append(_generated_entry(uri, items, name))


def _generated_entry(uri: str, rows: list, split: str) -> SourceEntry:
    content = "".join(f"{row.model_dump_json()}\n" for row in rows).encode("utf-8", "surrogatepass")
    licences = "; ".join(sorted({row.licence for row in rows})) or "none stated"
    return SourceEntry(f"{uri}&split={split}", bytes_sha256(content), licences, len(rows), split)


def _hold_out(data: dict[str, list[Record]]) -> None:
    """Preference files bring no held-out part: the pairs with the smallest ids become one, in any order of reading."""
    pairs = data["preference"]
    if data["preference_heldout"] or len(pairs) < 2:
        return
    held = {
        record.id
        for record in sorted(pairs, key=lambda record: record.id)[: max(1, int(len(pairs) * HELDOUT_FRACTION))]
    }
    data["preference_heldout"] = [record for record in pairs if record.id in held]
    data["preference"] = [record for record in pairs if record.id not in held]


def _gate(context, section: CorpusConfig, config: StageConfig, data, benchmarks, sources) -> GateReport:
    from components.model.tokenizer import encode_text, load_tokenizer

    tokenizer = load_tokenizer(config.model.tokenizer)
    elsewhere: dict[str, set[str]] = defaultdict(set)
    for overlap in check_disjoint(data, benchmarks):
        elsewhere[overlap.split].add(overlap.item)

    def token_length(text: str) -> int:
        return len(encode_text(tokenizer, text))

    context_length = config.model.max_position
    tables = {
        split: (
            suite(split, section.gates, context_length),
            columns(rows, token_length, elsewhere[split]),
        )
        for split, rows in data.items()
        if rows
    }
    for name, items in benchmarks.items():
        tables[f"benchmark-{name}"] = (suite("benchmark", section.gates, context_length), columns(items, token_length))
    tables["ingestion"] = (suite("ingestion", section.gates), _ingestion(sources))
    report = run_gates(tables, context.output / "gates")
    for name, page in report.pages.items():
        context.attach(page, f"gates/{name}{page.suffix}")
    report.require(where="corpus")
    return report


def _ingestion(sources: list[SourceEntry]) -> dict[str, list]:
    return {
        "id": [entry.uri for entry in sources],
        "malformed_fraction": [entry.malformed / max(1, entry.malformed + entry.records) for entry in sources],
        "has_licence": [bool(entry.licence) for entry in sources],
    }
