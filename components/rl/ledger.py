"""The prompt ledger: which prompt is drawn when, and proof that each was drawn once per epoch, also over a resume.

The order of an epoch is a permutation drawn from (seed, epoch) alone, so the state is three numbers and the record of
what became of every prompt. Nothing is drawn twice in an epoch and nothing is lost: drawn = trained + filtered +
surplus + failed + in flight at any time, and an epoch ends only when every prompt was drawn.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import numpy as np

from components.failures import BadInput, IntegrityError

# filtered: all rewards of the group were equal. surplus: over-sampled and not needed. failed: no reward was to be had.
Outcome = Literal["trained", "filtered", "surplus", "failed"]


class PromptLedger:
    """Deals prompt indices in a reproducible order.

    Args:
        count: number of prompts. Prompts are known by their index in the data, whose digest is in the fingerprint.
        seed: with the epoch's number, decides the order.
    """

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise BadInput("no prompts to draw from", remedy="Check the phase's domains against data/rl.jsonl")
        self.count, self.seed = count, seed
        self.epoch, self.cursor = 0, 0
        self.outcomes: Counter[str] = Counter()
        self._in_flight: Counter[int] = Counter()
        self._order = self._permutation(0)

    def draw(self, number: int) -> list[int]:
        """The next `number` prompts; runs into the next epoch when this one is used up."""
        drawn = []
        while len(drawn) < number:
            if self.cursor == self.count:
                self.epoch, self.cursor = self.epoch + 1, 0
                self._order = self._permutation(self.epoch)
            drawn.append(int(self._order[self.cursor]))
            self.cursor += 1
        self._in_flight.update(drawn)
        return drawn

    def settle(self, prompt: int, outcome: Outcome) -> None:
        """Records what became of a drawn prompt, once.

        Raises:
            IntegrityError: the prompt is not in flight: it would be counted twice.
        """
        if not self._in_flight[prompt]:
            raise IntegrityError(f"prompt {prompt} was settled as {outcome} but is not in flight")
        self._in_flight[prompt] -= 1
        self._in_flight += Counter()
        self.outcomes[outcome] += 1

    @property
    def drawn(self) -> int:
        return self.epoch * self.count + self.cursor

    def check(self) -> None:
        """Raises IntegrityError unless every drawn prompt is settled or in flight."""
        accounted = sum(self.outcomes.values()) + sum(self._in_flight.values())
        if accounted != self.drawn:
            raise IntegrityError(f"prompt ledger: {self.drawn} drawn, {accounted} accounted for ({self.outcomes})")

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; with the constructor's arguments it restores the ledger exactly."""
        return {
            "count": self.count,
            "seed": self.seed,
            "epoch": self.epoch,
            "cursor": self.cursor,
            "outcomes": dict(self.outcomes),
            "in_flight": sorted(self._in_flight.elements()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            IntegrityError: the state belongs to other prompts or another seed.
        """
        if (state["count"], state["seed"]) != (self.count, self.seed):
            raise IntegrityError(
                f"prompt ledger of {state['count']} prompts and seed {state['seed']} cannot continue with "
                f"{self.count} prompts and seed {self.seed}"
            )
        self.epoch, self.cursor = state["epoch"], state["cursor"]
        self.outcomes, self._in_flight = Counter(state["outcomes"]), Counter(state["in_flight"])
        self._order = self._permutation(self.epoch)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)
