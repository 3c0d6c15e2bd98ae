"""Decontamination of every split against every benchmark: string level first, semantic level on what is left.

The fields of a record are searched one by one (question and answer of an SFT record apart); a record is removed when
any of its fields is. Every removal and every near miss has Evidence; template siblings (same text, other numbers) stay.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from components.data.decontaminate.detector import TEMPLATE_EXAMPLES, BatchResult, Detector
from components.data.decontaminate.evidence import Evidence
from components.data.decontaminate.index import IndexedItem
from components.data.decontaminate.semantic import Embed
from components.data.schema import BenchmarkItem, Message, PreferenceRecord, PretrainRecord, Record, RlRecord, SftRecord
from components.recipe.data import DecontaminateConfig

# Raise it when the same inputs and config would give another result: it is part of the index fingerprint.
ALGORITHM = 3
BATCH = 4096


@dataclass(frozen=True)
class TextRecord:
    """Any record as named texts, for files that do not become records of schema.py (components.data...clean)."""

    id: str
    parts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DecontaminationResult:
    """kept: {split: records, unchanged, in order}. removed, review, templates: evidence (templates: some examples).

    counts: {split: {"records", "kept", "removed", "review", "template", "removed:<level>"}} and, under "benchmarks",
    {name: {"items", "hit_items", "removed", "review", "template"}}; under "semantic" the work of the semantic level.
    """

    kept: dict[str, list[Record]]
    removed: list[Evidence]
    review: list[Evidence]
    templates: list[Evidence]
    counts: dict[str, dict]
    fingerprint: str

    @property
    def findings(self) -> list[Evidence]:
        return [*self.removed, *self.review, *self.templates]


def user_text(messages: Sequence[Message]) -> str:
    """What the user says, without system prompts: those are shared by whole corpora."""
    return "\n".join(message.content for message in messages if message.role == "user")


def fields(record: Record | TextRecord) -> list[tuple[str, str]]:
    """(field, text) pairs of a record that are searched."""
    if isinstance(record, TextRecord):
        return list(record.parts)
    if isinstance(record, SftRecord):
        return [("question", user_text(record.prompt)), ("answer", record.response)]
    if isinstance(record, RlRecord):  # benchmark items too
        return [("prompt", user_text(record.prompt))]
    if isinstance(record, PreferenceRecord):
        return [("prompt", user_text(record.prompt)), ("chosen", record.chosen), ("rejected", record.rejected)]
    if isinstance(record, PretrainRecord):
        return [("text", record.text)]
    raise TypeError(f"no text fields known for {type(record).__name__}")


def benchmark_texts(item: BenchmarkItem | TextRecord) -> list[tuple[str, str]]:
    """(field, text) pairs of a benchmark item that training data is searched for: its question and, where it is
    stored, a worked solution or program."""
    if isinstance(item, TextRecord):
        return [(name, text) for name, text in item.parts if text.strip()]
    solution = item.verifier.reference.get("solution")
    texts = [("question", user_text(item.prompt))]
    return [*texts, ("solution", solution)] if isinstance(solution, str) and solution.strip() else texts


def index_fingerprint(
    benchmarks: Mapping[str, Sequence[BenchmarkItem | TextRecord]], config: DecontaminateConfig
) -> str:
    """sha256 over algorithm version, config and every benchmark text: a new benchmark is another index."""
    digest = hashlib.sha256()
    digest.update(json.dumps({"algorithm": ALGORITHM, "config": config.model_dump()}, sort_keys=True).encode())
    for name in sorted(benchmarks):
        for item in benchmarks[name]:
            for field, text in benchmark_texts(item):
                digest.update(f"\0{name}\0{item.id}\0{field}\0{text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def build_items(benchmarks: Mapping[str, Sequence[BenchmarkItem | TextRecord]]) -> list[IndexedItem]:
    return [
        IndexedItem(name, item.id, text, field)
        for name in sorted(benchmarks)
        for item in benchmarks[name]
        for field, text in benchmark_texts(item)
    ]


def decontaminate(
    records: Mapping[str, Sequence[Record | TextRecord]],
    benchmarks: Mapping[str, Sequence[BenchmarkItem | TextRecord]],
    config: DecontaminateConfig,
    embed: Embed | None = None,
) -> DecontaminationResult:
    """Splits records into kept and removed. Deterministic; `embed` replaces the packaged embedding model."""
    findings: dict[str, list[Evidence]] = {"removed": [], "review": [], "kept": []}
    detector = Detector(build_items(benchmarks), config, embed)
    run = Run(detector, lambda evidence: findings[evidence.decision].append(evidence))
    kept: dict[str, list[Record]] = {}
    for split, rows in records.items():
        run.begin(split)
        kept[split] = []
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            ids = [record.id for record in part]
            found = detector.search(split, ids, [fields(record) for record in part])
            dropped = run.absorb(split, ids, found)
            kept[split] += [record for row, record in enumerate(part) if row not in dropped]
    counts = run.counts({name: len(items) for name, items in benchmarks.items()})
    fingerprint = index_fingerprint(benchmarks, config)
    return DecontaminationResult(kept, findings["removed"], findings["review"], findings["kept"], counts, fingerprint)


class Run:
    """One decontamination: takes the results of batches in order, decides what is semantic, counts.

    Args:
        detector: whose semantic level embeds the candidates.
        sink: called with every piece of evidence, in order.
    """

    def __init__(self, detector: Detector, sink: Callable[[Evidence], None]) -> None:
        self.detector, self.sink = detector, sink
        self.splits: dict[str, Counter] = {}
        self._benchmarks: dict[str, Counter] = defaultdict(Counter)
        self._hit_items: dict[str, set[str]] = defaultdict(set)
        self._examples: Counter = Counter()
        self._semantic: Counter = Counter()

    def begin(self, split: str) -> None:
        self.splits[split] = Counter(records=0, kept=0, removed=0, review=0, template=0)

    def absorb(self, split: str, ids: Sequence[str], found: BatchResult) -> set[int]:
        """Adds one batch. Returns the rows that are removed."""
        counter = self.splits[split]
        dropped: set[int] = set()
        touched: set[tuple[int, str]] = set()
        for row, _, evidence in found.removed:
            if row not in dropped:
                counter[f"removed:{evidence.level}"] += 1
            dropped.add(row)
            self._removed(row, evidence, touched)
        for _, position in found.templates:
            counter["template"] += 1
            self._benchmarks[self.detector.items[position].benchmark]["template"] += 1
        for evidence in found.examples:
            self._examples[split, evidence.benchmark] += 1
            if self._examples[split, evidence.benchmark] <= TEMPLATE_EXAMPLES:
                self.sink(evidence)
        self._semantic.update(found.semantic)
        self._decide(split, ids, found, dropped, touched)
        counter["records"] += len(ids)
        counter["removed"] += len(dropped)
        counter["kept"] += len(ids) - len(dropped)
        return dropped

    def _removed(self, row: int, evidence: Evidence, touched: set[tuple[int, str]]) -> None:
        if (row, evidence.benchmark) not in touched:
            touched.add((row, evidence.benchmark))
            self._benchmarks[evidence.benchmark]["removed"] += 1
            self._benchmarks[evidence.benchmark][f"removed:{evidence.level}"] += 1
        self._hit_items[evidence.benchmark].add(evidence.benchmark_item)
        self.sink(evidence)

    def _decide(self, split: str, ids: Sequence[str], found: BatchResult, dropped: set[int], touched) -> None:
        """The semantic level on a batch's candidates."""
        semantic = self.detector.semantic
        if semantic is None or not found.candidates:
            return
        vectors = semantic.embed_texts([candidate.text for candidate in found.candidates])
        semantic.embed_items(asked for candidate in found.candidates for asked in candidate.pairs)
        reviewed: set[int] = set()
        for candidate in found.candidates:
            if candidate.row in dropped:
                continue
            matches = semantic.decide(candidate.text, candidate.pairs, vectors[candidate.text])
            if not matches:
                continue
            best = matches[0]
            near = best.score >= best.needed
            if not near and candidate.row in reviewed:
                continue
            evidence = self.detector.evidence(
                split, ids[candidate.row], candidate.field, candidate.text, best.item, "semantic", best.score,
                best.pairs, "removed" if near else "review",
            )  # fmt: skip
            if near:
                dropped.add(candidate.row)
                self.splits[split]["removed:semantic"] += 1
                self._removed(candidate.row, evidence, touched)
            else:
                reviewed.add(candidate.row)
                self.splits[split]["review"] += 1
                self._benchmarks[evidence.benchmark]["review"] += 1
                self.sink(evidence)

    def counts(self, items: Mapping[str, int]) -> dict[str, dict]:
        """DecontaminationResult.counts; items: how many each benchmark has."""
        counts: dict[str, dict] = {split: dict(counter) for split, counter in self.splits.items()}
        counts["benchmarks"] = {
            name: {
                "items": items[name],
                "hit_items": len(self._hit_items[name]),
                "removed": 0,
                "review": 0,
                "template": 0,
            }
            | dict(sorted(self._benchmarks[name].items()))
            for name in sorted(items)
        }
        semantic = self.detector.semantic
        counts["semantic"] = dict(self._semantic) | {"embedded": semantic.counts["embedded"]} if semantic else {}
        return counts
