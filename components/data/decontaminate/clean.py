"""Decontaminates a user's own files without a pipeline: rows in, the kept rows out, unchanged and in order.

No layout is needed: every text inside a row is searched (except where it came from), so a file of any shape can be
cleaned. Files stream through in blocks of lines; workers search blocks, the parent decides what is semantic and writes,
so any number of workers gives the same bytes. Nothing appears in the output directory before all of it is there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.decontaminate.detector import BatchResult, Detector
from components.data.decontaminate.engine import Run, TextRecord, build_items, index_fingerprint
from components.data.decontaminate.evidence import Evidence, EvidenceFile
from components.data.decontaminate.index import IndexedItem
from components.data.decontaminate.report import Examples, write_report
from components.data.decontaminate.rows import Line, benchmark_parts, lines, parse, texts
from components.data.processes import ordered_in_processes
from components.data.sources import Quarantined, expand, quarantine_line
from components.failures import BadInput
from components.recipe.data import DecontaminateConfig, GateConfig

BLOCK_LINES = 2048
BLOCK_BYTES = 8 << 20
# A file that loses more than this is the benchmark, or the thresholds are wrong: a person should look.
MAX_REMOVED_FRACTION = 0.5


def clean_files(
    corpora: Sequence[str],
    benchmarks: Sequence[str],
    out_dir: Path,
    config: DecontaminateConfig | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Writes clean.jsonl, evidence.parquet, report.html, counts.json and quarantine.jsonl into `out_dir`.

    Args:
        corpora: files, globs or directories (plain, file:// or s3://); order is kept.
        benchmarks: the same; each file is a benchmark named after it.
        workers: processes that search; the embedding model stays in this one.

    Returns:
        {"records", "kept", "removed", "review", "template", "malformed", "index_fingerprint", "gates": [...],
        "files": {uri: {...}}, "benchmarks": {name: {...}}, "semantic": {...}}, all JSON-ready.

    Raises:
        BadInput: no such file, no readable record, or a benchmark row without a question. Nothing is written then.
        InfrastructureError: a worker died or did not answer in time. Nothing is written then either.
    """
    config = config or DecontaminateConfig()
    index = read_benchmarks(benchmarks)
    uris = list(dict.fromkeys(found for pattern in corpora for found in expand(pattern)))
    if not uris:
        raise BadInput("no corpus was named", remedy="Give at least one file")
    out_dir = Path(out_dir)
    partial = out_dir / f".partial-{os.getpid()}"
    partial.mkdir(parents=True, exist_ok=True)
    try:
        counts = _clean(uris, index, partial, config, workers)
        for path in sorted(partial.iterdir()):
            os.replace(path, out_dir / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def read_benchmarks(patterns: Sequence[str]) -> dict[str, list[TextRecord]]:
    """{benchmark named after its file: items}. Raises BadInput for two of one name and for an item without question."""
    index: dict[str, list[TextRecord]] = {}
    for uri in (found for pattern in patterns for found in expand(pattern)):
        name = uri.rstrip("/").rpartition("/")[2].partition(".")[0]
        if name in index:
            raise BadInput(f"two benchmarks are named {name}", where=uri, remedy="Rename one of the files")
        index[name] = list(_benchmark_rows(uri))
        if not index[name]:
            raise BadInput("the benchmark holds no item", where=uri, remedy="Expected JSON lines, Parquet or CSV")
    if not index:
        raise BadInput("no benchmark was named", remedy="Give at least one with --benchmark")
    return index


def _benchmark_rows(uri: str) -> Iterator[TextRecord]:
    for number, line in lines(uri):
        row, problem = parse(line)
        if row is None:
            raise BadInput(problem, where=f"{uri}:{number}", remedy="Correct or remove the item")
        parts = benchmark_parts(row, f"{uri}:{number}")
        digest = hashlib.sha256(parts[0][1].encode("utf-8", "replace")).hexdigest()
        yield TextRecord(f"{number}-{digest[:12]}", parts)


@dataclass
class _Searched:
    """A block after the search. lines: of the readable rows; malformed: (line number, reason, beginning)."""

    numbers: list[int]
    lines: list[bytes]
    found: BatchResult
    malformed: list[tuple[int, str, str]]


class _Search:
    """The work of a process: its own detector, made once."""

    def __init__(self, items: Sequence[IndexedItem], config: DecontaminateConfig) -> None:
        self._detector = Detector(items, config)

    def __call__(self, job: tuple[str, list[Line]]) -> _Searched:
        return _search(self._detector, *job)


def _search(detector: Detector, uri: str, block: list[Line]) -> _Searched:
    numbers, kept, fields, malformed = [], [], [], []
    for number, line in block:
        row, problem = parse(line)
        if row is None:
            malformed.append((number, problem, line[:400].decode("utf-8", "replace")))
            continue
        numbers.append(number)
        kept.append(line)
        fields.append(texts(row))
    return _Searched(numbers, kept, detector.search(uri, _ids(uri, numbers), fields), malformed)


def _ids(uri: str, numbers: list[int]) -> list[str]:
    return [f"{uri}#{number}" for number in numbers]


def _clean(uris: list[str], index, folder: Path, config: DecontaminateConfig, workers: int) -> dict[str, Any]:
    detector = Detector(build_items(index), config)
    evidence, examples = EvidenceFile(folder / "evidence.parquet"), Examples()

    def sink(finding: Evidence) -> None:
        evidence.write(finding)
        examples.add(finding)

    run = Run(detector, sink)
    malformed: dict[str, int] = dict.fromkeys(uris, 0)
    for uri in uris:
        run.begin(uri)
    with (
        (folder / "clean.jsonl").open("wb") as stream,
        (folder / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine,
    ):
        for uri, searched in _searched(uris, detector, config, workers):
            dropped = run.absorb(uri, _ids(uri, searched.numbers), searched.found)
            stream.writelines(
                piece for row, line in enumerate(searched.lines) if row not in dropped for piece in (line, b"\n")
            )
            malformed[uri] += len(searched.malformed)
            quarantine.writelines(
                quarantine_line(Quarantined(uri, number, "line", reason, beginning))
                for number, reason, beginning in searched.malformed
            )
    evidence.close()
    counts = run.counts({name: len(items) for name, items in index.items()})
    for uri in uris:
        if not counts[uri]["records"]:
            raise BadInput("holds no readable record", where=uri, remedy="Expected JSON lines, Parquet or CSV")
        counts[uri]["malformed"] = malformed[uri]
    summary = {
        **{key: sum(counts[uri][key] for uri in uris) for key in ("records", "kept", "removed", "review", "template")},
        "malformed": sum(malformed.values()),
        "index_fingerprint": index_fingerprint(index, config),
        "gates": _gates(counts, uris),
        "files": {uri: counts[uri] for uri in uris},
        "benchmarks": counts["benchmarks"],
        "semantic": counts["semantic"],
    }
    write_report(folder / "report.html", counts, examples, summary["index_fingerprint"], config)
    (folder / "counts.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _searched(uris: list[str], detector: Detector, config, workers: int) -> Iterator[tuple[str, _Searched]]:
    """Blocks after the search, in order; no more than a few wait in memory."""
    blocks = ((uri, block) for uri in uris for block in _blocks(uri))
    if workers <= 1:
        yield from ((uri, _search(detector, uri, block)) for uri, block in blocks)
        return
    read: deque[str] = deque()

    def jobs() -> Iterator[tuple[str, tuple[str, list[Line]]]]:
        for uri, block in blocks:
            read.append(uri)
            yield f"{uri}:{block[0][0]}", (uri, block)

    for searched in ordered_in_processes(_Search, (detector.items, config), jobs(), workers):
        yield read.popleft(), searched


def _blocks(uri: str) -> Iterator[list[Line]]:
    rows = lines(uri)
    while block := _block(rows):
        yield block


def _block(rows: Iterator[Line]) -> list[Line]:
    block, size = [], 0
    for line in itertools.islice(rows, BLOCK_LINES):
        block.append(line)
        size += len(line[1])
        if size >= BLOCK_BYTES:
            break
    return block


def _gates(counts: dict[str, dict], uris: Sequence[str]) -> list[dict[str, Any]]:
    """[{file, severity, meaning, observed, limit}] of gates that fail; a critical one makes the command exit 3."""
    failed = []
    for uri in uris:
        row = counts[uri]
        shares = (
            ("critical", "too many malformed records", row["malformed"] / (row["malformed"] + row["records"]),
             GateConfig().max_malformed_fraction),
            ("warning", "most records resemble a benchmark item", row["removed"] / row["records"],
             MAX_REMOVED_FRACTION),
        )  # fmt: skip
        failed += [
            {"file": uri, "severity": severity, "meaning": meaning, "observed": round(share, 4), "limit": limit}
            for severity, meaning, share, limit in shares
            if share > limit
        ]
    return failed
