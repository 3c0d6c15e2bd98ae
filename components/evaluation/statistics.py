"""Statistics of an evaluation: scores with intervals, unbiased pass@k, paired comparison, detectable difference.

A benchmark is a sample of items and an item is a cluster of k answers, so answers of one item are not independent.
Everything here works on item means and treats the item as the unit (E. Miller, "Adding Error Bars to Evals",
arXiv 2411.00640).

The interval of a score is Wilson's with an effective sample size n_eff = p(1-p)/SE^2, where SE is the item-clustered
standard error (Dean and Pagano, "Evaluating Confidence Interval Methods for Binomial Proportions in Clustered
Surveys", 2015). Unlike p +- z SE it stays inside [0, 1] and is honest at 0 and 1: zero of n items solved gives
[0, z^2/(n + z^2)], never [0, 0].

pass@k is the unbiased estimator of Chen et al. (arXiv 2107.03374), 1 - C(n-c, k)/C(n, k).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """value with its interval [low, high] at `confidence`; `items` is the number of clusters it rests on."""

    value: float
    low: float
    high: float
    items: int
    confidence: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class PairedComparison:
    """Model `after` against model `before` on the same items, in score units (a fraction, not points).

    gained/lost: items that went from mostly wrong (mean below one half) to mostly right, and the other way.
    detectable: smallest true difference this comparison would find with probability 0.8.
    """

    difference: float
    low: float
    high: float
    items: int
    gained: int
    lost: int
    detectable: float
    confidence: float

    @property
    def verdict(self) -> str:
        """`better` or `worse` when the interval excludes 0, else `undecided`."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"


def z_value(confidence: float) -> float:
    """Two-sided standard normal quantile. Raises ValueError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def mean_interval(item_means: Sequence[float], samples: int, confidence: float = 0.95) -> Estimate:
    """Mean over items with the item-clustered Wilson interval.

    Args:
        item_means: one value in [0, 1] per item.
        samples: answers per item (the largest number where it varies): bounds what equal item means can prove.
        confidence: two-sided coverage.

    Raises:
        ValueError: no items, or a value outside [0, 1].
    """
    means = np.asarray(item_means, dtype=np.float64)
    if means.size == 0:
        raise ValueError("an interval needs at least one item")
    if not np.all((means >= 0) & (means <= 1)):
        raise ValueError("item means must lie in [0, 1]")
    z = z_value(confidence)
    n = int(means.size)
    # fsum: permuting the items changes nothing, not even the last bit
    value = min(1.0, max(0.0, math.fsum(means.tolist()) / n))
    spread = value * (1 - value)
    # One pseudo-item at 0 and one at 1: with few solved items the plain variance is too sure of itself (coverage 0.90
    # instead of 0.95 at a true score of 0.03 on 60 items).
    padded = [*means.tolist(), 0.0, 1.0]
    variance = math.fsum((mean - value) ** 2 for mean in padded) / (n + 1) / (n + 2)
    # An item is worth at least one observation and at most `samples`; at 0 and 1 equal items prove no more than one.
    effective = float(n) if spread == 0 else min(max(spread / variance, float(n)), float(n * max(1, samples)))
    return Estimate(value, *_wilson(value, effective, z), n, confidence)


def ratio_interval(parts: Sequence[float], wholes: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Share of all wholes, such as cells of puzzles or instructions of prompts, with the item as the cluster.

    Args:
        parts, wholes: one each per item, 0 <= part <= whole. Large items weigh more.
    Raises:
        ValueError: no items, or nothing to have a share of.
    """
    n, total = len(parts), math.fsum(wholes)
    if n == 0 or total <= 0:
        raise ValueError("a share needs at least one item of some size")
    value = min(1.0, max(0.0, math.fsum(parts) / total))
    mean = total / n
    # The spread of a ratio about its value (linearised); one pseudo-item with nothing and one with all, as above.
    off = [
        *(part - value * whole for part, whole in zip(parts, wholes, strict=True)),
        -value * mean,
        mean - value * mean,
    ]
    variance = math.fsum(one * one for one in off) / (n + 1) / (n + 2) / mean**2
    spread = value * (1 - value)
    effective = float(n) if spread == 0 else min(max(spread / variance, 1.0), total)
    return Estimate(value, *_wilson(value, effective, z_value(confidence)), n, confidence)


def _wilson(value: float, effective: float, z: float) -> tuple[float, float]:
    """Wilson's interval of a share from so many independent observations."""
    spread = value * (1 - value)
    centre = (value + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z / (1 + z * z / effective) * math.sqrt(spread / effective + z * z / (4 * effective**2))
    low = 0.0 if value == 0 else max(0.0, min(centre - half, value))
    high = 1.0 if value == 1 else min(1.0, max(centre + half, value))
    return low, high


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased probability that at least one of k answers is right, from n answers with `correct` right ones.

    Raises:
        ValueError: unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= correct <= n and 1 <= k <= n, not n={n} correct={correct} k={k}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def compare(
    before: Mapping[str, float], after: Mapping[str, float], samples: int, confidence: float = 0.95
) -> PairedComparison:
    """Compares two models on the items both answered.

    The interval is normal on the item differences, with one pseudo-item of +1/samples and one of -1/samples added: with
    one answer per item this is the Laplace-adjusted interval of Bonett and Price (2012) for paired proportions, and it
    keeps the interval from collapsing to a point when no item changed.

    Args:
        before, after: item id -> mean score in [0, 1].
        samples: answers per item; 1/samples is the smallest change of one item that can be seen.

    Raises:
        ValueError: no item in common.
    """
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise ValueError("the two evaluations have no item in common: nothing to compare")
    differences = np.array([after[item] - before[item] for item in shared], dtype=np.float64)
    resolution = 1.0 / max(1, samples)
    padded = np.concatenate([differences, [resolution, -resolution]])
    centre, deviation = float(padded.mean()), float(padded.std())
    half = z_value(confidence) * deviation / math.sqrt(len(padded))
    value = float(differences.mean())
    return PairedComparison(
        difference=value,
        low=max(-1.0, min(value, centre - half)),
        high=min(1.0, max(value, centre + half)),
        items=len(shared),
        gained=sum(before[item] < 0.5 <= after[item] for item in shared),
        lost=sum(after[item] < 0.5 <= before[item] for item in shared),
        detectable=minimum_detectable_difference(deviation, len(shared), confidence),
        confidence=confidence,
    )


def minimum_detectable_difference(deviation: float, items: int, confidence: float = 0.95, power: float = 0.8) -> float:
    """Smallest true mean difference that `items` paired items find with probability `power`.

    deviation: standard deviation of one item's difference. (z_{1-alpha/2} + z_{power}) * deviation / sqrt(items).
    """
    if items < 1 or deviation < 0:
        raise ValueError(f"needs at least one item and a deviation of at least 0, not {items} and {deviation}")
    return (z_value(confidence) + NormalDist().inv_cdf(power)) * deviation / math.sqrt(items)
