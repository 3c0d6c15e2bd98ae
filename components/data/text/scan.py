"""The tokeniser's kernel: code points to token hashes in one pass.

What must not matter is skipped on the way: case, white space, punctuation of prose, Markdown and LaTeX dress. What
makes another problem is kept: words, numbers, operators. Every decision looks at a few characters around it only, so
one pass over a whole batch is enough; nothing here allocates per text.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from components.data.text.fold import BACKSLASH, CJK, DIGIT, LETTER, OPERATOR
from components.data.text.vocabulary import (
    DEGREE,
    DRESS,
    ENVIRONMENT,
    FRACTION,
    HUNDRED,
    OFFSET,
    PRIME,
    SCALE,
    TEEN,
    TEN,
    UNIT,
)

# Kinds of token.
KIND_WORD, KIND_NUMBER, KIND_OPERATOR, KIND_LETTER, KIND_CJK = range(5)

_OFFSET, _PRIME = np.uint64(OFFSET), np.uint64(PRIME)
_LOOKAHEAD = 400
_LINK = 300
_NESTED = 16


@njit(cache=True, nogil=True)
def _class(table, point):
    if point < 0x10000:
        return table[point]
    if 0x20000 <= point < 0x40000:
        return CJK
    return LETTER if point < 0x1F000 else 0


@njit(cache=True, nogil=True)
def _step(value, point):
    return (value ^ np.uint64(point)) * _PRIME


@njit(cache=True, nogil=True)
def _lower(point):
    return point + 32 if 65 <= point <= 90 else point


@njit(cache=True, nogil=True)
def find_sorted(keys, key):
    """Position of `key` in the sorted `keys`, or -1."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < len(keys) and keys[low] == key else -1


@njit(cache=True, nogil=True)
def _is_space(point):
    return point == 32 or 9 <= point <= 13 or point == 160


@njit(cache=True, nogil=True)
def _group_end(cp, start, hi):
    """Position of the brace that closes the one at `start`, or -1 when it is not near."""
    depth = 0
    for i in range(start, min(hi, start + _LOOKAHEAD)):
        if cp[i] == 123:
            depth += 1
        elif cp[i] == 125:
            depth -= 1
            if depth == 0:
                return i
    return -1


@njit(cache=True, nogil=True)
def _line_start(cp, i, lo):
    """True when only white space stands between `i` and the beginning of its line."""
    i -= 1
    while i >= lo:
        if cp[i] == 10 or cp[i] == 13:
            return True
        if not _is_space(cp[i]):
            return False
        i -= 1
    return True


@njit(cache=True, nogil=True)
def _begins_word(cp, table, i, hi):
    """True for a word of two letters or more, and for the articles of English prose."""
    if i + 1 >= hi or _class(table, cp[i]) != LETTER:
        return False
    return _class(table, cp[i + 1]) == LETTER or (_is_space(cp[i + 1]) and (cp[i] | 32 == 97 or cp[i] == 73))


@njit(cache=True, nogil=True)
def _three_digits(cp, i, hi):
    if i + 3 > hi:
        return False
    for j in range(i, i + 3):
        if cp[j] < 48 or cp[j] > 57:
            return False
    return i + 3 == hi or cp[i + 3] < 48 or cp[i + 3] > 57


@njit(cache=True, nogil=True)
def _number(cp, i, lo, hi):
    """(end, hash, value or -1) of the number at `i`: separators of thousands and trailing zeros do not matter."""
    h, value = _OFFSET, 0.0
    j = i
    while j < hi and 48 <= cp[j] <= 57:
        h = _step(h, cp[j])
        value = value * 10 + (cp[j] - 48)
        j += 1
    listed = i > lo + 1 and cp[i - 1] == 44 and 48 <= cp[i - 2] <= 57
    if j - i <= 3 and j > i and not listed:
        p, ph, pv = j, h, value
        while p < hi:
            skip = 0
            if cp[p] == 44 and _three_digits(cp, p + 1, hi):  # 1,234
                skip = 1
            elif cp[p] == 92 and p + 1 < hi and cp[p + 1] == 44 and _three_digits(cp, p + 2, hi):  # 1\,234
                skip = 2
            elif cp[p] == 123 and p + 2 < hi and cp[p + 1] == 44 and cp[p + 2] == 125 and _three_digits(cp, p + 3, hi):
                skip = 3  # 1{,}234
            if not skip:
                break
            p += skip
            for _ in range(3):
                ph = _step(ph, cp[p])
                pv = pv * 10 + (cp[p] - 48)
                p += 1
        if not (p + 1 < hi and cp[p] == 44 and 48 <= cp[p + 1] <= 57):
            j, h, value = p, ph, pv
    if j + 1 < hi and cp[j] == 46 and 48 <= cp[j + 1] <= 57:
        e = j + 1
        while e < hi and 48 <= cp[e] <= 57:
            e += 1
        if not (e + 1 < hi and cp[e] == 46 and 48 <= cp[e + 1] <= 57):  # 1.2.3 is a version or a section
            last = e
            while last > j + 1 and cp[last - 1] == 48:
                last -= 1
            if last > j + 1:
                if j == i:
                    h = _step(h, 48)  # .5 is 0.5
                for q in range(j, last):
                    h = _step(h, cp[q])
                value = -1.0
            elif j == i:
                h = _step(h, 48)
            j = e
    return j, h, value if value < 1e15 else -1.0


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
                hashes[n], kinds[n], starts[n], ends[n], values[n] = _step(_OFFSET, 47), KIND_OPERATOR, i, i, -1.0
                n += 1
            c = cp[i]
            k = _class(table, c)
            if k == LETTER:
                h = _OFFSET
                j = i
                while j < hi and _class(table, cp[j]) == LETTER:
                    h = _step(h, _lower(cp[j]))
                    j += 1
                hashes[n], kinds[n] = h, KIND_LETTER if j - i == 1 else KIND_WORD
                starts[n], ends[n], values[n] = i, j, -1.0
                n += 1
                i = j
            elif k == DIGIT or (c == 46 and i + 1 < hi and 48 <= cp[i + 1] <= 57 and (i == lo or _is_space(cp[i - 1]))):
                j, h, value = _number(cp, i, lo, hi)
                hashes[n], kinds[n], starts[n], ends[n], values[n] = h, KIND_NUMBER, i, j, value
                n += 1
                i = j
            elif k == CJK:
                hashes[n], kinds[n] = _step(_OFFSET, c), KIND_CJK
                starts[n], ends[n], values[n] = i, i + 1, -1.0
                n += 1
                i += 1
            elif k == BACKSLASH:
                j = i + 1
                h = _OFFSET
                while j < hi and (65 <= cp[j] <= 90 or 97 <= cp[j] <= 122):
                    h = _step(h, cp[j])
                    j += 1
                if j == i + 1:  # an escaped character: spacing and math delimiters vanish, \% is %
                    escaped = cp[j] if j < hi else 32
                    i = j if escaped == 37 or escaped == 38 or escaped == 124 or escaped == 35 else j + 1
                    continue
                where = find_sorted(names, h)
                action = actions[where] if where >= 0 else 0
                if action == FRACTION:
                    while j < hi and _is_space(cp[j]):
                        j += 1
                    if j < hi and cp[j] == 123:
                        end = _group_end(cp, j, hi)
                        if end >= 0 and depth < _NESTED:
                            # Inner fractions end earlier: keep the nearest end on top.
                            slashes[depth] = end
                            depth += 1
                    elif j < hi and 48 <= cp[j] <= 57:  # \frac12
                        hashes[n], kinds[n] = _step(_OFFSET, cp[j]), KIND_NUMBER
                        starts[n], ends[n], values[n] = j, j + 1, float(cp[j] - 48)
                        n += 1
                        j += 1
                        hashes[n], kinds[n], starts[n], ends[n], values[n] = (
                            _step(_OFFSET, 47), KIND_OPERATOR, j, j, -1.0,
                        )  # fmt: skip
                        n += 1
                        if j < hi and 48 <= cp[j] <= 57:
                            hashes[n], kinds[n] = _step(_OFFSET, cp[j]), KIND_NUMBER
                            starts[n], ends[n], values[n] = j, j + 1, float(cp[j] - 48)
                            n += 1
                            j += 1
                elif action == ENVIRONMENT:
                    while j < hi and _is_space(cp[j]):
                        j += 1
                    if j < hi and cp[j] == 123:
                        end = _group_end(cp, j, hi)
                        if end >= 0:
                            j = end + 1
                elif action == DEGREE:
                    if n > first and kinds[n - 1] == KIND_OPERATOR and cp[starts[n - 1]] == 94:
                        n -= 1  # 90^\circ is 90°
                    h = _OFFSET
                    for letter in (99, 105, 114, 99):
                        h = _step(h, letter)
                    hashes[n], kinds[n], starts[n], ends[n], values[n] = h, KIND_WORD, i, j, -1.0
                    n += 1
                elif action > DEGREE:
                    hashes[n], kinds[n] = _step(_OFFSET, action), KIND_OPERATOR
                    starts[n], ends[n], values[n] = i, j, -1.0
                    n += 1
                elif action != DRESS:
                    h = _OFFSET
                    for q in range(i + 1, j):
                        h = _step(h, _lower(cp[q]))
                    hashes[n], kinds[n] = h, KIND_LETTER if j - i == 2 else KIND_WORD
                    starts[n], ends[n], values[n] = i, j, -1.0
                    n += 1
                i = j
            elif k == OPERATOR:
                run = i + 1
                while run < hi and cp[run] == c:
                    run += 1
                before = i > lo and not _is_space(cp[i - 1])
                after = run < hi and not _is_space(cp[run])
                if c == 42 and before != after:  # *emphasis* and **strong**
                    i = run
                    continue
                if (c == 126 and (latex or run - i > 1)) or (c == 62 and run - i > 2):  # ~~~ and >>>
                    i = run
                    continue
                if (c == 42 or c == 43 or c == 45 or c == 62) and not after and _line_start(cp, i, lo):
                    j = run
                    while j < hi and _is_space(cp[j]):
                        j += 1
                    if _begins_word(cp, table, j, hi):
                        i = j  # a list item or a quotation, not a formula that was wrapped
                        continue
                if c == 93 and run < hi and cp[run] == 40 and run == i + 1:  # [text](https://...)
                    j = run + 1
                    link = False
                    while j < hi and j < run + _LINK and not _is_space(cp[j]) and cp[j] != 41:
                        link = link or cp[j] == 47 or cp[j] == 35
                        j += 1
                    if link and j < hi and cp[j] == 41:
                        i = j + 1
                        continue
                hashes[n], kinds[n] = _step(_OFFSET, c), KIND_OPERATOR
                starts[n], ends[n], values[n] = i, i + 1, -1.0
                n += 1
                i += 1
            elif c == 96 and i + 2 < hi and cp[i + 1] == 96 and cp[i + 2] == 96:  # ```python
                i += 3
                while i < hi and _class(table, cp[i]) == LETTER:
                    i += 1
            else:
                i += 1
        while depth:
            depth -= 1
            hashes[n], kinds[n], starts[n], ends[n], values[n] = _step(_OFFSET, 47), KIND_OPERATOR, hi, hi, -1.0
            n += 1
        counts[text] = n - first
    return n


@njit(cache=True, nogil=True)
def _formula(kind, token, words):
    return kind in (KIND_NUMBER, KIND_LETTER) or (kind == KIND_WORD and find_sorted(words, token) >= 0)


@njit(cache=True, nogil=True)
def _digits_hash(value):
    digits = np.empty(20, dtype=np.int64)
    size = 0
    while True:
        digits[size] = value % 10
        value //= 10
        size += 1
        if value == 0:
            break
    h = _OFFSET
    for position in range(size - 1, -1, -1):
        h = _step(h, 48 + digits[position])
    return h


@njit(cache=True, nogil=True)
def _adjoin(cp, left, right):
    """True when white space alone, or one hyphen alone, stands between two tokens."""
    if right - left == 1 and cp[left] == 45:
        return True
    if right - left > 4:
        return False
    for i in range(left, right):
        if not _is_space(cp[i]):
            return False
    return right > left


@njit(cache=True, nogil=True)
def refine(cp, words, word_kinds, word_values, hashes, kinds, starts, ends, values, counts):
    """Drops operators of prose and turns number words into numbers, in place. Returns how many tokens are left.

    An operator counts beside a number or a single letter only; a hyphen must also have one after it (`5-year-old`).
    """
    read = write = 0
    for text in range(len(counts)):
        last = read + counts[text]
        first = write
        while read < last:
            if kinds[read] == KIND_OPERATOR:
                end = read
                while end < last and kinds[end] == KIND_OPERATOR:
                    end += 1
                before = write > first and _formula(kinds[write - 1], hashes[write - 1], words)
                after = end < last and _formula(kinds[end], hashes[end], words)
                minus = end == read + 1 and cp[min(starts[read], len(cp) - 1)] == 45
                if minus and before and after and kinds[end] == KIND_WORD and kinds[write - 1] == KIND_WORD:
                    after = not _adjoin(cp, ends[write - 1], starts[end])  # the hyphen of twenty-five
                if after or (before and not minus):
                    for i in range(read, end):
                        hashes[write], kinds[write], values[write] = hashes[i], kinds[i], values[i]
                        starts[write], ends[write] = starts[i], ends[i]
                        write += 1
                read = end
                continue
            hashes[write], kinds[write], values[write] = hashes[read], kinds[read], values[read]
            starts[write], ends[write] = starts[read], ends[read]
            write += 1
            read += 1
        counts[text] = write - first
    read = write = 0
    for text in range(len(counts)):
        last = read + counts[text]
        first = write
        while read < last:
            used = 0
            total = 0
            if kinds[read] == KIND_WORD:
                used, value = _spelled(cp, words, word_kinds, word_values, hashes, kinds, starts, ends, read, last)
                total = value
            elif kinds[read] == KIND_NUMBER and values[read] >= 0 and read + 1 < last and kinds[read + 1] == KIND_WORD:
                where = find_sorted(words, hashes[read + 1])
                if (
                    where >= 0
                    and word_kinds[where] == 5
                    and values[read] < 1e6
                    and _adjoin(cp, ends[read], starts[read + 1])
                ):
                    used, total = 2, int(values[read]) * word_values[where]  # 2 million
            if used:
                hashes[write], kinds[write], values[write] = _digits_hash(total), KIND_NUMBER, float(total)
                starts[write], ends[write] = starts[read], ends[read + used - 1]
                read += used
            else:
                hashes[write], kinds[write], values[write] = hashes[read], kinds[read], values[read]
                starts[write], ends[write] = starts[read], ends[read]
                read += 1
            write += 1
        counts[text] = write - first
    return write


@njit(cache=True, nogil=True)
def _spelled(cp, words, word_kinds, word_values, hashes, kinds, starts, ends, read, last):
    """(tokens used, value) of the number words at `read`; 0 used when there are none."""
    where = find_sorted(words, hashes[read])
    if where < 0:
        return 0, 0
    total = current = used = 0
    previous = 0
    i = read
    while i < last and kinds[i] == KIND_WORD:
        if i > read and not _adjoin(cp, ends[i - 1], starts[i]):
            break
        at = find_sorted(words, hashes[i])
        if at < 0:
            # `and` joins only after hundreds and thousands, before something smaller than a hundred.
            joins = previous >= HUNDRED and ends[i] - starts[i] == 3 and _lower(cp[starts[i]]) == 97
            if joins and i + 1 < last and kinds[i + 1] == KIND_WORD:
                follow = find_sorted(words, hashes[i + 1])
                if follow >= 0 and word_kinds[follow] <= TEN:
                    i += 1
                    continue
            break
        kind, value = word_kinds[at], word_values[at]
        fresh = previous == 0 or previous >= HUNDRED
        if (kind == UNIT and (fresh or (previous == TEN and value > 0))) or (fresh and TEEN <= kind <= TEN):
            current += value
        elif kind == HUNDRED and previous == 0:
            current = 100
        elif kind == HUNDRED and previous <= TEN and 0 < current < 100:
            current *= 100
        elif kind == SCALE and previous == 0:
            total = value
        elif kind == SCALE and current > 0:
            total += current * value
            current = 0
        else:
            break
        previous = kind
        i += 1
        used = i - read
    return used, total + current


@njit(cache=True, nogil=True)
def stems(cp, kinds, starts, ends):
    """[tokens] uint64: hash of the first five letters of every word, so that inflection counts less; 0 elsewhere."""
    out = np.zeros(len(kinds), dtype=np.uint64)
    for i in range(len(kinds)):
        if kinds[i] == KIND_WORD:
            h = _OFFSET
            for j in range(starts[i], min(ends[i], starts[i] + 5)):
                h = _step(h, _lower(cp[j]))
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
                letter = _lower(cp[ends[i] - 1])
                out[text, 2] += letter != 97 and letter != 105
            else:
                out[text, 2] += 1
    return out
