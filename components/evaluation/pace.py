"""How long an evaluation still takes, from what its answers have cost so far.

Long answers are drawn first, so time per answer falls while it runs, and a plain average would promise too much time.
The tokens of what is left are estimated by benchmark and level (then by benchmark, then by all), at the present rate.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

Group = tuple[str, int]


class Pace:
    """left: (benchmark, level) of every answer that is still to be drawn."""

    def __init__(self, left: Iterable[Group], clock: Callable[[], float] = time.monotonic) -> None:
        self._left = Counter(left)
        self._tokens: Counter[Group] = Counter()
        self._answers: Counter[Group] = Counter()
        self._clock, self._began = clock, clock()

    def drawn(self, answers: Iterable[tuple[Group, int]]) -> None:
        """(benchmark, level) and tokens of answers that are there now."""
        for group, tokens in answers:
            self._left[group] -= 1
            self._tokens[group] += tokens
            self._answers[group] += 1

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self._tokens.total() / max(self._clock() - self._began, 1e-9)

    def seconds_left(self) -> float | None:
        """None before the first answers."""
        if not self._answers.total() or not self._tokens.total():
            return None
        return sum(count * self._expected(group) for group, count in self._left.items() if count > 0) / self.rate

    def text(self) -> str:
        """Such as `answers, 1,204 tokens/s, 3 min left`."""
        left = self.seconds_left()
        shown = f"answers, {self.rate:,.0f} tokens/s"
        return shown if left is None else f"{shown}, {_duration(left)} left"

    def _expected(self, group: Group) -> float:
        for alike in (
            lambda other: other == group,
            lambda other: other[0] == group[0],
            lambda other: True,
        ):
            answers = sum(count for other, count in self._answers.items() if alike(other))
            if answers:
                return sum(count for other, count in self._tokens.items() if alike(other)) / answers
        return 0.0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
