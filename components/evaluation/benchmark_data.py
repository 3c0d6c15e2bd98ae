"""The items of a standard benchmark from where its records are: files of the user's, or a data set of the hub.

Files are JSON lines (gzipped or not), Parquet, or what else components.data.sources reads, at a path, file:// or s3://;
a directory is a Hugging Face data set directory, and hf://OWNER/NAME@REVISION/CONFIG?split=SPLIT (all but the name may
be left out) another data set of the hub. Every record must be an item: a benchmark with a hole in it is another
benchmark, so the first bad record stops with its file, line and field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.artifacts.digest import bytes_sha256
from components.data.hub import is_pinned
from components.data.schema import BenchmarkItem
from components.data.sources import expand, raw_rows, read_bytes
from components.evaluation.benchmark import Benchmark, Hub, RecordProblem
from components.failures import BadInput

_HUB_ID = re.compile(
    r"hf://(?:datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<config>[\w.-]+))?"
    r"(?:\?split=(?P<split>[\w.-]+))?"
)


@dataclass(frozen=True)
class BenchmarkData:
    """items: in the order of the records. shards: (uri, sha256 of the file or of its records, items).

    left_out: records that are not asked (outside the window of dates, instructions that no rule of ours can check).
    """

    items: list[BenchmarkItem]
    shards: tuple[tuple[str, str, int], ...]
    licence: str
    left_out: int = 0


def read_benchmark(benchmark: Benchmark, uri: str = "") -> BenchmarkData:
    """uri: of the records; the benchmark's own data set of the hub when empty.

    Raises:
        BadInput: a record is no item, two records are one item, or there is no record.
    """
    items: list[BenchmarkItem] = []
    shards, left_out = [], 0
    for place, digest, rows in _places(benchmark, uri):
        before = len(items)
        for line, row in rows:
            try:
                if benchmark.keep is not None and not benchmark.keep(row):
                    left_out += 1
                    continue
                items.append(benchmark.item(row, source=place))
            except RecordProblem as error:
                raise BadInput(
                    str(error),
                    where=f"{place}:{line}: {error.field}",
                    remedy=f"{benchmark.title} is read as its authors publish it",
                ) from None
        shards.append((place, digest, len(items) - before))
    if not items:
        raise BadInput("no record belongs to this benchmark", where=uri or benchmark.name)
    seen: dict[str, int] = {}
    for number, item in enumerate(items):
        if item.id in seen:
            raise BadInput(f"items {seen[item.id] + 1} and {number + 1} are the same", where=uri or benchmark.name)
        seen[item.id] = number
    return BenchmarkData(
        items, tuple(shards), "; ".join(sorted({item.licence for item in items if item.licence})), left_out
    )


Rows = Iterator[tuple[int, Mapping[str, Any]]]


def is_hub_id(uri: str) -> bool:
    return uri.startswith("hf://") and not is_pinned(uri)


def _places(benchmark: Benchmark, uri: str) -> Iterator[tuple[str, str, Rows]]:
    if not uri:
        return _hub(benchmark, benchmark.hub)
    if not is_hub_id(uri):
        return _files(uri)
    found = _HUB_ID.fullmatch(uri)
    if found is None:
        raise BadInput(
            "not a data set of the hub", where=uri, remedy="Write hf://OWNER/NAME@REVISION/CONFIG?split=SPLIT"
        )
    split = found["split"] or (benchmark.hub.split if benchmark.hub else "test")
    return _hub(benchmark, Hub(found["name"], split, found["config"], found["revision"]))


def _files(uri: str) -> Iterator[tuple[str, str, Rows]]:
    if "://" not in uri and Path(uri).is_dir():
        yield from _directory(Path(uri))
        return
    for place in expand(uri):
        content = read_bytes(place)
        yield place, bytes_sha256(content), _whole(place, content)


def _whole(place: str, content: bytes) -> Rows:
    for line, row, problem in raw_rows(place, content):
        if row is None:
            reason = problem[1] if problem else "no record"
            raise BadInput(reason, where=f"{place}:{line}")
        yield line, row


def _directory(path: Path) -> Iterator[tuple[str, str, Rows]]:
    """A data set saved by `datasets` (save_to_disk), or a folder of its files."""
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(path))
    except FileNotFoundError:
        files = sorted(file for file in path.rglob("*") if file.suffix in (".jsonl", ".json", ".parquet", ".gz"))
        if not files:
            raise BadInput("no data set and no data files in this directory", where=str(path)) from None
        for file in files:
            yield from _files(str(file))
        return
    if isinstance(found, DatasetDict):
        if len(found) != 1:
            raise BadInput(
                f"the data set has the splits {', '.join(found)}", where=str(path), remedy="Name one: its subdirectory"
            )
        found = next(iter(found.values()))
    yield str(path), str(found._fingerprint), ((number, row) for number, row in enumerate(found, 1))


def _hub(benchmark: Benchmark, hub: Hub | None) -> Iterator[tuple[str, str, Rows]]:
    if hub is None:
        raise BadInput(
            "no public data set is known for it", where=benchmark.name, remedy=f"Give its file: {benchmark.name}=PATH"
        )
    from datasets import load_dataset

    revision, config = f"@{hub.revision}" if hub.revision else "", f"/{hub.config}" if hub.config else ""
    place = f"hf://datasets/{hub.name}{revision}{config}?split={hub.split}"
    try:
        found = load_dataset(hub.name, hub.config, split=hub.split, revision=hub.revision)
    except Exception as error:  # the library raises a dozen kinds: network, permission, a renamed data set
        raise BadInput(
            f"the hub does not give it: {type(error).__name__}: {str(error)[:200]}",
            where=place,
            remedy=f"Download it where there is a network, and give its file: {benchmark.name}=PATH",
        ) from error
    yield place, str(found._fingerprint), ((number, row) for number, row in enumerate(found, 1))
