"""Two models side by side: paired comparison on the items both answered, and whether anything got worse.

Several benchmarks are several chances of a false alarm, so the intervals of a table hold together: each one is taken
at 1 - (1 - confidence) / rows (Bonferroni). A night on which nothing changed fails with the chance that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from components.evaluation.statistics import PairedComparison, compare
from components.evaluation.types import Evaluation
from components.failures import BadInput

# Settings that may differ between two scores that are compared: where and by whom they were drawn.
INCIDENTAL = frozenset(
    {
        *("model", "stage", "weights_sha256", "endpoint", "revision", "max_model_len"),
        *("served_tokenizer_sha256", "served_chat_template_sha256"),
    }
)


@dataclass(frozen=True)
class Comparison:
    """rows: benchmark (`overall` first) -> paired comparison of `after` against `before`, in the names given.

    means: benchmark -> mean of each over the items that both answered.
    """

    before: str
    after: str
    rows: Mapping[str, PairedComparison]
    means: Mapping[str, tuple[float, float]]

    @property
    def worse(self) -> list[str]:
        """Benchmarks whose interval of the difference lies below 0."""
        return [name for name, row in self.rows.items() if row.verdict == "worse"]

    def table(self) -> list[list[str]]:
        """[benchmark, difference in points, interval, items, gained, lost, detectable, verdict]."""
        return [
            [
                name,
                f"{100 * row.difference:+.1f}",
                f"{100 * row.low:+.1f} to {100 * row.high:+.1f}",
                str(row.items),
                str(row.gained),
                str(row.lost),
                f"{100 * row.detectable:.1f}",
                row.verdict,
            ]
            for name, row in self.rows.items()
        ]


HEADER = ["benchmark", "points", "interval", "items", "gained", "lost", "detectable", "verdict"]


def compared(before: Evaluation, after: Evaluation, names: tuple[str, str] = ("before", "after")) -> Comparison:
    """Raises BadInput when the two were taken with different settings, or share no item."""
    differing = [
        f"{key}: {before.settings.get(key)!r} and {after.settings.get(key)!r}"
        for key in sorted(set(before.settings) | set(after.settings))
        if key not in INCIDENTAL and before.settings.get(key) != after.settings.get(key)
    ]
    if differing:
        raise BadInput(
            f"the two scores were taken with different settings ({'; '.join(differing[:4])})",
            where=f"{names[0]} and {names[1]}",
            remedy="Evaluate both with the same settings: another setting is another score",
        )
    rows: dict[str, PairedComparison] = {}
    means: dict[str, tuple[float, float]] = {}
    both = [name for name in after.benchmarks if name in before.benchmarks]
    # With one benchmark `overall` is the same comparison again.
    looks = 1 if len(both) < 2 else len(both) + 1
    confidence = 1 - (1 - after.overall.avg.confidence) / looks
    for name in ("overall", *both):
        wanted = None if name == "overall" else name
        left, right = before.item_means(wanted), after.item_means(wanted)
        shared = left.keys() & right.keys()
        if not shared:
            continue
        scores = [evaluation.benchmarks.get(name, evaluation.overall) for evaluation in (before, after)]
        samples = min(score.samples for score in scores)
        rows[name] = compare(left, right, samples, confidence)
        means[name] = fmean(left[item] for item in shared), fmean(right[item] for item in shared)
    if not rows:
        asked = [
            f"{name} answered {', '.join(evaluation.benchmarks)}"
            for name, evaluation in zip(names, (before, after), strict=True)
        ]
        raise BadInput(
            f"the two evaluations have no item in common: {'; '.join(asked)}",
            where=f"{names[0]} and {names[1]}",
            remedy="Evaluate both on the same records of the same benchmarks",
        )
    return Comparison(*names, rows, means)
