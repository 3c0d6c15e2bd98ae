"""Trainer and engine in this very process, taking turns: what experiments on one core run their RL loops on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components.rollout.exchange import checksum, pack
from components.rollout.types import Progress, Sample, SampleRequest, Sampling, Until

DEADLINE_S = 300.0


class OneEngine:
    """The engine group's protocol (components.rl.collect.Engines) on one engine in this process."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.version = engine, -1

    def publish(self, version: int, weights: Mapping[str, np.ndarray]) -> str:
        layout, buffer = pack(weights)
        self.version, digest = self.engine.load_weights(version, checksum(layout, buffer), layout, buffer)
        return digest

    def stream(self, requests: Sequence[SampleRequest], sampling: Sampling) -> Iterator[tuple[list[int], list[Sample]]]:
        yield list(range(len(requests))), self.engine.generate(requests, sampling, self.version, DEADLINE_S)

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[Sample]:
        return self.engine.generate(requests, sampling, self.version, DEADLINE_S)

    def advance(
        self, requests: Sequence[SampleRequest], homes: Sequence[int], sampling: Sampling, until: Until
    ) -> list[Progress]:
        return self.engine.advance(requests, sampling, self.version, until, DEADLINE_S)

    def pause(self) -> None:
        self.engine.pause()

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        return self.engine.score(sequences, self.version, DEADLINE_S)
