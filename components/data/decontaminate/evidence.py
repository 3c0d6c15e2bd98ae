"""The evidence of one finding: which item, which benchmark item, which level, how strong, and the matching spans.

A detector without evidence cannot be audited: an audit of 114 sources (ademcodesproducts/contamination-audit) found 88
false alarms and 3 true cases. So every finding can be read side by side, in evidence.parquet and in the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from components.data.text.fold import fold
from components.data.text.tokens import tokenise

Level = Literal["exact", "contained", "ngram", "lcs", "minhash", "code", "semantic", "template"]
LEVELS: tuple[Level, ...] = ("exact", "contained", "ngram", "lcs", "minhash", "code", "semantic")
Decision = Literal["removed", "review", "kept"]
Span = tuple[int, int]

MAX_EVIDENCE_CHARACTERS = 20_000
ROWS_PER_GROUP = 1000


@dataclass(frozen=True)
class Evidence:
    """One finding.

    level: exact (same text after normalisation), contained (the whole benchmark item inside a longer text), ngram
        (share of the item's n-grams), lcs (most of the item in order, edited throughout), minhash (its shingles in
        another order), code (its program under other names), semantic (cosine of embeddings), template (same text,
        other numbers).
    score: 1.0 for exact and contained; coverage, weighted share, estimated Jaccard similarity, share of windows, cosine
        for the next five; 0.0 for template.
    decision: removed, review (kept, to be read by a person), kept (templates).
    spans, benchmark_spans: character ranges [start, end) in `text` and `benchmark_text` that agree.
    benchmark_field: question or solution.
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
    benchmark_field: str = "question"


def evidence_texts(text: str, item: str, pairs: np.ndarray) -> tuple[str, tuple[Span, ...], tuple[Span, ...]]:
    """(the text or, of a very long one, the part around the agreement; spans in it; spans in the item).

    pairs: [matches, 2] positions of aligned tokens, the item's and the text's, ascending.
    """
    spans, item_spans = _spans(text, pairs[:, 1]), _spans(item, pairs[:, 0])
    if len(text) <= MAX_EVIDENCE_CHARACTERS:
        return text, spans, item_spans
    start = max(0, (spans[0][0] if spans else 0) - MAX_EVIDENCE_CHARACTERS // 4)
    end = start + MAX_EVIDENCE_CHARACTERS
    inside = tuple(
        (max(low, start) - start, min(high, end) - start) for low, high in spans if low < end and high > start
    )
    return text[start:end], inside, item_spans


def _spans(text: str, positions: np.ndarray) -> tuple[Span, ...]:
    """Character ranges of the tokens at `positions`; neighbouring tokens make one range."""
    tokens, origin = tokenise([text]), _origin(text)
    spans: list[list[int]] = []
    last = -2
    for position in sorted(set(positions.tolist())):
        if position >= len(tokens.starts):
            break
        start, end = int(origin[tokens.starts[position]]), int(origin[tokens.ends[position]])
        if position == last + 1 and spans:
            spans[-1][1] = end
        else:
            spans.append([start, end])
        last = position
    return tuple((low, high) for low, high in spans if high > low)


def _origin(text: str) -> np.ndarray:
    """[folded characters + 1] where each character of the folded text stands in the text."""
    if text.isascii() or len(fold(text)) == len(text):
        return np.arange(len(text) + 1)
    lengths = [len(fold(character)) for character in text]
    return np.append(np.repeat(np.arange(len(text)), lengths), [len(text)] * (len(text) + 1))


class EvidenceFile:
    """evidence.parquet, written as findings come, so that memory stays flat. An empty file is valid."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        span = pa.list_(pa.list_(pa.int64()))
        names = ("item", "split", "field", "benchmark", "benchmark_item", "level", "decision")
        self._schema = pa.schema(
            [(name, pa.string()) for name in names]
            + [("score", pa.float64()), ("text", pa.string()), ("benchmark_text", pa.string())]
            + [("spans", span), ("benchmark_spans", span), ("benchmark_field", pa.string())]
        )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict] = []
        self.count = 0

    def write(self, finding: Evidence) -> None:
        self._rows.append(asdict(finding))
        self.count += 1
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


def write_evidence(path: Path, findings: Iterable[Evidence]) -> int:
    """Writes evidence.parquet, one row per finding in the order given. Returns how many."""
    stream = EvidenceFile(path)
    for finding in findings:
        stream.write(finding)
    stream.close()
    return stream.count


def flagged_items(findings: Iterable[tuple[str, str, Level, Decision]]) -> dict[str, dict[str, dict[str, str]]]:
    """{benchmark: {item: {"level": strongest level, "decision": removed or review}}}; templates are no finding.

    findings: (benchmark, benchmark item, level, decision) of every piece of evidence.
    """
    strongest: dict[tuple[str, str], tuple[int, int]] = {}
    decisions: tuple[Decision, ...] = ("removed", "review")
    for benchmark, item, level, decision in findings:
        if level != "template":
            rank = (decisions.index(decision), LEVELS.index(level))
            strongest[benchmark, item] = min(rank, strongest.get((benchmark, item), rank))
    flagged: dict[str, dict[str, dict[str, str]]] = {}
    for (benchmark, item), (decision, level) in sorted(strongest.items()):
        flagged.setdefault(benchmark, {})[item] = {"level": LEVELS[level], "decision": decisions[decision]}
    return flagged
