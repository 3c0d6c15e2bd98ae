"""Reading people's files: plain paths, file:// and s3://, globs, JSON lines (also gzipped), Parquet and CSV.

A record that does not fit is never dropped silently: it is quarantined with file, line, field and reason, counted, and
gates the stage. Every file read becomes an entry of sources.json (uri, sha256, licence, records, split), which is what
lineage shows as data shard. S3 credentials and endpoint come from the environment (AWS_*), as everywhere.
"""

from __future__ import annotations

import csv
import fnmatch
import gzip
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from components.artifacts.s3 import S3Objects
from components.data.layouts import LAYOUTS, Layout, Malformed, detect, to_record
from components.data.schema import Record
from components.failures import BadInput
from components.recipe.data import BenchmarkSource, FileSource

DETECTION_RECORDS = 20
# Larger files are not looked into before a run starts.
LOOK_BYTES = 64 << 20
EXTENSIONS = (".jsonl", ".jsonl.gz", ".json.gz", ".ndjson", ".parquet", ".csv")


@dataclass(frozen=True)
class SourceEntry:
    """One line of sources.json: a data shard and what became of it."""

    uri: str
    sha256: str
    licence: str
    records: int
    split: str
    malformed: int = 0


@dataclass(frozen=True)
class Quarantined:
    """A record that was not taken: where, which field, why, and its beginning."""

    file: str
    line: int
    field: str
    reason: str
    record: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.reason}"


@dataclass
class Ingested:
    records: list[Record] = field(default_factory=list)
    quarantine: list[Quarantined] = field(default_factory=list)
    sources: list[SourceEntry] = field(default_factory=list)


def ingest(source: FileSource | BenchmarkSource) -> Ingested:
    """Reads every file of a source, in name order. Raises BadInput (no file, unknown layout) or InfrastructureError."""
    benchmark = isinstance(source, BenchmarkSource)
    purpose = "benchmark" if benchmark else source.split
    limit = None if benchmark else source.limit
    result = Ingested()
    for uri in expand(source.uri):
        left = None if limit is None else limit - len(result.records)
        if left is not None and left <= 0:
            break
        _ingest_file(result, source, uri, purpose, left)
    return result


def look(source: FileSource | BenchmarkSource) -> list[str]:
    """The files of a source, in name order, after a look at the first records of the first one.

    Raises what `ingest` would: no file, no readable record, a layout nobody knows.
    """
    files = expand(source.uri)
    if not files[0].startswith("s3://") and os.path.getsize(files[0]) <= LOOK_BYTES:
        _head(source, files[0], raw_rows(files[0], read_bytes(files[0])))
    return files


def _head(source: FileSource | BenchmarkSource, uri: str, rows: Iterator) -> tuple[list, Layout | None]:
    """(the first rows, the layout of the file; None for an empty one)."""
    head = list(itertools.islice(rows, DETECTION_RECORDS))
    usable = [row for _, row, problem in head if problem is None]
    if head and not usable:
        line, _, problem = head[0]
        raise BadInput(
            f"none of the first {len(head)} records can be read: {problem[1]}",
            where=f"{uri}:{line}: {problem[0]}",
            remedy="The file must hold one JSON object a line, or be Parquet or CSV",
        )
    if not usable:
        return head, None
    purpose = "benchmark" if isinstance(source, BenchmarkSource) else source.split
    return head, LAYOUTS[source.layout] if source.layout != "auto" else detect(usable, purpose, uri)


def _ingest_file(result: Ingested, source: FileSource | BenchmarkSource, uri: str, purpose: str, limit) -> None:
    licence = "" if isinstance(source, BenchmarkSource) else source.licence
    name = source.name if isinstance(source, BenchmarkSource) else ""
    content = read_bytes(uri)
    rows = raw_rows(uri, content)
    head, layout = _head(source, uri, rows)
    taken = bad = 0
    licences: set[str] = set()
    if layout is not None:
        for line, row, problem in itertools.chain(head, rows):
            if limit is not None and taken >= limit:
                break
            record, quarantined = _convert(layout, row, problem, uri, line, purpose, source, licence, name)
            if quarantined:
                bad += 1
                result.quarantine.append(quarantined)
                continue
            taken += 1
            licences.add(record.licence)
            result.records.append(record)
    result.sources.append(
        SourceEntry(
            uri,
            hashlib.sha256(content).hexdigest(),
            licence or "; ".join(sorted(licences)[:3]),
            taken,
            name or purpose,
            bad,
        )
    )


def _convert(layout: Layout, row, problem, uri, line, purpose, source, licence, name):
    """(record, None), or (None, why it is quarantined)."""
    try:
        if problem is not None:
            raise Malformed(*problem)
        return to_record(layout.parse(row), row, purpose, f"{uri}#{line}", licence, source.domain, name), None
    except Malformed as error:
        shown = json.dumps(row, ensure_ascii=False, default=str)[:400] if row is not None else ""
        return None, Quarantined(uri, line, error.field, str(error), shown)


def expand(uri: str) -> list[str]:
    """The files a URI names, sorted: one file, a glob, or every known file of a directory. Raises BadInput for none."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        path = unquote(parts.path) if parts.scheme else uri
        root = Path(path)
        if root.is_dir():
            found = [str(entry) for entry in sorted(root.rglob("*")) if entry.name.endswith(EXTENSIONS)]
        elif any(mark in path for mark in "*?["):
            import glob

            found = sorted(entry for entry in glob.glob(path, recursive=True) if os.path.isfile(entry))
        else:
            found = [path] if root.is_file() else []
    elif parts.scheme == "s3":
        found = _s3_expand(uri)
    else:
        raise BadInput(f"scheme {parts.scheme}:// is unknown", where=uri, remedy="Use a plain path, file:// or s3://")
    if not found:
        raise BadInput("no such file", where=uri, remedy=f"Known kinds: {', '.join(EXTENSIONS)}; globs are allowed")
    return found


def _s3_expand(uri: str) -> list[str]:
    """One object is taken at its word (reading it says whether it is there); a glob or a folder is listed."""
    parts = urlsplit(uri, allow_fragments=False)
    key = f"{parts.path}?{parts.query}".lstrip("/") if parts.query or uri.endswith("?") else parts.path.lstrip("/")
    marked = any(mark in key for mark in "*?[")
    if not marked and key.endswith(EXTENSIONS):
        return [uri]
    folder = key.rstrip("/")
    if marked:
        folder = key[: min(key.index(mark) for mark in "*?[" if mark in key)].rpartition("/")[0]
    found = [f"{folder}/{name}" if folder else name for name in S3Objects(parts.netloc).files(folder)]
    chosen = [name for name in found if name.endswith(EXTENSIONS) and (not marked or fnmatch.fnmatchcase(name, key))]
    return sorted(f"s3://{parts.netloc}/{name}" for name in chosen)


def read_bytes(uri: str) -> bytes:
    """A whole file. Raises BadInput when it is not there, InfrastructureError when S3 is out of reach."""
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        found = S3Objects(bucket).read(key)
        if found is None:
            raise BadInput("no such object", where=uri)
        return found.data
    return Path(uri).read_bytes()


def raw_rows(uri: str, content: bytes) -> Iterator[tuple[int, dict[str, Any] | None, tuple[str, str] | None]]:
    """(line or row number from 1, row, None), or (line, None, (field, reason)) for a line that is no JSON object."""
    if uri.endswith(".parquet"):
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(io.BytesIO(content))
        except Exception as error:
            raise BadInput(f"not a Parquet file: {error}", where=uri) from None
        number = 0
        for batch in table.iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row, None
        return
    if uri.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise BadInput(f"not a gzip file: {error}", where=uri) from None
    if uri.endswith(".csv"):
        text = io.StringIO(content.decode("utf-8-sig", "replace"), newline="")
        for number, row in enumerate(csv.DictReader(text), 2):
            yield number, row, None
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, None, ("line", f"not JSON: {error}")
            continue
        if isinstance(row, dict):
            yield number, row, None
        else:
            yield number, None, ("line", f"a JSON {type(row).__name__}, not an object")


def write_sources(path: Path, entries: list[SourceEntry]) -> None:
    Path(path).write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n", encoding="utf-8")


def write_quarantine(path: Path, rows: list[Quarantined]) -> None:
    with Path(path).open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
