"""The way of some prompts through a step, as traces: drawn, answered, judged, trained on (components.telemetry.trace).

Times are kept for every request, since nobody knows at its start whether its group will be among the first of a step;
a response that several steps drew has a span as long as that took.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from components.rewards.types import Reward
from components.rl.batch import Group, Prompt, Selection
from components.rollout.types import Sample
from components.telemetry.trace import Tracer

MOST_KNOWN = 100_000  # responses under way; the oldest of more were purged and never come
SAMPLED_GROUPS = 4  # of each step, as in its evidence
Spent = tuple[str, int, int]  # what for, start and end in ns


@dataclass
class Times:
    """Of one response, in ns: asked for, answered, judged."""

    asked: int
    answered: int = 0
    judged: int = 0


@dataclass
class Traces:
    """What is known of the responses under way. tracer: None keeps nothing. shared: attributes of every root."""

    tracer: Tracer | None
    shared: Mapping[str, str] = field(default_factory=dict)
    known: dict[str, Times] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, request_id: str) -> None:
        if self.tracer is not None:
            with self._lock:
                self.known[request_id] = Times(time.time_ns())
                if len(self.known) > MOST_KNOWN:
                    del self.known[next(iter(self.known))]

    def judged(self, request_ids: Iterable[str], answered: int) -> None:
        """answered: when scoring began, which it does as soon as the responses are there."""
        if self.tracer is not None:
            now = time.time_ns()
            with self._lock:
                for name in request_ids:
                    if name in self.known:
                        self.known[name].answered, self.known[name].judged = answered, now

    def step(
        self,
        step: int,
        groups: Sequence[Group],
        prompts: Sequence[Prompt],
        spent: Sequence[Spent],
        selection: Selection,
        undone: bool = False,
    ) -> None:
        """Writes the step's trace and those of its first groups, and forgets the step's responses.

        spent: every part of the step. undone: the guard took the step's training back.
        """
        if self.tracer is None or not spent:
            return
        shared = {**self.shared, "ringflow.step": step}
        root = self.tracer.trace("step", min(start for _, start, _ in spent), max(end for *_, end in spent), shared)
        for name, start, end in spent:
            root.child(name, start, end)
        after = [part for part in spent if part[0] in ("old_logprobs", "update", "exchange")]
        for group, (_, outcome) in list(zip(groups, selection.outcomes, strict=True))[:SAMPLED_GROUPS]:
            self._group(group, prompts[group.prompt], "discarded" if undone else outcome, after, shared)
        with self._lock:
            for group in groups:
                for sample in group.samples:
                    self.known.pop(sample.request_id, None)

    def _group(
        self, group: Group, prompt: Prompt, outcome: str, after: Sequence[Spent], shared: Mapping[str, str | int]
    ) -> None:
        assert self.tracer is not None
        times = [self.known.get(sample.request_id) for sample in group.samples]
        known = [found for found in times if found is not None and found.judged]
        if not known:  # drawn before this process started, and resumed
            return
        trained = [part for part in after if outcome == "trained"]
        end = max([found.judged for found in known] + [end for *_, end in trained])
        about = {**shared, "ringflow.prompt": prompt.id, "ringflow.domain": prompt.domain, "ringflow.outcome": outcome}
        root = self.tracer.trace("prompt", min(found.asked for found in known), end, about)
        for found, sample, reward in zip(times, group.samples, group.rewards, strict=True):
            if found is not None and found.judged:
                root.child("rollout", found.asked, found.answered, _answer(sample))
                root.child("reward", found.answered, found.judged, _verdict(reward))
        for name, start, end in trained:
            root.child(name, start, end)


def _answer(sample: Sample) -> dict[str, str | int]:
    versions = set(sample.versions or [sample.version])
    return {
        "ringflow.request": sample.request_id,
        "ringflow.tokens": len(sample.tokens),
        "ringflow.finish": sample.finish,
        "ringflow.version.first": min(versions),
        "ringflow.version.last": max(versions),
    }


def _verdict(reward: Reward) -> dict[str, str | float]:
    found: dict[str, str | float] = {"ringflow.verdict": reward.verdict, "ringflow.seconds": reward.seconds}
    return found if reward.value is None else found | {"ringflow.reward": reward.value}
