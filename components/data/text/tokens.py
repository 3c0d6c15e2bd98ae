"""A batch of texts as arrays of tokens, and the few questions that are asked about single ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.data.text.fold import classes, fold
from components.data.text.kinds import KIND_NUMBER
from components.data.text.profile import profile
from components.data.text.refine import refine
from components.data.text.scan import scan
from components.data.text.vocabulary import DEGREE, commands, name_hash, number_words


@dataclass(frozen=True)
class Tokens:
    """Tokens of many texts, back to back.

    hashes: [n] uint64; equal tokens have equal hashes. kinds: [n] uint8. starts, ends: [n] int64, positions in
    `points`. values: [n] float64 of whole numbers, else -1. offsets: [texts + 1] int64, where each text's tokens begin.
    points: [characters] uint32 of the folded texts.
    """

    hashes: np.ndarray
    kinds: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    values: np.ndarray
    offsets: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, index: int) -> Tokens:
        """The tokens of one text."""
        low, high = int(self.offsets[index]), int(self.offsets[index + 1])
        return self.slice(low, high)

    def slice(self, low: int, high: int) -> Tokens:
        """Tokens [low, high) as one text."""
        parts = (getattr(self, name)[low:high] for name in ("hashes", "kinds", "starts", "ends", "values"))
        return Tokens(*parts, np.array([0, high - low], dtype=np.int64), self.points)

    def select(self, places: np.ndarray) -> Tokens:
        """The tokens at `places` (positions or a mask) as one text."""
        parts = [getattr(self, name)[places] for name in ("hashes", "kinds", "starts", "ends", "values")]
        return Tokens(*parts, np.array([0, len(parts[0])], dtype=np.int64), self.points)

    def strings(self) -> list[str]:
        """Canonical strings of all tokens: `twelve` and `12` are `12`, `1,200.50` is `1200.5`, `\\times` is `*`."""
        return [self._string(position) for position in range(len(self.hashes))]

    def _string(self, position: int) -> str:
        kind, value = int(self.kinds[position]), float(self.values[position])
        start, end = int(self.starts[position]), int(self.ends[position])
        if start == end:
            return "/"
        text = self.points[start:end].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
        if kind == KIND_NUMBER:
            if (not text[0].isdigit() and text[0] != ".") or " " in text or "-" in text:
                return str(int(value))
            number = text.replace("{,}", "").replace("\\,", "").replace(",", "")
            number = number.rstrip("0").rstrip(".") if "." in number else number
            return f"0{number}" if number[:1] in (".", "") else number
        if text[0] == "\\":
            names, actions = commands()
            place = int(np.searchsorted(names, np.uint64(name_hash(text[1:]))))
            known = place < len(names) and int(names[place]) == name_hash(text[1:])
            if known and actions[place] > DEGREE:
                return chr(int(actions[place]))
            return "circ" if known and actions[place] == DEGREE else text[1:].casefold()
        return text.casefold()


def tokenise(texts: Sequence[str]) -> Tokens:
    """Tokens of every text; the work of a batch is one call, so pass many at once."""
    folded = [fold(text) for text in texts]
    points = np.frombuffer("".join(folded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    offsets = np.zeros(len(folded) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in folded], out=offsets[1:])
    room = len(points) + 4 * len(folded) + 8
    hashes, kinds = np.empty(room, dtype=np.uint64), np.empty(room, dtype=np.uint8)
    starts, ends = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
    values, counts = np.empty(room, dtype=np.float64), np.empty(len(folded), dtype=np.int64)
    scan(points, offsets, classes(), *commands(), hashes, kinds, starts, ends, values, counts)
    size = refine(points, *number_words(), hashes, kinds, starts, ends, values, counts)
    bounds = np.zeros(len(folded) + 1, dtype=np.int64)
    np.cumsum(counts, out=bounds[1:])
    return Tokens(hashes[:size], kinds[:size], starts[:size], ends[:size], values[:size], bounds, points)


def formula_like(tokens: Tokens) -> np.ndarray:
    """[texts] bool: mostly numbers, operators and one-letter names, where every symbol counts and no synonym exists."""
    return 2 * _profile(tokens)[:, 2] >= np.diff(tokens.offsets)


PROSE_WORDS = 5


def is_prose(tokens: Tokens) -> np.ndarray:
    """[texts] bool: enough real words for a paraphrase to exist; symbols and codes have no synonyms."""
    counts = _profile(tokens)
    wordy = (counts[:, 0] >= PROSE_WORDS) | (counts[:, 1] >= 2 * PROSE_WORDS)
    return wordy & (2 * counts[:, 2] < np.diff(tokens.offsets))


def _profile(tokens: Tokens) -> np.ndarray:
    return profile(tokens.points, tokens.kinds, tokens.starts, tokens.ends, tokens.offsets)
