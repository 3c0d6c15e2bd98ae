"""Duplicates inside a corpus and across corpora: exact after normalisation, and near by MinHash-LSH.

The survivor is the first occurrence in corpus order, so the result does not depend on workers or on hash order. Numbers
decide: two problems of one template with other numbers, operators or variables are two problems, however alike they
read. In texts of more than LONG tokens (documents, with dates and page numbers) nine in ten numbers must agree.

MinHash-LSH: Broder 1997; band sizes as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from components.data.decontaminate.engine import fields, user_text
from components.data.decontaminate.kernels import ngram_hashes
from components.data.jsonl import SPLITS, read_records
from components.data.schema import BenchmarkItem, PretrainRecord, Record
from components.data.text.kinds import KIND_LETTER, KIND_NUMBER, KIND_OPERATOR
from components.data.text.minhash import band_keys, signatures
from components.data.text.tokens import Tokens, formula_like, tokenise

SHINGLE = 3
# 16 bands of 8 rows: a pair of Jaccard similarity 0.8 shares one with probability 0.95, of 0.5 with 0.06.
BAND_ROWS = 8
LONG = 200
LONG_NUMBERS = 0.9
# In texts of fewer tokens, and in formulas, one other word is another text: they are only compared whole.
SHORTEST = 40
BATCH = 8192
# Earlier texts of one bucket that a text is compared with: buckets of many copies stay linear.
COMPARED = 4


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
    keys = record_keys(records)
    first: dict[str, int] = {}
    survivor = np.arange(len(records))
    similarity = np.ones(len(records))
    for position, key in enumerate(keys):
        survivor[position] = first.setdefault(key, position)
    if threshold is not None:
        alone = [position for position in range(len(records)) if survivor[position] == position]
        texts = [" \n ".join(_taught(records[position])) for position in alone]
        for own, (other, near) in near_duplicates(texts, threshold).items():
            survivor[alone[own]], similarity[alone[own]] = alone[other], near
    kept, dropped = [], []
    for position, record in enumerate(records):
        root = int(survivor[position])
        if root == position:
            kept.append(record)
            continue
        kind = "exact" if keys[position] == keys[root] else "near"
        root = int(survivor[root])  # an exact copy of a near duplicate
        near = round(float(similarity[position]), 4)
        dropped.append(
            Duplicate(record.id, records[root].id, kind, near, record.source, records[root].source, position)
        )
    return kept, dropped


def near_duplicates(texts: Sequence[str], threshold: float) -> dict[int, tuple[int, float]]:
    """{text: (earlier text that survives, estimated similarity)} of texts that resemble an earlier one."""
    signature, bands, numbers = [], [], []
    for start in range(0, len(texts), BATCH):
        tokens = tokenise(texts[start : start + BATCH])
        own = signatures(ngram_hashes(tokens.hashes, tokens.offsets, SHINGLE), tokens.offsets)
        keys = band_keys(own, BAND_ROWS)
        short = (np.diff(tokens.offsets) < SHORTEST) | formula_like(tokens)
        for text in range(len(tokens)):
            formula = _formula(tokens, text)
            numbers.append(formula)
            if not short[text] and len(tokens.text(text).hashes) < LONG:
                keys[text] ^= np.uint64(hash(formula) & 0xFFFFFFFFFFFFFFFF)
        keys[short] = 0
        signature.append(own.astype(np.uint16))  # enough to compare, a quarter of the memory
        bands.append(keys)
    if not texts:
        return {}
    signature, bands = np.concatenate(signature), np.concatenate(bands)
    survivors: dict[int, tuple[int, float]] = {}
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for text in range(len(texts)):
        best: tuple[float, int] | None = None
        for band, key in enumerate(bands[text].tolist()):
            for other in buckets.get((band, key), ()):
                near = float((signature[text] == signature[other]).mean())
                if (
                    near >= threshold
                    and (best is None or (near, -other) > best)
                    and _agree(numbers[text], numbers[other])
                ):
                    best = (near, -other)
        if best is not None:
            survivors[text] = (-best[1], best[0])
            continue
        for band, key in enumerate(bands[text].tolist()):
            if key and len(buckets[band, key]) < COMPARED:
                buckets[band, key].append(text)
    return survivors


def _formula(tokens: Tokens, text: int) -> tuple[int, ...]:
    """Numbers, operators and one-letter names of a short text in order; the numbers of a long one, sorted."""
    own = tokens.text(text)
    if len(own.hashes) < LONG:
        return tuple(own.hashes[np.isin(own.kinds, (KIND_NUMBER, KIND_OPERATOR, KIND_LETTER))].tolist())
    return tuple(sorted(own.hashes[own.kinds == KIND_NUMBER].tolist()))


def _agree(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    if one == other:
        return True
    shared = sum((Counter(one) & Counter(other)).values())
    return shared >= LONG_NUMBERS * max(len(one), len(other)) and min(len(one), len(other)) > 10


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
        records = [record for path in paths for record in read_records(path, SPLITS[path.stem])]
        found = deduplicate(records, threshold)[1]
        if not found:
            continue
        gone = {duplicate.position for duplicate in found}
        splits = [path.stem for path in paths for _ in range(_records(path))]
        for duplicate in found:
            dropped.setdefault(splits[duplicate.position], []).append(duplicate)
        start = 0
        for path in paths if drop else ():
            start = _rewrite(path, gone, start)
    write_duplicates(Path(directory) / "duplicates.parquet", dropped)
    return {split: dict(Counter(duplicate.kind for duplicate in found)) for split, found in dropped.items()}


_GROUPS = (("pretrain",), ("sft",), ("rl",), ("preference_heldout", "preference"))


def _records(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(bool(line.strip()) for line in stream)


def _rewrite(path: Path, gone: set[int], start: int) -> int:
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
