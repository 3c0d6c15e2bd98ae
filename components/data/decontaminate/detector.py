"""Every level on a batch of records, as a pure function of the batch: workers give the same bytes as one process.

What needs the embedding model is left as candidates for whoever holds it (components.data.decontaminate.engine).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from components.data.decontaminate.align import align
from components.data.decontaminate.code import CodeIndex, looks_like_code
from components.data.decontaminate.confirm import Match, confirm, confirm_resembling
from components.data.decontaminate.evidence import Evidence, Level, evidence_texts
from components.data.decontaminate.index import SEED, BenchmarkIndex, IndexedItem
from components.data.decontaminate.kernels import ngram_hashes
from components.data.decontaminate.semantic import Asked, Embed, SemanticLevel
from components.data.text.tokens import Tokens, tokenise
from components.recipe.data import DecontaminateConfig

TEMPLATE_EXAMPLES = 5
MATCHES_PER_TEXT = 8
RANK: dict[Level, int] = {"exact": 0, "contained": 1, "ngram": 2, "lcs": 3, "minhash": 4, "code": 5, "template": 9}
# Fields compared by meaning; a worked solution resembles every other solution of its kind.
SEMANTIC_FIELDS = frozenset(
    {"question", "prompt", "text", "problem", "instruction", "puzzle", "query", "content", "messages", "conversations",
     "conversation", "input", "writing_prompt", "document"}
)  # fmt: skip

Fields = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Candidate:
    """A text that may be a paraphrase. pairs: what SemanticLevel.candidates asks of it, by item."""

    row: int
    field: str
    text: str
    pairs: tuple[Asked, ...]


@dataclass
class BatchResult:
    """What the string levels found in a batch of records.

    removed: (row, item position, evidence). templates: (row, item position). examples: evidence of the first templates
    of every benchmark. candidates: of rows that are not removed. semantic: counts of the pre-filter.
    """

    removed: list[tuple[int, int, Evidence]] = field(default_factory=list)
    templates: list[tuple[int, int]] = field(default_factory=list)
    examples: list[Evidence] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    semantic: Counter = field(default_factory=Counter)


class Detector:
    """Args: items: texts of the benchmarks; embed: replaces the packaged embedding model."""

    def __init__(self, items: Sequence[IndexedItem], config: DecontaminateConfig, embed: Embed | None = None) -> None:
        self.items, self.config = list(items), config
        self.semantic: SemanticLevel | None = None
        if not self.items:
            return
        self.index = BenchmarkIndex(self.items, config.ngram)
        self.code = CodeIndex(self._programs())
        if config.semantic:
            self.semantic = SemanticLevel(self.index, config.semantic_threshold, config.semantic_review, embed)

    def _programs(self) -> list[tuple[int, str]]:
        """(item position, text) of what may be programs: the solution where there is one, else the question."""
        solved = {(item.benchmark, item.item) for item in self.items if item.field == "solution"}
        return [
            (position, item.text)
            for position, item in enumerate(self.items)
            if item.field == "solution" or (item.benchmark, item.item) not in solved
        ]

    def search(self, split: str, ids: Sequence[str], records: Sequence[Fields]) -> BatchResult:
        """String levels on every field of every record, and the candidates of the semantic level."""
        places = [(row, name, text) for row, record in enumerate(records) for name, text in record]
        result = BatchResult()
        if not places or not self.items:
            return result
        texts = [text for _, _, text in places]
        batch = tokenise(texts)
        dropped: set[int] = set()
        templates: dict[int, tuple[int, Match]] = {}
        for place, matches in sorted(self.matches(texts, batch).items()):
            row, name, text = places[place]
            real = [match for match in matches if match.level != "template"]
            for match in real[:MATCHES_PER_TEXT]:
                result.removed.append(
                    (row, match.item, self._evidence(split, ids[row], name, text, match, batch, place))
                )
            if real:
                dropped.add(row)
            elif row not in templates:
                templates[row] = (place, matches[0])
        self._templates(result, split, ids, places, batch, {r: t for r, t in templates.items() if r not in dropped})
        if self.semantic:
            self._candidates(result, places, batch, dropped)
        return result

    def matches(self, texts: Sequence[str], batch: Tokens) -> dict[int, list[Match]]:
        """{text: findings, best first} of the string and code levels."""
        found: dict[int, dict[int, Match]] = {}

        def add(text: int, match: Match | None) -> None:
            if match is not None:
                known = found.setdefault(text, {})
                if match.item not in known or RANK[match.level] < RANK[known[match.item].level]:
                    known[match.item] = match

        for text, items in self.index.equal(batch):
            for item in items:
                add(text, Match(item, "exact", 1.0))
        for text, items in self.index.lines(batch):
            for item in items:
                if item not in found.get(text, ()):
                    add(text, Match(item, "contained", 1.0))
        grams = ngram_hashes(batch.hashes, batch.offsets, SEED)
        for text, item, _ in self.index.overlapping(batch, grams).tolist():
            if item not in found.get(text, ()):
                add(text, confirm(self.index, item, batch.text(text), self.config.min_coverage))
        for text, item, similarity in self.index.resembling(batch):
            if item not in found.get(text, ()):
                add(text, confirm_resembling(self.index, item, batch.text(text), similarity))
        if self.code:
            for text, content in enumerate(texts):
                if looks_like_code(content):
                    for item, share in self.code.search(content):
                        # A question with a program in it and other numbers is a template as any other.
                        known = found.get(text, {}).get(item)
                        if known is None or known.level != "template" or self.items[item].field != "question":
                            add(text, Match(item, "code", share))
        for text, items in self.index.siblings(batch):
            if text not in found:
                add(text, Match(items[0], "template", 0.0))
        return {text: sorted(known.values(), key=_order) for text, known in found.items()}

    def _templates(self, result: BatchResult, split, ids, places, batch, templates) -> None:
        shown: Counter = Counter()
        for row, (place, match) in sorted(templates.items()):
            result.templates.append((row, match.item))
            benchmark = self.items[match.item].benchmark
            shown[benchmark] += 1
            if shown[benchmark] <= TEMPLATE_EXAMPLES:
                _, name, text = places[place]
                result.examples.append(self._evidence(split, ids[row], name, text, match, batch, place))

    def _candidates(self, result: BatchResult, places, batch: Tokens, dropped: set[int]) -> None:
        wanted = np.fromiter(
            (
                row not in dropped and name.partition("[")[0].partition(".")[0] in SEMANTIC_FIELDS
                for row, name, _ in places
            ),
            dtype=bool,
            count=len(places),
        )
        before = Counter(self.semantic.counts)
        by_text: dict[int, list[Asked]] = {}
        for text, asked in self.semantic.candidates(batch, wanted):
            by_text.setdefault(text, []).append(asked)
        for place, pairs in sorted(by_text.items()):
            row, name, text = places[place]
            result.candidates.append(Candidate(row, name, text, tuple(pairs)))
        result.semantic = Counter(self.semantic.counts)
        result.semantic.subtract(before)

    def _evidence(self, split, record: str, name: str, text: str, match: Match, batch: Tokens, place: int) -> Evidence:
        own = batch.text(place)
        pairs = match.pairs
        if pairs is None:
            if match.level == "exact":
                pairs = np.repeat(np.arange(len(own.hashes))[:, None], 2, axis=1)
            else:
                pairs = align(self.index.single[match.item], own, self.index.weights[match.item]).pairs
        return self.evidence(split, record, name, text, match.item, match.level, match.score, pairs)

    def evidence(
        self, split: str, record: str, name: str, text: str, position: int, level: Level, score: float,
        pairs: np.ndarray, decision: str = "",
    ) -> Evidence:  # fmt: skip
        """Evidence of one finding, with the spans its aligned tokens cover."""
        item = self.items[position]
        shown, spans, benchmark_spans = evidence_texts(text, item.text, pairs)
        return Evidence(
            item=record,
            split=split,
            field=name,
            benchmark=item.benchmark,
            benchmark_item=item.item,
            benchmark_field=item.field,
            level=level,
            decision=decision or ("kept" if level == "template" else "removed"),
            score=round(float(score), 6),
            text=shown,
            benchmark_text=item.text,
            spans=spans,
            benchmark_spans=benchmark_spans,
        )


def _order(match: Match) -> tuple[bool, float, int, int]:
    return match.level == "template", -match.score, RANK[match.level], match.item
