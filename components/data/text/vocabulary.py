"""Names the tokeniser knows: LaTeX commands and what becomes of them, number words and their values.

Kernels look names up by hash, so both are sorted tables of (hash, meaning).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

OFFSET, PRIME = 0xCBF29CE484222325, 0x100000001B3
_MASK = (1 << 64) - 1

# What becomes of a LaTeX command; larger values are the code point of the operator it writes.
WORD, DRESS, FRACTION, ENVIRONMENT, DEGREE = range(5)

_OPERATOR = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥",
    "geqslant": "≥", "ne": "≠", "neq": "≠", "pm": "±", "to": "→", "rightarrow": "→", "land": "&", "wedge": "&",
    "lor": "|", "vee": "|", "neg": "~", "lnot": "~", "sqrt": "√", "sum": "∑", "int": "∫", "lt": "<", "gt": ">",
    "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "bmod": "%",
}  # fmt: skip
_DRESS = """
left right big bigl bigr Big Bigl Bigr bigg biggl biggr Bigg text textbf textit textrm textsf textsc texttt emph mathrm
mathbf mathit mathsf mathcal mathbb boldsymbol bm operatorname displaystyle textstyle scriptstyle quad qquad hspace
vspace limits nolimits boxed mbox hbox item label tag underline noindent par newline rm bf it sf tt cal centering mathop
"""
_FRACTION = "frac dfrac tfrac cfrac"

UNIT, TEEN, TEN, HUNDRED, SCALE = range(1, 6)
_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def name_hash(name: str) -> int:
    """FNV-1a over code points, the hash of a token in the kernels."""
    value = OFFSET
    for character in name:
        value = ((value ^ ord(character)) * PRIME) & _MASK
    return value


def _sorted(entries: Iterable[tuple[str, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = sorted((name_hash(name), first, second) for name, first, second in entries)
    return (
        np.array([row[0] for row in rows], dtype=np.uint64),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.int64),
    )


@functools.cache
def commands() -> tuple[np.ndarray, np.ndarray]:
    """(sorted hashes of LaTeX command names, what becomes of each)."""
    entries = [(name, ord(mark), 0) for name, mark in _OPERATOR.items()]
    entries += [(name, DRESS, 0) for name in _DRESS.split()]
    entries += [(name, FRACTION, 0) for name in _FRACTION.split()]
    entries += [("begin", ENVIRONMENT, 0), ("end", ENVIRONMENT, 0), ("circ", DEGREE, 0), ("degree", DEGREE, 0)]
    return _sorted(entries)[:2]


@functools.cache
def number_words() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sorted hashes of number words, kind, value)."""
    entries = [(word, UNIT, value) for value, word in enumerate(_UNITS)]
    entries += [(word, TEEN, 10 + value) for value, word in enumerate(_TEENS)]
    entries += [(word, TEN, 20 + 10 * value) for value, word in enumerate(_TENS)]
    entries += [("hundred", HUNDRED, 100)]
    entries += [(word, SCALE, value) for word, value in _SCALES.items()]
    return _sorted(entries)


def spelled(value: int) -> str:
    """An integer from 0 to 999,999 in English words, as people write it: `one hundred twenty-five`."""
    if value < 10:
        return _UNITS[value]
    if value < 20:
        return _TEENS[value - 10]
    if value < 100:
        tens, unit = divmod(value, 10)
        return _TENS[tens - 2] + (f"-{_UNITS[unit]}" if unit else "")
    for size, word in ((1000, "thousand"), (100, "hundred")):
        if value >= size:
            high, rest = divmod(value, size)
            return f"{spelled(high)} {word}" + (f" {spelled(rest)}" if rest else "")
    raise AssertionError(value)
