"""Kernels of the search: n-grams of a batch against a table of the benchmarks' n-grams, words against postings.

Both give candidates (text, item) only; components.data.decontaminate.confirm decides on the tokens themselves, so a
collision of hashes costs time and never a verdict.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


@njit(cache=True, nogil=True)
def mix(value):
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True, nogil=True)
def ngram_hashes(hashes, offsets, n):
    """[tokens] uint64: hash of the n-gram that begins at each token; 0 where the text ends before."""
    out = np.zeros(len(hashes), dtype=np.uint64)
    power = np.uint64(1)
    for _ in range(n - 1):
        power *= _MULTIPLIER
    for text in range(len(offsets) - 1):
        lo, hi = offsets[text], offsets[text + 1]
        if hi - lo < n:
            continue
        value = np.uint64(0)
        for i in range(lo, lo + n):
            value = value * _MULTIPLIER + mix(hashes[i])
        out[lo] = mix(value) | np.uint64(1)
        for i in range(lo + n, hi):
            value = (value - mix(hashes[i - n]) * power) * _MULTIPLIER + mix(hashes[i])
            out[i - n + 1] = mix(value) | np.uint64(1)
    return out


@njit(cache=True, nogil=True)
def whole_hashes(hashes, kinds, offsets, masked):
    """[texts] uint64: hash of a text's whole token sequence; `masked`: with numbers made equal (kind 1)."""
    out = np.zeros(len(offsets) - 1, dtype=np.uint64)
    for text in range(len(offsets) - 1):
        value = np.uint64(offsets[text + 1] - offsets[text])
        for i in range(offsets[text], offsets[text + 1]):
            token = np.uint64(35) if masked and kinds[i] == 1 else hashes[i]
            value = value * _MULTIPLIER + mix(token)
        out[text] = mix(value)
    return out


@njit(cache=True, nogil=True)
def paragraph_hashes(cp, hashes, starts, ends, offsets, longest):
    """(text, whole_hashes of it) of every paragraph of fewer than `longest` tokens, in texts of several paragraphs."""
    texts, out = np.empty(len(hashes), dtype=np.int64), np.empty(len(hashes), dtype=np.uint64)
    n = 0
    for text in range(len(offsets) - 1):
        lo, hi = offsets[text], offsets[text + 1]
        begin = lo
        for i in range(lo + 1, hi + 1):
            broken = i == hi
            if not broken:
                for p in range(ends[i - 1], starts[i]):
                    broken = broken or cp[p] == 10
            if not broken:
                continue
            if i - begin < longest and not (begin == lo and i == hi):
                value = np.uint64(i - begin)
                for j in range(begin, i):
                    value = value * _MULTIPLIER + mix(hashes[j])
                texts[n], out[n] = text, mix(value)
                n += 1
            begin = i
    return texts[:n], out[:n]


@njit(cache=True, nogil=True)
def build_table(keys):
    """(slots, bits): open addressing over sorted unique `keys` (slot = position + 1, 0 empty), and a bitmap."""
    size = 16
    while size < 3 * len(keys):
        size *= 2
    slots = np.zeros(size, dtype=np.int64)
    bits = np.zeros(max(1, size // 4), dtype=np.uint8)  # two bits a slot
    mask, bit_mask = np.uint64(size - 1), np.uint64(8 * len(bits) - 1)
    for position in range(len(keys)):
        key = keys[position]
        at = key & mask
        while slots[at]:
            at = (at + np.uint64(1)) & mask
        slots[at] = position + 1
        bit = (key >> _SHIFT) & bit_mask
        bits[bit >> np.uint64(3)] |= np.uint8(1) << np.uint8(bit & np.uint64(7))
    return slots, bits


@njit(cache=True, nogil=True)
def _lookup(keys, slots, bits, key):
    bit = (key >> _SHIFT) & np.uint64(8 * len(bits) - 1)
    if not (bits[bit >> np.uint64(3)] >> np.uint8(bit & np.uint64(7))) & 1:
        return -1
    mask = np.uint64(len(slots) - 1)
    at = key & mask
    while slots[at]:
        if keys[slots[at] - 1] == key:
            return slots[at] - 1
        at = (at + np.uint64(1)) & mask
    return -1


@njit(cache=True, nogil=True)
def known(wanted, keys, slots, bits):
    """[n] bool: which of `wanted` stand in the table."""
    out = np.empty(len(wanted), dtype=np.bool_)
    for i in range(len(wanted)):
        out[i] = _lookup(keys, slots, bits, wanted[i]) >= 0
    return out


@njit(cache=True, nogil=True)
def seed_candidates(grams, offsets, keys, slots, bits, starts, owners, totals, share, fewest, out):
    """Pairs (text, item) where at least `share` of the item's n-grams, and `fewest`, stand in the text.

    Args:
        grams: [tokens] of ngram_hashes over a batch; offsets: [texts + 1].
        keys, slots, bits: of build_table; starts: [keys + 1] range of each key among the items' n-grams.
        owners: [item n-grams] the item each belongs to; totals: [items] how many n-grams each has.
        out: [room, 3] (text, item, distinct n-grams found).

    Returns:
        How many pairs there are; more than `room` says that `out` was too small.
    """
    seen = np.full(len(owners), -1, dtype=np.int64)
    found = np.zeros(len(totals), dtype=np.int64)
    touched = np.empty(len(totals), dtype=np.int64)
    n = 0
    for text in range(len(offsets) - 1):
        size = 0
        for i in range(offsets[text], offsets[text + 1]):
            if grams[i] == 0:
                continue
            key = _lookup(keys, slots, bits, grams[i])
            if key < 0:
                continue
            for gram in range(starts[key], starts[key + 1]):
                if seen[gram] == text:
                    continue
                seen[gram] = text
                item = owners[gram]
                if found[item] == 0:
                    touched[size] = item
                    size += 1
                found[item] += 1
        for t in range(size):
            item = touched[t]
            if found[item] >= share * totals[item] and found[item] >= min(fewest, totals[item]):
                if n < len(out):
                    out[n, 0], out[n, 1], out[n, 2] = text, item, found[item]
                n += 1
            found[item] = 0
    return n


@njit(cache=True, nogil=True)
def _before(value, item, other_value, other_item):
    """True when the first comes before the second: absent entries last, then by score, then by position."""
    return other_item < 0 or value > other_value or (value == other_value and item < other_item)


@njit(cache=True, nogil=True)
def lexical_candidates(
    hashes, offsets, wanted, keys, slots, bits, idf, starts, items, weights, lengths, least, ratio, best, out_item,
    out_score,
):  # fmt: skip
    """The `best` nearest items of every wanted text, by cosine of TF-IDF over words.

    Args:
        wanted: [texts] bool; keys, slots, bits, idf: of the benchmarks' words; starts, items, weights: their postings,
            weights normalised to unit length per item; lengths: [items] tokens; ratio: largest ratio of lengths.
        out_item, out_score: [texts, best], -1 where there is none.
    """
    score = np.zeros(len(lengths), dtype=np.float64)
    touched = np.empty(len(lengths), dtype=np.int64)
    count = np.zeros(len(keys), dtype=np.int64)
    words = np.empty(len(keys), dtype=np.int64)
    for text in range(len(offsets) - 1):
        for rank in range(best):
            out_item[text, rank] = -1
            out_score[text, rank] = 0.0
        if not wanted[text]:
            continue
        lo, hi = offsets[text], offsets[text + 1]
        distinct = 0
        unknown = 0
        for i in range(lo, hi):
            key = _lookup(keys, slots, bits, hashes[i])
            if key < 0:
                unknown += 1
                continue
            if count[key] == 0:
                words[distinct] = key
                distinct += 1
            count[key] += 1
        norm = 0.0
        size = 0
        for d in range(distinct):
            key = words[d]
            weight = (1.0 + np.log(count[key])) * idf[key]
            norm += weight * weight
            for place in range(starts[key], starts[key + 1]):
                item = items[place]
                if score[item] == 0.0:
                    touched[size] = item
                    size += 1
                score[item] += weight * weights[place]
            count[key] = 0
        for t in range(size):
            item = touched[t]
            value = score[item] / np.sqrt(norm) if norm > 0 else 0.0
            score[item] = 0.0
            length = hi - lo
            if value < least or length > ratio * lengths[item] or lengths[item] > ratio * length:
                continue
            rank = best
            while rank > 0 and _before(value, item, out_score[text, rank - 1], out_item[text, rank - 1]):
                rank -= 1
            if rank < best:
                for r in range(best - 1, rank, -1):
                    out_item[text, r], out_score[text, r] = out_item[text, r - 1], out_score[text, r - 1]
                out_item[text, rank], out_score[text, rank] = item, value


@njit(cache=True, nogil=True)
def find_run(haystack, needle):
    """First position of `needle` in `haystack` as consecutive tokens, or -1."""
    size = len(needle)
    for start in range(len(haystack) - size + 1):
        if haystack[start] == needle[0]:
            same = True
            for i in range(1, size):
                if haystack[start + i] != needle[i]:
                    same = False
                    break
            if same:
                return start
    return -1


@njit(cache=True, nogil=True)
def densest_window(grams, known, width):
    """Beginning of the `width` tokens of a text that hold the most n-grams of the sorted array `known`."""
    hits = np.zeros(len(grams) + 1, dtype=np.int64)
    for i in range(len(grams)):
        low, high = 0, len(known)
        while low < high:
            middle = (low + high) >> 1
            if known[middle] < grams[i]:
                low = middle + 1
            else:
                high = middle
        hits[i + 1] = hits[i] + (1 if low < len(known) and known[low] == grams[i] else 0)
    best, place = -1, 0
    for start in range(max(1, len(grams) - width + 1)):
        value = hits[min(start + width, len(grams))] - hits[start]
        if value > best:
            best, place = value, start
    return place
