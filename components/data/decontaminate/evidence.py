"""The evidence of one finding: which item, which benchmark item, which level, how strong, and the matching spans.

A detector without evidence cannot be audited: an audit of 114 sources (ademcodesproducts/contamination-audit) found 88
false alarms and 3 true cases. So every finding can be read side by side, in evidence.parquet and in the report.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Level = Literal["exact", "contained", "ngram", "semantic", "template"]
Decision = Literal["removed", "review", "kept"]
Span = tuple[int, int]

MAX_EVIDENCE_CHARACTERS = 20_000
_WORD = re.compile(r"\w+", re.UNICODE)


@dataclass(frozen=True)
class Evidence:
    """One finding.

    level: exact (same text after normalisation), contained (the whole benchmark item inside a longer text), ngram
        (share of the item's n-grams), semantic (cosine of embeddings), template (same text, other numbers).
    score: 1.0 for exact and contained, coverage for ngram, cosine for semantic, 0.0 for template.
    decision: removed, review (kept, to be read by a person), kept (templates).
    spans, benchmark_spans: character ranges [start, end) in `text` and `benchmark_text` that agree.
    """

    item: str
    split: str
    field: str
    benchmark: str
    benchmark_item: str
    level: Level
    decision: Decision
    score: float
    text: str
    benchmark_text: str
    spans: tuple[Span, ...] = ()
    benchmark_spans: tuple[Span, ...] = ()


def matching_spans(text: str, other: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Character ranges of words that agree, in order, in both texts (Ratcliff-Obershelp over folded words)."""
    left, right = list(_WORD.finditer(text)), list(_WORD.finditer(other))
    matcher = difflib.SequenceMatcher(
        None, [word.group().casefold() for word in left], [word.group().casefold() for word in right], autojunk=False
    )
    spans, other_spans = [], []
    for block in matcher.get_matching_blocks():
        if block.size:
            spans.append((left[block.a].start(), left[block.a + block.size - 1].end()))
            other_spans.append((right[block.b].start(), right[block.b + block.size - 1].end()))
    return tuple(spans), tuple(other_spans)


def excerpt(text: str, other: str) -> str:
    """The part of a very long text around its longest agreement with `other`, so that evidence stays readable."""
    if len(text) <= MAX_EVIDENCE_CHARACTERS:
        return text
    words = [word for word in _WORD.finditer(other) if len(word.group()) > 3][:8]
    positions = [position for word in words if (position := text.casefold().find(word.group().casefold())) >= 0]
    start = max(0, min(positions, default=0) - MAX_EVIDENCE_CHARACTERS // 4)
    return text[start : start + MAX_EVIDENCE_CHARACTERS]


def write_evidence(path: Path, findings: Iterable[Evidence]) -> int:
    """Writes evidence.parquet, one row per finding in the order given. Returns how many. An empty file is valid."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    span = pa.list_(pa.list_(pa.int64()))
    schema = pa.schema(
        [(name, pa.string()) for name in ("item", "split", "field", "benchmark", "benchmark_item", "level", "decision")]
        + [("score", pa.float64()), ("text", pa.string()), ("benchmark_text", pa.string())]
        + [("spans", span), ("benchmark_spans", span)]
    )
    rows = [asdict(finding) for finding in findings]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")
    return len(rows)
