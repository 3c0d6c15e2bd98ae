"""The second pass over the tokens: operators of prose go, number words become numbers."""

from __future__ import annotations

from numba import njit

from components.data.text.characters import find_sorted
from components.data.text.kinds import KIND_LETTER, KIND_NUMBER, KIND_OPERATOR, KIND_WORD
from components.data.text.numerals import adjoin, digits_hash, spelled
from components.data.text.vocabulary import SCALE


@njit(cache=True, nogil=True)
def _formula(kind, token, words):
    return kind in (KIND_NUMBER, KIND_LETTER) or (kind == KIND_WORD and find_sorted(words, token) >= 0)


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
                    after = not adjoin(cp, ends[write - 1], starts[end])  # the hyphen of twenty-five
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
                used, value = spelled(cp, words, word_kinds, word_values, hashes, kinds, starts, ends, read, last)
                total = value
            elif kinds[read] == KIND_NUMBER and values[read] >= 0 and read + 1 < last and kinds[read + 1] == KIND_WORD:
                where = find_sorted(words, hashes[read + 1])
                if (
                    where >= 0
                    and word_kinds[where] == SCALE
                    and values[read] < 1e6
                    and adjoin(cp, ends[read], starts[read + 1])
                ):
                    used, total = 2, int(values[read]) * word_values[where]  # 2 million
            if used:
                hashes[write], kinds[write], values[write] = digits_hash(total), KIND_NUMBER, float(total)
                starts[write], ends[write] = starts[read], ends[read + used - 1]
                read += used
            else:
                hashes[write], kinds[write], values[write] = hashes[read], kinds[read], values[read]
                starts[write], ends[write] = starts[read], ends[read]
                read += 1
            write += 1
        counts[text] = write - first
    return write
