"""The sources of a recipe: which files a URI names, what is known of every file afterwards, and what was not taken.

Every file read becomes an entry of sources.json (uri, sha256, licence, records, split), which is what lineage shows as
data shard. S3 credentials and endpoint come from the environment (AWS_*), as everywhere; the hub's from HF_TOKEN.
"""

from __future__ import annotations

import fnmatch
import glob
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.artifacts.s3 import S3Objects
from components.data.fields import check_fields, mapped
from components.data.files import (
    EXTENSIONS,
    Block,
    NumberedRow,
    kind_of,
    read_block,
    rows_of,
)
from components.data.hub import PREFIX, directory_files, hub_files, is_pinned
from components.data.layouts import LAYOUTS, Layout, detect
from components.data.row import Malformed
from components.failures import BadInput
from components.recipe.data import BenchmarkSource, FileSource

DETECTION_RECORDS = 20


@dataclass(frozen=True)
class SourceEntry:
    """One line of sources.json: a data shard and what became of it.

    left_out: reason -> well-formed records that a rule of the recipe or of their layout left out.
    """

    uri: str
    sha256: str
    licence: str
    records: int
    split: str
    malformed: int = 0
    layout: str = ""
    left_out: dict[str, int] = field(default_factory=dict)


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


def purpose_of(source: FileSource | BenchmarkSource) -> str:
    return "benchmark" if isinstance(source, BenchmarkSource) else source.split


def files_of_source(source: FileSource | BenchmarkSource) -> list[str]:
    """The files of a source, in reading order. Raises BadInput for none, InfrastructureError for a silent server."""
    if source.uri.startswith(PREFIX) and not is_pinned(source.uri):
        return hub_files(source.uri, source.subset, source.part)
    parts = urlsplit(source.uri)
    if parts.scheme in ("", "file"):
        root = Path(unquote(parts.path) if parts.scheme else source.uri)
        if root.is_dir() and (found := directory_files(root, source.subset, source.part)):
            return found
    return expand(source.uri)


def look(source: FileSource | BenchmarkSource) -> list[str]:
    """The files of a source, in reading order, after a look at the first records of the first one.

    Raises what ingesting would: no file, no readable record, a layout nobody knows.
    """
    files = files_of_source(source)
    if "://" not in files[0]:
        layout_of(source, files[0])
    return files


def layout_of(source: FileSource | BenchmarkSource, uri: str) -> Layout | None:
    """The layout of a file by its first records; None for an empty one. Raises BadInput."""
    head = list(itertools.islice(read_block(Block(uri)), DETECTION_RECORDS))
    usable = [row for _, row, problem in head if problem is None]
    if head and not usable:
        line, _, problem = head[0]
        raise BadInput(
            f"none of the first {len(head)} records can be read: {problem[1]}",
            where=f"{uri}:{line}: {problem[0]}",
            remedy="The file must hold one JSON object a line, or be a JSON array, Parquet, Arrow or CSV",
        )
    if not usable:
        return None
    if source.fields is not None:
        check_fields(usable, source.fields, uri)
        usable = list(_mapped(usable, source))
    if source.layout != "auto":
        return LAYOUTS[source.layout]
    return detect(usable, purpose_of(source), uri)


def _mapped(rows: list[dict], source: FileSource | BenchmarkSource) -> Iterator[dict]:
    for row in rows:
        try:
            yield mapped(row, source.fields)
        except Malformed:
            yield {}


def expand(uri: str) -> list[str]:
    """The files a URI names, sorted: one file, a glob, or every known file of a directory. Raises BadInput for none."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        path = unquote(parts.path) if parts.scheme else uri
        root = Path(path)
        if root.is_dir():
            found = [str(entry) for entry in sorted(root.rglob("*")) if entry.name.endswith(EXTENSIONS)]
        elif any(mark in path for mark in "*?["):
            found = sorted(entry for entry in glob.glob(path, recursive=True) if os.path.isfile(entry))
        else:
            found = [path] if root.is_file() else []
    elif parts.scheme == "s3":
        found = _s3_expand(uri)
    elif is_pinned(uri):
        found = [uri]
    else:
        raise BadInput(
            f"scheme {parts.scheme}:// is unknown", where=uri, remedy="Use a plain path, file://, s3:// or hf://"
        )
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


def raw_rows(uri: str, content: bytes) -> Iterator[NumberedRow]:
    """The rows of a file whose bytes are in memory, as components.data.files.read_block gives them."""
    kind, compression = kind_of(uri)
    if kind in (".parquet", ".arrow"):
        return read_block(Block(uri))
    return rows_of(io.BytesIO(content), kind, compression, uri)


def write_sources(path: Path, entries: Iterable[SourceEntry]) -> None:
    Path(path).write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n", encoding="utf-8")


def quarantine_line(row: Quarantined) -> str:
    return json.dumps(asdict(row), ensure_ascii=False) + "\n"
