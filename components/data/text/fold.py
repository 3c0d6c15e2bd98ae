"""Folding: what Python's Unicode tables do to a text before the kernels see it, and the tables the kernels read.

ASCII texts, most of a corpus, need nothing. Others get NFKC and casefold, and the typographic forms of operators and
of powers become the ones people type (`x²` and `x^2` are one text).
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np

# Classes of a code point.
OTHER, LETTER, DIGIT, CJK, OPERATOR, BACKSLASH, NEWLINE = range(7)

OPERATORS = "+-*/=<>^%&|!~()[]≤≥≠±√∑∫→"
_SAME = {
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff"),  # invisible: soft hyphen, zero-width marks
    "−": "-", "–": "-", "‒": "-", "‐": "-", "‑": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "∕": "/",
    "⁄": "/", "⩽": "≤", "⩾": "≥", "∈": " in ", "∞": " infty ", "π": " pi ", "∑": "∑", "°": " circ ", "½": " 1/2 ",
    "¼": " 1/4 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 ",
    **{mark: f"^{value}" for value, mark in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}  # fmt: skip
_TRANSLATION = str.maketrans(_SAME)
# Scripts written without spaces: every character is a token.
_UNSPACED = ((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3040, 0x3100), (0x31F0, 0x3200), (0x3400, 0x4DC0),
             (0x4E00, 0xA000), (0xAC00, 0xD7B0), (0xF900, 0xFB00))  # fmt: skip


def fold(text: str) -> str:
    """NFKC, case-folded, operators in their usual form. ASCII comes back as it is: kernels fold its case."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", text.translate(_TRANSLATION)).casefold()


@functools.cache
def classes() -> np.ndarray:
    """[65536] uint8: the class of every code point of the basic plane."""
    table = np.zeros(0x10000, dtype=np.uint8)
    for point in range(0x10000):
        category = unicodedata.category(chr(point))
        if category[0] in "LM":
            table[point] = LETTER
    for low, high in _UNSPACED:
        table[low:high][table[low:high] == LETTER] = CJK
    table[ord("0") : ord("9") + 1] = DIGIT
    for mark in OPERATORS:
        table[ord(mark)] = OPERATOR
    table[ord("\\")] = BACKSLASH
    table[ord("\n")] = table[ord("\r")] = NEWLINE
    return table
