"""What a text consists of: stems of its words, and how much of it is prose, formula or unspaced script."""

from __future__ import annotations

import numpy as np
from numba import njit

from components.data.text.characters import HASH_OFFSET, lower, step
from components.data.text.kinds import KIND_CJK, KIND_LETTER, KIND_WORD


@njit(cache=True, nogil=True)
def stems(cp, kinds, starts, ends):
    """[tokens] uint64: hash of the first five letters of every word, so that inflection counts less; 0 elsewhere."""
    out = np.zeros(len(kinds), dtype=np.uint64)
    for i in range(len(kinds)):
        if kinds[i] == KIND_WORD:
            h = HASH_OFFSET
            for j in range(starts[i], min(ends[i], starts[i] + 5)):
                h = step(h, lower(cp[j]))
            out[i] = h
    return out


@njit(cache=True, nogil=True)
def profile(cp, kinds, starts, ends, offsets):
    """[texts, 3] int64: words of three letters or more, unspaced characters, and formula tokens of every text.

    Formula tokens are numbers, operators and one-letter names, but not the articles of English prose.
    """
    out = np.zeros((len(offsets) - 1, 3), dtype=np.int64)
    for text in range(len(offsets) - 1):
        for i in range(offsets[text], offsets[text + 1]):
            kind = kinds[i]
            if kind == KIND_WORD:
                out[text, 0] += ends[i] - starts[i] >= 3
            elif kind == KIND_CJK:
                out[text, 1] += 1
            elif kind == KIND_LETTER:
                letter = lower(cp[ends[i] - 1])
                out[text, 2] += letter != 97 and letter != 105
            else:
                out[text, 2] += 1
    return out
