"""Exact duplicates after normalisation, inside a split and across splits.

The survivor is the first occurrence in corpus order, so the result does not depend on workers or on hash order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.data.decontaminate.engine import fields, user_text
from components.data.normalise import tokens
from components.data.schema import BenchmarkItem, PretrainRecord, Record


def text_key(*texts: str) -> str:
    """Identity of a text after normalisation (components.data.normalise)."""
    joined = "\1".join("\0".join(tokens(text)) for text in texts)
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def record_key(record: Record) -> str:
    """Identity of everything a record teaches: SFT with another answer is another record."""
    extra = (str(sorted(record.verifier.reference.items())),) if hasattr(record, "verifier") else ()
    return text_key(*(text for _, text in fields(record)), *extra)


def prompt_key(record: Record) -> str:
    """Identity of the question alone."""
    return text_key(record.text if isinstance(record, PretrainRecord) else user_text(record.prompt))


@dataclass(frozen=True)
class Duplicate:
    item: str
    survivor: str


def deduplicate(records: Sequence[Record]) -> tuple[list[Record], list[Duplicate]]:
    """(survivors in order, what was dropped and for which survivor)."""
    seen: dict[str, str] = {}
    kept: list[Record] = []
    dropped: list[Duplicate] = []
    for record in records:
        key = record_key(record)
        if key in seen:
            dropped.append(Duplicate(record.id, seen[key]))
        else:
            seen[key] = record.id
            kept.append(record)
    return kept, dropped


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
        for record in rows:
            other = places.setdefault(prompt_key(record), (split, record.id))
            if other[0] != split:
                overlaps.append(Overlap(split, record.id, *other))
    return overlaps
