"""The tokeniser's kernel: code points to token hashes in one pass.

What must not matter is skipped on the way: case, white space, punctuation of prose, Markdown and LaTeX dress. What
makes another problem is kept: words, numbers, operators. Every decision looks at a few characters around it only, so
one pass over a whole batch is enough; nothing here allocates per text.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from components.data.text.characters import (
    HASH_OFFSET,
    begins_word,
    class_of,
    find_sorted,
    group_end,
    is_space,
    line_start,
    lower,
    step,
)
from components.data.text.fold import BACKSLASH, CJK, DIGIT, LETTER, OPERATOR
from components.data.text.kinds import KIND_CJK, KIND_LETTER, KIND_NUMBER, KIND_OPERATOR, KIND_WORD
from components.data.text.numerals import number
from components.data.text.vocabulary import DEGREE, DRESS, ENVIRONMENT, FRACTION

_LINK = 300
_NESTED = 16


@njit(cache=True, nogil=True)
def scan(cp, offsets, table, names, actions, hashes, kinds, starts, ends, values, counts):
    """Tokens of every text.

    Args:
        cp: [characters] uint32 code points of all texts, back to back; offsets: [texts + 1] where each begins.
        table, names, actions: of fold.classes and vocabulary.commands.
        hashes, kinds, starts, ends, values: outputs with room for characters + 4 * texts tokens; starts and ends are
            positions in cp; values are those of whole numbers, else -1.
        counts: [texts] output, tokens of each text.
    """
    n = 0
    slashes = np.empty(_NESTED, dtype=np.int64)
    for text in range(len(offsets) - 1):
        lo, hi = offsets[text], offsets[text + 1]
        first = n
        latex = False
        for i in range(lo, hi):
            if cp[i] == 92:
                latex = True
                break
        depth = 0
        i = lo
        while i < hi:
            while depth and i >= slashes[depth - 1]:  # the numerator of a fraction ends
                depth -= 1
                hashes[n], kinds[n], starts[n], ends[n], values[n] = step(HASH_OFFSET, 47), KIND_OPERATOR, i, i, -1.0
                n += 1
            c = cp[i]
            k = class_of(table, c)
            if k == LETTER:
                h = HASH_OFFSET
                j = i
                while j < hi and class_of(table, cp[j]) == LETTER:
                    h = step(h, lower(cp[j]))
                    j += 1
                hashes[n], kinds[n] = h, KIND_LETTER if j - i == 1 else KIND_WORD
                starts[n], ends[n], values[n] = i, j, -1.0
                n += 1
                i = j
            elif k == DIGIT or (c == 46 and i + 1 < hi and 48 <= cp[i + 1] <= 57 and (i == lo or is_space(cp[i - 1]))):
                j, h, value = number(cp, i, lo, hi)
                hashes[n], kinds[n], starts[n], ends[n], values[n] = h, KIND_NUMBER, i, j, value
                n += 1
                i = j
            elif k == CJK:
                hashes[n], kinds[n] = step(HASH_OFFSET, c), KIND_CJK
                starts[n], ends[n], values[n] = i, i + 1, -1.0
                n += 1
                i += 1
            elif k == BACKSLASH:
                j = i + 1
                h = HASH_OFFSET
                while j < hi and (65 <= cp[j] <= 90 or 97 <= cp[j] <= 122):
                    h = step(h, cp[j])
                    j += 1
                if j == i + 1:  # an escaped character: spacing and math delimiters vanish, \% is %
                    escaped = cp[j] if j < hi else 32
                    i = j if escaped == 37 or escaped == 38 or escaped == 124 or escaped == 35 else j + 1
                    continue
                where = find_sorted(names, h)
                action = actions[where] if where >= 0 else 0
                if action == FRACTION:
                    while j < hi and is_space(cp[j]):
                        j += 1
                    if j < hi and cp[j] == 123:
                        end = group_end(cp, j, hi)
                        if end >= 0 and depth < _NESTED:
                            # Inner fractions end earlier: keep the nearest end on top.
                            slashes[depth] = end
                            depth += 1
                    elif j < hi and 48 <= cp[j] <= 57:  # \frac12
                        hashes[n], kinds[n] = step(HASH_OFFSET, cp[j]), KIND_NUMBER
                        starts[n], ends[n], values[n] = j, j + 1, float(cp[j] - 48)
                        n += 1
                        j += 1
                        hashes[n], kinds[n], starts[n], ends[n], values[n] = (
                            step(HASH_OFFSET, 47), KIND_OPERATOR, j, j, -1.0,
                        )  # fmt: skip
                        n += 1
                        if j < hi and 48 <= cp[j] <= 57:
                            hashes[n], kinds[n] = step(HASH_OFFSET, cp[j]), KIND_NUMBER
                            starts[n], ends[n], values[n] = j, j + 1, float(cp[j] - 48)
                            n += 1
                            j += 1
                elif action == ENVIRONMENT:
                    while j < hi and is_space(cp[j]):
                        j += 1
                    if j < hi and cp[j] == 123:
                        end = group_end(cp, j, hi)
                        if end >= 0:
                            j = end + 1
                elif action == DEGREE:
                    if n > first and kinds[n - 1] == KIND_OPERATOR and cp[starts[n - 1]] == 94:
                        n -= 1  # 90^\circ is 90°
                    h = HASH_OFFSET
                    for letter in (99, 105, 114, 99):
                        h = step(h, letter)
                    hashes[n], kinds[n], starts[n], ends[n], values[n] = h, KIND_WORD, i, j, -1.0
                    n += 1
                elif action > DEGREE:
                    hashes[n], kinds[n] = step(HASH_OFFSET, action), KIND_OPERATOR
                    starts[n], ends[n], values[n] = i, j, -1.0
                    n += 1
                elif action != DRESS:
                    h = HASH_OFFSET
                    for q in range(i + 1, j):
                        h = step(h, lower(cp[q]))
                    hashes[n], kinds[n] = h, KIND_LETTER if j - i == 2 else KIND_WORD
                    starts[n], ends[n], values[n] = i, j, -1.0
                    n += 1
                i = j
            elif k == OPERATOR:
                run = i + 1
                while run < hi and cp[run] == c:
                    run += 1
                before = i > lo and not is_space(cp[i - 1])
                after = run < hi and not is_space(cp[run])
                if c == 42 and before != after:  # *emphasis* and **strong**
                    i = run
                    continue
                if (c == 126 and (latex or run - i > 1)) or (c == 62 and run - i > 2):  # ~~~ and >>>
                    i = run
                    continue
                if (c == 42 or c == 43 or c == 45 or c == 62) and not after and line_start(cp, i, lo):
                    j = run
                    while j < hi and is_space(cp[j]):
                        j += 1
                    if begins_word(cp, table, j, hi):
                        i = j  # a list item or a quotation, not a formula that was wrapped
                        continue
                if c == 93 and run < hi and cp[run] == 40 and run == i + 1:  # [text](https://...)
                    j = run + 1
                    link = False
                    while j < hi and j < run + _LINK and not is_space(cp[j]) and cp[j] != 41:
                        link = link or cp[j] == 47 or cp[j] == 35
                        j += 1
                    if link and j < hi and cp[j] == 41:
                        i = j + 1
                        continue
                hashes[n], kinds[n] = step(HASH_OFFSET, c), KIND_OPERATOR
                starts[n], ends[n], values[n] = i, i + 1, -1.0
                n += 1
                i += 1
            elif c == 96 and i + 2 < hi and cp[i + 1] == 96 and cp[i + 2] == 96:  # ```python
                i += 3
                while i < hi and class_of(table, cp[i]) == LETTER:
                    i += 1
            else:
                i += 1
        while depth:
            depth -= 1
            hashes[n], kinds[n], starts[n], ends[n], values[n] = step(HASH_OFFSET, 47), KIND_OPERATOR, hi, hi, -1.0
            n += 1
        counts[text] = n - first
    return n
