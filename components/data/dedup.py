"""Duplicates inside a corpus and across corpora: exact after normalisation, and near by MinHash-LSH.

Records stream; what is remembered of each, and when two are duplicates, is components.data.survivors.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from components.data.decontaminate.engine import fields, user_text
from components.data.jsonl import SPLITS, read_records
from components.data.schema import BenchmarkItem, PretrainRecord, Record
from components.data.survivors import Survivor, Survivors
from components.data.text.tokens import tokenise

BATCH = 8192


def text_keys(rows: Sequence[Sequence[str]]) -> list[str]:
    """Identity of each row of texts after normalisation (components.data.text)."""
    keys: list[str] = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        tokens = tokenise([text for row in part for text in row])
        position = 0
        for row in part:
            digest = hashlib.blake2b(digest_size=16)
            for _ in row:
                low, high = tokens.offsets[position], tokens.offsets[position + 1]
                digest.update(int(high - low).to_bytes(8, "little"))
                digest.update(tokens.hashes[low:high].tobytes())
                position += 1
            keys.append(digest.hexdigest())
    return keys


def record_keys(records: Sequence[Record]) -> list[str]:
    """Identity of everything each record teaches: SFT with another answer is another record."""
    return text_keys([_taught(record) for record in records])


def prompt_keys(records: Sequence[Record]) -> list[str]:
    """Identity of each question alone."""
    return text_keys(
        [(record.text if isinstance(record, PretrainRecord) else user_text(record.prompt),) for record in records]
    )


def record_key(record: Record) -> str:
    return record_keys([record])[0]


def prompt_key(record: Record) -> str:
    return prompt_keys([record])[0]


def _taught(record: Record) -> tuple[str, ...]:
    extra = (str(sorted(record.verifier.reference.items())),) if hasattr(record, "verifier") else ()
    return (*(text for _, text in fields(record)), *extra)


@dataclass(frozen=True)
class Duplicate:
    """A record that was dropped. kind: exact or near; similarity: 1.0, or the estimated Jaccard of word triples;
    position: of the dropped record among those given."""

    item: str
    survivor: str
    kind: str = "exact"
    similarity: float = 1.0
    source: str = ""
    survivor_source: str = ""
    position: int = -1


def deduplicate(records: Sequence[Record], threshold: float | None = None) -> tuple[list[Record], list[Duplicate]]:
    """(survivors in order, what was dropped and for which survivor).

    threshold: Jaccard similarity from which two records are near duplicates; None: exact duplicates only.
    """
    kept, dropped = [], []
    for position, (record, survivor) in enumerate(zip(records, _survivors(records, threshold), strict=True)):
        if survivor is None:
            kept.append(record)
        else:
            dropped.append(_duplicate(record, survivor, position, records[survivor.position]))
    return kept, dropped


def _survivors(records: Iterable[Record], threshold: float | None) -> Iterator[Survivor | None]:
    """The survivor of every record, None for one that survives itself."""
    survivors, rest = Survivors(threshold), iter(records)
    while batch := list(islice(rest, BATCH)):
        keys = [bytes.fromhex(key) for key in record_keys(batch)]
        yield from survivors.add(keys, [" \n ".join(_taught(record)) for record in batch])


def _duplicate(record: Record, survivor: Survivor, position: int, kept: Record | _Named) -> Duplicate:
    near = round(survivor.similarity, 4)
    return Duplicate(record.id, kept.id, survivor.kind, near, record.source, kept.source, position)


def deduplicate_files(directory: Path, threshold: float | None, drop: bool = True) -> dict[str, dict[str, int]]:
    """Deduplicates data/<split>.jsonl of a corpus in place and writes duplicates.parquet beside data/.

    threshold: of `deduplicate`; drop: False only writes the clusters.

    Kept lines keep their bytes. A split holds all its sources, so duplicates across sources are found; a question in
    two splits is no duplicate (SFT and RL may share prompts) and is told by check_disjoint. The held-out preference
    pairs come first, so a training pair never survives its held-out copy.

    Returns:
        {split: {"exact": duplicates, "near": duplicates}} of splits that have any.
    """
    dropped: dict[str, list[Duplicate]] = {}
    for group in _GROUPS:
        paths = [path for split in group if (path := Path(directory) / "data" / f"{split}.jsonl").is_file()]
        gone = {
            position: survivor
            for position, survivor in enumerate(_survivors(_read(paths), threshold))
            if survivor is not None
        }
        if not gone:
            continue
        wanted, names = {survivor.position for survivor in gone.values()}, {}
        for position, (split, record) in enumerate(_named(paths)):
            if position in wanted:
                names[position] = _Named(record.id, record.source)
            if position in gone:
                survivor = gone[position]
                found = _duplicate(record, survivor, position, names[survivor.position])
                dropped.setdefault(split, []).append(found)
        start = 0
        for path in paths if drop else ():
            start = _rewrite(path, gone, start)
    write_duplicates(Path(directory) / "duplicates.parquet", dropped)
    return {split: dict(Counter(duplicate.kind for duplicate in found)) for split, found in dropped.items()}


_GROUPS = (("pretrain",), ("sft",), ("rl",), ("preference_heldout", "preference"))


class _Named(NamedTuple):
    id: str
    source: str


def _named(paths: Sequence[Path]) -> Iterator[tuple[str, Record]]:
    for path in paths:
        for record in read_records(path, SPLITS[path.stem]):
            yield path.stem, record


def _read(paths: Sequence[Path]) -> Iterator[Record]:
    return (record for _, record in _named(paths))


def _rewrite(path: Path, gone: Container[int], start: int) -> int:
    """Drops the records at the positions `gone`, counted from `start`. Returns the position after the last."""
    beside = path.with_suffix(".kept")
    with path.open("rb") as stream, beside.open("wb") as kept:
        for line in stream:
            if line.strip():
                if start not in gone:
                    kept.write(line)
                start += 1
    beside.replace(path)
    return start


def write_duplicates(path: Path, duplicates: Mapping[str, Iterable[Duplicate]]) -> None:
    """Writes duplicates.parquet, the clusters as evidence: one row per dropped record, with its split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"split": split} | asdict(duplicate) for split, found in duplicates.items() for duplicate in found]
    names = ("split", "item", "survivor", "kind")
    schema = pa.schema(
        [(name, pa.string()) for name in names]
        + [("similarity", pa.float64()), ("source", pa.string()), ("survivor_source", pa.string())]
        + [("position", pa.int64())]
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


@dataclass(frozen=True)
class Overlap:
    """One question that stands in two splits (or in a split and a benchmark)."""

    split: str
    item: str
    other_split: str
    other_item: str


def check_disjoint(
    data: Mapping[str, Sequence[Record]], benchmarks: Mapping[str, Sequence[BenchmarkItem]]
) -> list[Overlap]:
    """Every question found in more than one of sft, rl, preference, preference_heldout and the benchmarks."""
    places: dict[str, tuple[str, str]] = {}
    overlaps = []
    groups = [(f"benchmark:{name}", rows) for name, rows in sorted(benchmarks.items())]
    groups += [(split, data[split]) for split in ("preference_heldout", "preference", "rl", "sft") if split in data]
    for split, rows in groups:
        for record, key in zip(rows, prompt_keys(rows), strict=True):
            other = places.setdefault(key, (split, record.id))
            if other[0] != split:
                overlaps.append(Overlap(split, record.id, *other))
    return overlaps
