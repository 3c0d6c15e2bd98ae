"""Colocated placement: engines and learners strictly by turns, and whoever waits gives its memory back.

What ASystem's AMem is for (Ring-1T report, arXiv 2510.18855), on one machine. Nobody has to announce a turn: the first
call to the one puts the other to sleep. A turn lasts as long as a call (a stream of samples: until its last one), so a
reward model that shares the learners waits until the engines have finished.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

log = logging.getLogger(__name__)

Side = Literal["engines", "learners"]


@dataclass
class Turns:
    """What taking turns did. released: bytes given back at each change, by who went to sleep. seconds: spent on it."""

    released: dict[str, list[int]] = field(default_factory=lambda: {"engines": [], "learners": []})
    seconds: float = 0.0

    def summary(self) -> dict[str, float]:
        """Numbers for a stage's summary: changes, seconds, and the mean memory given back in MiB."""
        report = {"turns": float(sum(map(len, self.released.values()))), "turn_seconds": round(self.seconds, 3)}
        for side, sizes in self.released.items():
            if sizes:
                report[f"{side}_released_mib"] = round(sum(sizes) / len(sizes) / 2**20, 1)
        return report


class TurnTaking:
    """Two groups behind one door.

    Args:
        engines: with sleep() -> bytes and wake() (components.rollout.group.EngineGroup).
        learners: with offload() -> bytes and onload() (components.training.group.LearnerGroup).
    `engines` and `learners` of this object are used in place of the groups.
    """

    def __init__(self, engines: Any, learners: Any) -> None:
        self._groups = {"engines": engines, "learners": learners}
        self._lock, self._side = threading.RLock(), None
        self.turns = Turns()
        self.engines, self.learners = _Door(self, "engines"), _Door(self, "learners")

    @contextmanager
    def turn(self, side: Side) -> Iterator[Any]:
        """The group of `side`, awake, and the other asleep, until the block ends."""
        with self._lock:
            if side != self._side:
                began = perf_counter()
                other: Side = "learners" if side == "engines" else "engines"
                released = self._groups["engines"].sleep() if side == "learners" else self._groups["learners"].offload()
                if side == "engines":
                    self._groups["engines"].wake()
                else:
                    self._groups["learners"].onload()
                self._side = side
                self.turns.released[other].append(released)
                self.turns.seconds += perf_counter() - began
                log.info("%s take over, %s gave %.1f MiB back", side, other, released / 2**20)
            yield self._groups[side]

    @contextmanager
    def exchange(self) -> Iterator[Any]:
        """The engines, awake but for their caches, beside the learners, who send from where their weights are; then the
        engines have the turn."""
        with self._lock:
            self._groups["learners"].onload()
            began = perf_counter()
            self._groups["engines"].wake(weights_only=True)
            woken = perf_counter() - began
            yield self._groups["engines"]
            began = perf_counter()
            released = self._groups["learners"].offload()
            self._groups["engines"].wake()
            self._side = "engines"
            self.turns.released["learners"].append(released)
            self.turns.seconds += woken + perf_counter() - began

    def close(self) -> None:
        """Wakes both, for whoever uses the groups next."""
        with self._lock:
            self._groups["engines"].wake()
            self._groups["learners"].onload()
            self._side = None


class _Door:
    """A group whose every method first takes the turn. Only engines are published to."""

    def __init__(self, turns: TurnTaking, side: Side) -> None:
        self._turns, self._side = turns, side

    def stream(self, *args: Any, **options: Any) -> Iterator[Any]:
        with self._turns.turn(self._side) as group:
            yield from group.stream(*args, **options)

    def publish(self, version: int, weights: Any) -> str:
        """EngineGroup.publish; weights that were not moved yet need both sides (exchange)."""
        in_hand = isinstance(weights, Mapping)
        with self._turns.turn(self._side) if in_hand else self._turns.exchange() as engines:
            return engines.publish(version, weights)

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            with self._turns.turn(self._side) as group:
                return getattr(group, name)(*args, **options)

        return call
