"""Decontamination of every split against every benchmark: string level first, semantic level on what is left.

The fields of a record are searched one by one (question and answer of an SFT record apart); a record is removed when
any of its fields is. Every removal and every near miss has Evidence; template siblings (same text, other numbers) stay.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.data.decontaminate.evidence import Evidence, excerpt, matching_spans
from components.data.decontaminate.semantic import SIBLING_MARGIN, Embed, SemanticLevel
from components.data.decontaminate.string_index import IndexedItem, StringIndex
from components.data.normalise import tokens
from components.data.schema import BenchmarkItem, Message, PreferenceRecord, PretrainRecord, Record, RlRecord, SftRecord
from components.recipe.data import DecontaminateConfig

# Raise it when the same inputs and config would give another result: it is part of the index fingerprint.
ALGORITHM = 1
BATCH = 4096
TEMPLATE_EXAMPLES = 5
# Fields compared by meaning; a worked solution resembles every other solution of its kind.
SEMANTIC_FIELDS = frozenset(
    {"question", "prompt", "text", "problem", "instruction", "puzzle", "query", "content", "messages", "conversations"}
)


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


def benchmark_text(item: BenchmarkItem | TextRecord) -> str:
    """The question of a benchmark item, which is what training data is searched for."""
    return item.parts[0][1] if isinstance(item, TextRecord) else user_text(item.prompt)


def index_fingerprint(
    benchmarks: Mapping[str, Sequence[BenchmarkItem | TextRecord]], config: DecontaminateConfig
) -> str:
    """sha256 over algorithm version, config and every benchmark text: a new benchmark is another index."""
    digest = hashlib.sha256()
    digest.update(json.dumps({"algorithm": ALGORITHM, "config": config.model_dump()}, sort_keys=True).encode())
    for name in sorted(benchmarks):
        for item in benchmarks[name]:
            digest.update(f"\0{name}\0{item.id}\0{benchmark_text(item)}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def build_items(benchmarks: Mapping[str, Sequence[BenchmarkItem | TextRecord]]) -> list[IndexedItem]:
    return [
        IndexedItem(name, item.id, text, tuple(tokens(text)))
        for name in sorted(benchmarks)
        for item in benchmarks[name]
        for text in [benchmark_text(item)]
    ]


def decontaminate(
    records: Mapping[str, Sequence[Record | TextRecord]],
    benchmarks: Mapping[str, Sequence[BenchmarkItem | TextRecord]],
    config: DecontaminateConfig,
    embed: Embed | None = None,
) -> DecontaminationResult:
    """Splits records into kept and removed. Deterministic; `embed` replaces the packaged embedding model."""
    items = build_items(benchmarks)
    run = _Run(
        items=items,
        index=StringIndex(items, config.ngram, config.min_coverage),
        semantic=SemanticLevel(items, config.semantic_review, embed) if config.semantic else None,
        config=config,
    )
    kept = {split: run.split(split, rows) for split, rows in records.items()}
    counts: dict[str, dict] = {split: dict(run.counts[split]) for split in records}
    counts["benchmarks"] = {
        name: {
            "items": len(benchmarks[name]),
            "hit_items": len(run.hit_items[name]),
            **{key: run.benchmark_counts[name][key] for key in ("removed", "review", "template")},
        }
        for name in sorted(benchmarks)
    }
    counts["semantic"] = dict(run.semantic.counts) if run.semantic else {}
    return DecontaminationResult(
        kept, run.removed, run.review, run.templates, counts, index_fingerprint(benchmarks, config)
    )


class _Run:
    """State of one decontamination: evidence lists and counters."""

    def __init__(
        self, items: list[IndexedItem], index: StringIndex, semantic: SemanticLevel | None, config: DecontaminateConfig
    ) -> None:
        self.items, self.index, self.semantic, self.config = items, index, semantic, config
        self.removed: list[Evidence] = []
        self.review: list[Evidence] = []
        self.templates: list[Evidence] = []
        self.counts: dict[str, Counter] = {}
        self.benchmark_counts: dict[str, Counter] = defaultdict(Counter)
        self.hit_items: dict[str, set[str]] = defaultdict(set)
        self._examples: Counter = Counter()

    def split(self, split: str, rows: Sequence[Record]) -> list[Record]:
        counter = self.counts[split] = Counter(records=len(rows), kept=0, removed=0, review=0, template=0)
        kept: list[Record] = []
        for start in range(0, len(rows), BATCH):
            kept.extend(self._batch(split, rows[start : start + BATCH], counter))
        counter["kept"] = len(kept)
        return kept

    def _batch(self, split: str, rows: Sequence[Record], counter: Counter) -> list[Record]:
        places = [(row, name, text) for row, record in enumerate(rows) for name, text in fields(record)]
        found = [tokens(text) for _, _, text in places]
        dropped: set[int] = set()
        templates: dict[int, tuple] = {}
        for (row, name, text), matches in zip(
            places, self.index.search(found, [text for _, _, text in places]), strict=True
        ):
            real = [match for match in matches if match.level != "template"]
            if real:
                self._record(split, rows[row], name, text, real[0], "removed", counter, first=row not in dropped)
                dropped.add(row)
            elif matches and row not in templates:
                templates[row] = (name, text, matches[0])
        for row, (name, text, match) in templates.items():
            if row not in dropped:
                self._record(split, rows[row], name, text, match, "kept", counter)
        if self.semantic:
            self._semantic(split, rows, places, found, dropped, counter)
        return [record for row, record in enumerate(rows) if row not in dropped]

    def _semantic(self, split, rows, places, found, dropped: set[int], counter: Counter) -> None:
        waiting = [
            (row, name, text, own)
            for (row, name, text), own in zip(places, found, strict=True)
            if row not in dropped and name.partition("[")[0].partition(".")[0] in SEMANTIC_FIELDS
        ]
        results = self.semantic.search([(text, own) for _, _, text, own in waiting])
        for (row, name, text, _), matches in zip(waiting, results, strict=True):
            if not matches or row in dropped:
                continue
            best = matches[0]
            near = best.score >= max(self.config.semantic_threshold, best.floor + SIBLING_MARGIN)
            match = _Finding(best.item, "semantic", best.score)
            self._record(split, rows[row], name, text, match, "removed" if near else "review", counter)
            if near:
                dropped.add(row)

    def _record(self, split, record, name, text, match, decision, counter: Counter, first: bool = True) -> None:
        item = self.items[match.item]
        kind = "template" if match.level == "template" else decision
        if first:
            counter[kind] += 1
            self.benchmark_counts[item.benchmark][kind] += 1
            if kind == "removed":
                counter[f"removed:{match.level}"] += 1
        if kind == "removed":
            self.hit_items[item.benchmark].add(item.item)
        if kind == "template":
            self._examples[split, item.benchmark] += 1
            if self._examples[split, item.benchmark] > TEMPLATE_EXAMPLES:
                return
        shown = excerpt(text, item.text)
        spans, benchmark_spans = matching_spans(shown, item.text)
        evidence = Evidence(
            item=record.id,
            split=split,
            field=name,
            benchmark=item.benchmark,
            benchmark_item=item.item,
            level=match.level,
            decision=decision,
            score=round(float(match.score), 6),
            text=shown,
            benchmark_text=item.text,
            spans=spans,
            benchmark_spans=benchmark_spans,
        )
        {"removed": self.removed, "review": self.review, "template": self.templates}[kind].append(evidence)


@dataclass(frozen=True)
class _Finding:
    item: int
    level: str
    score: float
