"""Stage `corpus`: sources -> records of schema.py, gated by Great Expectations.

Everything streams: a record is written when it is read, and memory does not grow with the corpus. Output:
data/<split>.jsonl, benchmarks/<name>.jsonl, sources.json (the data shards lineage shows, with what was left out and
why), statistics.json, duplicates.parquet (what was dropped and for which survivor), quarantine.jsonl (malformed
records, never dropped silently), gates/ (Data Docs, results.json).
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache

from components.artifacts.context import StageContext, StageResult
from components.artifacts.digest import bytes_sha256
from components.artifacts.ref import ArtifactRef
from components.data.corpus import BENCHMARK, CorpusWriter, Gathered
from components.data.dedup import deduplicate_files
from components.data.gate_tables import Probes, drift_table, ingestion_table, place_table
from components.data.gates import GateReport, run_gates
from components.data.ingest import Dropped, Made, Result, stream_source
from components.data.jsonl import SPLITS
from components.data.prompt_filters import filter_prompt
from components.data.schema import Record
from components.data.solutions import only_solved
from components.data.sources import Quarantined, SourceEntry, quarantine_line, write_sources
from components.data.statistics import Facts, measure
from components.data.suites import suite
from components.failures import BadInput, IntegrityError
from components.recipe.data import CorpusConfig, FileSource, GeneratorSource
from components.rewards.probes import RewardProbes
from tasks.stage import StageConfig

log = logging.getLogger(__name__)

CHECK_EVERY = 1000
STATISTICS = "statistics.json"


class Measure:
    """components.data.statistics.measure with the recipe's tokenizer, which each process loads once."""

    def __init__(self, tokenizer: str) -> None:
        self.tokenizer = tokenizer

    def __call__(self, record: Record) -> Facts:
        return measure(record, _token_length(self.tokenizer))


@cache
def _token_length(source: str):
    from components.model.tokenizer import encode_text, load_tokenizer

    tokenizer = load_tokenizer(source)
    return lambda text: len(encode_text(tokenizer, text))


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Raises BadInput when a source cannot be read, names an unknown layout, or a critical gate fails."""
    section: CorpusConfig = config.section
    everything = Measure(config.model.tokenizer)
    with (
        RewardProbes(context.execution.sandbox_tier) as probes,
        CorpusWriter(context.output, context.scratch / "corpus", section.gates.sample) as writer,
        (context.output / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine,
    ):
        collected = _Collector(context, writer, quarantine)
        _check_names(section)
        every = (*section.sources, *section.benchmarks)
        for position, source in enumerate(every):
            context.progress(position, len(every) + 1, getattr(source, "uri", "generator"))
            if isinstance(source, GeneratorSource):
                _generate(source, section, context.seed, everything, collected)
            else:
                place = source.split if isinstance(source, FileSource) else f"{BENCHMARK}{source.name}"
                collected.open(place)
                found = stream_source(source, section.filters, everything, _workers(context))
                collected.take(place, only_solved(found, section.filters.code_solutions, probes.solutions_accepted))
        gathered = writer.finish()
        context.check()
        context.progress(len(every), len(every) + 1, "gates")
        report = _gate(context, section, config, gathered, collected.sources, probes)
    write_sources(context.output / "sources.json", collected.sources)
    duplicates = _deduplicate(context, section)
    dropped = duplicates if section.dedup.drop else {}
    records = sum(found.totals.records for place, found in gathered.items() if not place.startswith(BENCHMARK))
    context.progress(len(every) + 1, len(every) + 1, f"{records} records")
    return StageResult(
        summary={
            **{place: found.totals.records - sum(dropped.get(place, {}).values()) for place, found in gathered.items()},
            **{f"duplicates: {split}": sum(counts.values()) for split, counts in duplicates.items()},
            "sources": len(collected.sources),
            "quarantined": collected.quarantined,
            **_left_out(collected.left_out),
            "expectations": report.evaluated,
            "warnings": len(report.warnings),
        }
    )


def _deduplicate(context: StageContext, section: CorpusConfig) -> dict[str, dict[str, int]]:
    """After the gates, which judge the corpus as it came."""
    if not section.dedup.exact:
        return {}
    threshold = section.dedup.threshold if section.dedup.near else None
    found = deduplicate_files(context.output, threshold, section.dedup.drop)
    context.attach(context.output / "duplicates.parquet", "duplicates.parquet")
    return found


class _Collector:
    """Takes what the sources give: records to the writer, quarantine to its file, reasons and entries to lists."""

    def __init__(self, context: StageContext, writer: CorpusWriter, quarantine) -> None:
        self._context, self._writer, self._quarantine = context, writer, quarantine
        self.sources: list[SourceEntry] = []
        self.left_out: Counter = Counter()
        self.quarantined = self._taken = 0

    def open(self, place: str) -> None:
        self._writer.open(place)

    def take(self, place: str, results: Iterable[Result | SourceEntry]) -> None:
        for result in results:
            self._taken += 1
            if self._taken % CHECK_EVERY == 0:
                self._context.check()
            if isinstance(result, Made):
                self._writer.add(place, result.record, result.facts)
            elif isinstance(result, Quarantined):
                self.quarantined += 1
                self._quarantine.write(quarantine_line(result))
            elif isinstance(result, Dropped):
                self.left_out[result.reason] += 1
            else:
                self.sources.append(result)


def _left_out(counts: Counter) -> dict[str, int]:
    """For the summary, whose names the tracker restricts to letters, digits and a few marks."""
    named: Counter = Counter()
    for reason, count in sorted(counts.items()):
        named[f"left out: {re.sub(r'[^A-Za-z0-9_ .:/-]', '', reason)}"] += count
    return dict(named)


def _check_names(section: CorpusConfig) -> None:
    counts = Counter(source.name for source in section.benchmarks)
    for name, count in counts.items():
        if count > 1:
            raise BadInput(f"two benchmarks are named {name}", where="corpus.benchmarks", remedy="Rename one")


def _workers(context: StageContext) -> int:
    workers = context.execution.data_workers
    if workers > 1:
        from components.cluster.connect import connect

        connect(context.execution)
    return workers


def _generate(source: GeneratorSource, section: CorpusConfig, seed: int, everything: Measure, collected) -> None:
    """The generator's splits; an entry of sources.json is digested over everything it made of a split."""
    from components.data.generator import generate

    made = generate(source, seed)
    uri = f"generator:nano?seed={seed}"
    places = {split: getattr(made, split) for split in SPLITS}
    places |= {f"{BENCHMARK}{name}": items for name, items in made.benchmarks.items()}
    for place, rows in places.items():
        results: list[Result | SourceEntry] = []
        for record in rows:
            reason = filter_prompt(record, section.filters) if place == "rl" else ""
            results.append(Dropped(reason) if reason else Made(record, everything(record)))
        results.append(_generated_entry(uri, rows, place.removeprefix(BENCHMARK), results))
        collected.open(place)
        collected.take(place, results)


def _generated_entry(uri: str, rows: list, split: str, results: list[Result]) -> SourceEntry:
    content = "".join(f"{row.model_dump_json()}\n" for row in rows).encode("utf-8", "surrogatepass")
    licences = "; ".join(sorted({row.licence for row in rows})) or "none stated"
    left_out = dict(sorted(Counter(result.reason for result in results if isinstance(result, Dropped)).items()))
    return SourceEntry(
        f"{uri}&split={split}",
        bytes_sha256(content),
        licences,
        len(rows) - sum(left_out.values()),
        split,
        layout="generator",
        left_out=left_out,
    )


def _gate(
    context: StageContext,
    section: CorpusConfig,
    config: StageConfig,
    gathered: Mapping[str, Gathered],
    sources: list[SourceEntry],
    probes: Probes,
) -> GateReport:
    gates, context_length = section.gates, config.model.max_position
    tables = {}
    for place, found in gathered.items():
        is_benchmark = place.startswith(BENCHMARK)
        if not found.totals.records and not is_benchmark:
            continue
        expectations = suite("benchmark" if is_benchmark else place, gates, context_length)
        name = f"benchmark-{place.removeprefix(BENCHMARK)}" if is_benchmark else place
        tables[name] = (expectations, place_table(place, found, gates, context.output, probes))
    tables["ingestion"] = (suite("ingestion", gates), ingestion_table(sources))
    report = run_gates(tables, context.output / "gates")
    for name, page in report.pages.items():
        context.attach(page, f"gates/{name}{page.suffix}")
    statistics = {place: found.totals.as_json() for place, found in gathered.items()}
    (context.output / STATISTICS).write_text(json.dumps(statistics, indent=1) + "\n")
    report.require(where="corpus")
    _drift(context, section, statistics)
    return report


def _drift(context: StageContext, section: CorpusConfig, statistics: Mapping[str, Mapping]) -> None:
    """Compares with the previous version. What is found is shown beside the run and never part of the artifact, which
    must not depend on what else the store holds."""
    earlier = context.earlier()
    if earlier is None:
        return
    try:
        before = json.loads(context.fetch(earlier, STATISTICS).read_text())
    except (BadInput, IntegrityError) as error:  # made before there were statistics, or removed since
        log.warning("drift is not measured: %s", error)
        return
    table = drift_table(statistics, before)
    report = run_gates({"drift": (suite("drift", section.gates), table)}, context.scratch / "drift")
    for name, page in report.pages.items():
        shown = f"drift-{name}" if name in ("index", "results") else name
        context.attach(page, f"gates/{shown}{page.suffix}")
    for finding in report.findings:
        log.warning("against %s: %s", earlier.fingerprint[:16], finding)
    report.require(where="corpus")
