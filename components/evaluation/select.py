"""The best of several checkpoints, cheaply: rounds of items, and whoever is surely behind leaves.

Successive elimination on paired differences. All candidates answer the same items, a batch at a time; after every batch
each one is compared with the leader on the items so far, and leaves when the interval of the difference excludes 0 at a
confidence that is divided by the number of looks and of rivals (a union bound, so the whole procedure errs with
probability at most alpha, whenever it stops). What remains when the items are used up is decided by the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from components.evaluation.statistics import compare

# (candidate, items of this batch) -> item -> mean score in [0, 1]; items that could not be scored are left out.
Score = Callable[[str, Sequence[str]], Mapping[str, float]]


@dataclass(frozen=True)
class Look:
    """One batch: means so far of those still in, and who left after it."""

    items: int
    means: Mapping[str, float]
    left: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """best: the winner. asked: answers' worth of items that were scored, of `all` had nothing been stopped early."""

    best: str
    reason: str
    looks: tuple[Look, ...]
    asked: int
    all: int
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def select_best(
    candidates: Sequence[str], items: Sequence[str], score: Score, batch: int, samples: int = 1, alpha: float = 0.05
) -> Selection:
    """The candidate with the highest mean score.

    Args:
        items: in a random order, the same for all. batch: items per look. samples: answers per item.
    Raises:
        ValueError: no candidates or no items.
    """
    if not candidates or not items:
        raise ValueError("selection needs candidates and items")
    alive = list(dict.fromkeys(candidates))
    found: dict[str, dict[str, float]] = {name: {} for name in alive}
    batches = [items[start : start + batch] for start in range(0, len(items), batch)]
    confidence = 1 - alpha / (len(batches) * max(1, len(alive) - 1))
    looks: list[Look] = []
    asked = 0
    for part in batches:
        for name in alive:
            found[name] |= score(name, part)
            asked += len(part)
        means = {name: fmean(found[name].values()) if found[name] else 0.0 for name in alive}
        leader = max(alive, key=lambda name: means[name])
        left = tuple(
            name
            for name in alive
            if name != leader
            and found[name].keys() & found[leader].keys()
            and compare(found[leader], found[name], samples, confidence).high < 0
        )
        looks.append(Look(len(found[leader]), means, left))
        alive = [name for name in alive if name not in left]
        if len(alive) == 1:
            break
    means = looks[-1].means
    best = max(alive, key=lambda name: means[name])
    seen, total = looks[-1].items, len(items) * len(set(candidates))
    reason = (
        f"every other one is behind after {seen} of {len(items)} items"
        if len(alive) == 1
        else (f"highest mean of {len(alive)} that all {len(items)} items cannot tell apart")
    )
    return Selection(best, reason, tuple(looks), asked, total, found)
