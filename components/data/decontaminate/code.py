"""Code level: programs compared by tokens in which names do not matter.

Comments, docstrings, white space and the names a program chooses are dress. A name counts by the distance to its last
use (parameterised matching, Baker 1993), so renaming changes nothing, while another order of the same statements does.
Keywords, built-ins, attribute names, numbers, strings and operators stay what they are.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numba import njit

from components.data.decontaminate.kernels import build_table, known, mix
from components.data.text.characters import find_sorted
from components.data.text.vocabulary import OFFSET, PRIME, name_hash

WINDOW = 10
# A program of fewer windows is an idiom.
FEWEST = 8
# Share of a program's windows that must stand in a text, by how many it has: (at most so many windows, share).
SHARES = ((11, 1.0), (19, 0.8))
SHARE = 0.6
BOILERPLATE = 3
# Drawings inside a problem share their boilerplate and are no program.
_DRAWING = re.compile(r"\[asy\]|\\begin\{tikz")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_OFFSET, _PRIME = np.uint64(OFFSET), np.uint64(PRIME)
_MARKS = ("def ", "return ", "#include", "function ", "public ", "fn ", "func ", " => ", ";\n", "import ")
_NAMES = """
and as assert async await break class continue def del elif else except finally for from global if import in is lambda
nonlocal not or pass raise return try while with yield None True False self int float str bool bytes list
dict set tuple object len range enumerate zip map filter sorted sum min max abs any all print reversed round
isinstance ord chr divmod pow super repr format List Dict Tuple Set Optional Any Union Counter
defaultdict deque math function var let const new this null true false undefined void char double long short unsigned
signed struct switch default do static public private protected final extends implements interface package throw throws
catch using namespace std auto include printf scanf malloc free fn mut pub impl let struct enum 
loop func defer chan nil append fmt System out println Vec Some Ok Err
"""


@functools.cache
def _names() -> np.ndarray:
    return np.array(sorted({name_hash(name) for name in _NAMES.split()}), dtype=np.uint64)


def looks_like_code(text: str) -> bool:
    """Cheap and generous: what only looks so costs time, and finds nothing."""
    return "\n" in text and "(" in text and any(mark in text for mark in _MARKS)


def code_windows(text: str) -> np.ndarray:
    """[tokens - WINDOW + 1] uint64: a hash of every window of a program, with names replaced by distances."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return _windows(*_tokens(points, _names()), WINDOW)


@njit(cache=True, nogil=True)
def _name_part(c):
    return 48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122 or c == 95 or c > 127


@njit(cache=True, nogil=True)
def _tokens(cp, names):
    """(hashes, free): tokens of a program; `free` marks names that a program chooses."""
    hashes = np.empty(len(cp) + 1, dtype=np.uint64)
    free = np.zeros(len(cp) + 1, dtype=np.bool_)
    n = i = 0
    size = len(cp)
    fresh = True
    closed, dot = (_OFFSET ^ np.uint64(59)) * _PRIME, (_OFFSET ^ np.uint64(46)) * _PRIME
    while i < size:
        c = cp[i]
        if c <= 32:
            fresh = fresh or c == 10
            i += 1
            continue
        alone = fresh or (n > 0 and hashes[n - 1] == closed)  # `//` divides in Python
        fresh = False
        if c == 35 or (c == 47 and alone and i + 1 < size and cp[i + 1] == 47):
            while i < size and cp[i] != 10:  # a comment to the end of its line
                i += 1
            continue
        if c == 47 and i + 1 < size and cp[i + 1] == 42:
            i += 2
            while i + 1 < size and not (cp[i] == 42 and cp[i + 1] == 47):
                i += 1
            i += 2
            continue
        if (c == 34 or c == 39) and i + 2 < size and cp[i + 1] == c and cp[i + 2] == c:  # a docstring
            i += 3
            while i + 2 < size and not (cp[i] == c and cp[i + 1] == c and cp[i + 2] == c):
                i += 1
            i += 3
            continue
        h = _OFFSET
        if c == 34 or c == 39 or c == 96:
            j = i + 1
            while j < size and cp[j] != c and cp[j] != 10:
                if cp[j] == 92:
                    j += 1
                if j < size:
                    h = (h ^ np.uint64(cp[j])) * _PRIME
                j += 1
            hashes[n] = (h ^ np.uint64(34)) * _PRIME
            n += 1
            i = j + 1
            continue
        if _name_part(c):
            j = i
            while j < size and _name_part(cp[j]):
                h = (h ^ np.uint64(cp[j])) * _PRIME
                j += 1
            hashes[n] = h
            attribute = n > 0 and hashes[n - 1] == dot
            free[n] = not (48 <= c <= 57) and not attribute and find_sorted(names, h) < 0
            n += 1
            i = j
            continue
        hashes[n] = (h ^ np.uint64(c)) * _PRIME
        n += 1
        i += 1
    return hashes[:n], free[:n]


@njit(cache=True, nogil=True)
def _windows(hashes, free, width):
    n = len(hashes)
    last = np.full(n, -1, dtype=np.int64)
    for i in range(n):  # nearest earlier use of the same name, within a window
        if free[i]:
            for j in range(i - 1, max(-1, i - width), -1):
                if free[j] and hashes[j] == hashes[i]:
                    last[i] = j
                    break
    out = np.empty(max(0, n - width + 1), dtype=np.uint64)
    for start in range(len(out)):
        value = np.uint64(0)
        for i in range(start, start + width):
            token = hashes[i]
            if free[i]:
                token = np.uint64(i - last[i]) if last[i] >= start else np.uint64(0)
            value = value * _MULTIPLIER + mix(token + np.uint64(1))
        out[start] = mix(value) | np.uint64(1)
    return out


class CodeIndex:
    """The benchmarks' programs: for every item the windows few other items have.

    Args:
        texts: (item position, program) pairs.
    """

    def __init__(self, texts: Sequence[tuple[int, str]]) -> None:
        found = {}
        for position, text in texts:
            windows = set(code_windows(text).tolist()) if looks_like_code(text) and not _DRAWING.search(text) else set()
            if len(windows) >= FEWEST:
                found[position] = windows
        holders: dict[int, set[frozenset]] = defaultdict(set)
        for windows in found.values():
            identity = hash(frozenset(windows))
            for window in windows:
                holders[window].add(identity)
        self._owners: dict[int, list[int]] = defaultdict(list)
        self._totals: dict[int, int] = {}
        for position, windows in found.items():
            own = [window for window in windows if len(holders[window]) <= BOILERPLATE]
            if len(own) >= FEWEST:
                self._totals[position] = len(own)
                for window in own:
                    self._owners[window].append(position)
        self._keys = np.array(sorted(self._owners), dtype=np.uint64)
        self._table = build_table(self._keys)

    def __bool__(self) -> bool:
        return bool(self._totals)

    def search(self, text: str) -> list[tuple[int, float]]:
        """(item, share of its windows found) of programs that stand in the text, best first."""
        windows = np.unique(code_windows(text))
        counts: dict[int, int] = defaultdict(int)
        for window in windows[known(windows, self._keys, *self._table)].tolist():
            for position in self._owners[window]:
                counts[position] += 1
        shares = [(position, count / self._totals[position]) for position, count in counts.items()]
        near = ((position, share) for position, share in shares if share >= self._needed(position))
        return sorted(near, key=lambda found: (-found[1], found[0]))

    def _needed(self, position: int) -> float:
        return next((share for most, share in SHARES if self._totals[position] <= most), SHARE)
