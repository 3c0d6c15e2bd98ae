"""MinHash signatures by one-permutation hashing, and banding (Broder 1997; Li, Owen and Zhang 2012; Shrivastava 2017).

One hash per shingle falls into one of `BINS` bins, each bin keeps its smallest, and empty bins borrow from others by a
fixed probing order: a signature costs one pass over the tokens in place of `BINS`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BINS = 128
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(cache=True, nogil=True)
def _mix(value):
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@njit(cache=True, nogil=True)
def signatures(shingles, offsets):
    """[texts, BINS] uint64 signatures; rows of texts without shingles stay at the largest value.

    shingles: [tokens] uint64 n-gram hashes, 0 where there is none; offsets: [texts + 1].
    """
    out = np.full((len(offsets) - 1, BINS), _EMPTY, dtype=np.uint64)
    for text in range(len(offsets) - 1):
        row = out[text]
        filled = 0
        for i in range(offsets[text], offsets[text + 1]):
            if shingles[i] == 0:
                continue
            value = _mix(shingles[i])
            place = value >> np.uint64(57)
            if row[place] == _EMPTY:
                filled += 1
            if value < row[place]:
                row[place] = value
        if filled == 0 or filled == BINS:
            continue
        full = row.copy()
        for place in range(BINS):
            if full[place] != _EMPTY:
                continue
            attempt = np.uint64(1)
            while True:  # a filled bin exists, and probing reaches every bin with probability 1
                source = _mix(np.uint64(place) * np.uint64(0x9E3779B97F4A7C15) + attempt) >> np.uint64(57)
                if full[source] != _EMPTY:
                    row[place] = _mix(full[source] + attempt)
                    break
                attempt += np.uint64(1)
    return out


@njit(cache=True, nogil=True)
def band_keys(signature, rows):
    """[texts, BINS // rows] uint64: hash of every band of `rows` values, different between bands."""
    bands = signature.shape[1] // rows
    out = np.empty((signature.shape[0], bands), dtype=np.uint64)
    for text in range(signature.shape[0]):
        for band in range(bands):
            value = np.uint64(band + 1)
            for row in range(band * rows, (band + 1) * rows):
                value = _mix(value ^ signature[text, row]) + np.uint64(band)
            out[text, band] = value
    return out


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Estimate of the Jaccard similarity from two signatures; standard error at most 0.5 / sqrt(BINS) = 0.044."""
    return float((one == other).mean())
