"""Numbers: those written in digits (`1,234`, `1{,}234`, `0.50`) and those written in words (`twenty-five`).

Two spellings of one number are one token; `1.2.3` is a version and stays in parts.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from components.data.text.characters import HASH_OFFSET, find_sorted, is_space, lower, step
from components.data.text.kinds import KIND_WORD
from components.data.text.vocabulary import HUNDRED, SCALE, TEEN, TEN, UNIT


@njit(cache=True, nogil=True)
def three_digits(cp, i, hi):
    if i + 3 > hi:
        return False
    for j in range(i, i + 3):
        if cp[j] < 48 or cp[j] > 57:
            return False
    return i + 3 == hi or cp[i + 3] < 48 or cp[i + 3] > 57


@njit(cache=True, nogil=True)
def number(cp, i, lo, hi):
    """(end, hash, value or -1) of the number at `i`: separators of thousands and trailing zeros do not matter."""
    h, value = HASH_OFFSET, 0.0
    j = i
    while j < hi and 48 <= cp[j] <= 57:
        h = step(h, cp[j])
        value = value * 10 + (cp[j] - 48)
        j += 1
    listed = i > lo + 1 and cp[i - 1] == 44 and 48 <= cp[i - 2] <= 57
    if j - i <= 3 and j > i and not listed:
        p, ph, pv = j, h, value
        while p < hi:
            skip = 0
            if cp[p] == 44 and three_digits(cp, p + 1, hi):  # 1,234
                skip = 1
            elif cp[p] == 92 and p + 1 < hi and cp[p + 1] == 44 and three_digits(cp, p + 2, hi):  # 1\,234
                skip = 2
            elif cp[p] == 123 and p + 2 < hi and cp[p + 1] == 44 and cp[p + 2] == 125 and three_digits(cp, p + 3, hi):
                skip = 3  # 1{,}234
            if not skip:
                break
            p += skip
            for _ in range(3):
                ph = step(ph, cp[p])
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
                    h = step(h, 48)  # .5 is 0.5
                for q in range(j, last):
                    h = step(h, cp[q])
                value = -1.0
            elif j == i:
                h = step(h, 48)
            j = e
    return j, h, value if value < 1e15 else -1.0


@njit(cache=True, nogil=True)
def digits_hash(value):
    digits = np.empty(20, dtype=np.int64)
    size = 0
    while True:
        digits[size] = value % 10
        value //= 10
        size += 1
        if value == 0:
            break
    h = HASH_OFFSET
    for position in range(size - 1, -1, -1):
        h = step(h, 48 + digits[position])
    return h


@njit(cache=True, nogil=True)
def adjoin(cp, left, right):
    """True when white space alone, or one hyphen alone, stands between two tokens."""
    if right - left == 1 and cp[left] == 45:
        return True
    if right - left > 4:
        return False
    for i in range(left, right):
        if not is_space(cp[i]):
            return False
    return right > left


@njit(cache=True, nogil=True)
def spelled(cp, words, word_kinds, word_values, hashes, kinds, starts, ends, read, last):
    """(tokens used, value) of the number words at `read`; 0 used when there are none."""
    where = find_sorted(words, hashes[read])
    if where < 0:
        return 0, 0
    total = current = used = 0
    previous = 0
    i = read
    while i < last and kinds[i] == KIND_WORD:
        if i > read and not adjoin(cp, ends[i - 1], starts[i]):
            break
        at = find_sorted(words, hashes[i])
        if at < 0:
            # `and` joins only after hundreds and thousands, before something smaller than a hundred.
            joins = previous >= HUNDRED and ends[i] - starts[i] == 3 and lower(cp[starts[i]]) == 97
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
