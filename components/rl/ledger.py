"""The prompt ledger: which prompt is drawn when, and proof that each was drawn once per epoch, also over a resume.

The order of an epoch is a permutation drawn from (seed, epoch) alone, so the state is three numbers and the record of
what became of every prompt. Nothing is drawn twice in an epoch and nothing is lost: drawn = trained + filtered +
surplus + failed + purged + in flight at any time, and an epoch ends only when every prompt was drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from components.failures import BadInput, IntegrityError

# filtered: all rewards of the group were equal. surplus: over-sampled and not needed. failed: no reward was to be had.
# purged: too old to be trained on, as often as the scheduler allows.
Outcome = Literal["trained", "filtered", "surplus", "failed", "purged"]


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


class PromptMixture:
    """Several ledgers drawn from in fixed shares, e.g. half general and half verifiable prompts in every step.

    Args:
        parts: (prompt indices, share) each; shares are normalised; a part without a share is never drawn.
        seed: of the whole; each part has its own order.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], float]], seed: int) -> None:
        used = [(list(indices), share) for indices, share in parts if share > 0]
        everything = [prompt for indices, _ in used for prompt in indices]
        if not used or len(set(everything)) != len(everything):
            raise BadInput("a prompt belongs to two parts of the mixture, or no part has a share")
        self._prompts = [indices for indices, _ in used]
        total = sum(share for _, share in used)
        self._shares = [share / total for _, share in used]
        self._ledgers = [PromptLedger(len(indices), seed + 7919 * i) for i, indices in enumerate(self._prompts)]
        self._home = {prompt: (i, at) for i, part in enumerate(self._prompts) for at, prompt in enumerate(part)}

    def draw(self, number: int) -> list[int]:
        """The next `number` prompt indices, shares rounded by largest remainder."""
        exact = [share * number for share in self._shares]
        counts = [int(value) for value in exact]
        by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
        for i in by_remainder[: number - sum(counts)]:
            counts[i] += 1
        return [
            prompts[at]
            for ledger, prompts, count in zip(self._ledgers, self._prompts, counts, strict=True)
            for at in ledger.draw(count)
        ]

    def settle(self, prompt: int, outcome: Outcome) -> None:
        ledger, at = self._home[prompt]
        self._ledgers[ledger].settle(at, outcome)

    def check(self) -> None:
        for ledger in self._ledgers:
            ledger.check()

    @property
    def drawn(self) -> int:
        return sum(ledger.drawn for ledger in self._ledgers)

    @property
    def outcomes(self) -> Counter[str]:
        return sum((ledger.outcomes for ledger in self._ledgers), Counter())

    @property
    def epoch(self) -> float:
        """Epochs of the part that is furthest along, with its fraction."""
        return max(ledger.drawn / ledger.count for ledger in self._ledgers)

    def state_dict(self) -> dict[str, Any]:
        return {"ledgers": [ledger.state_dict() for ledger in self._ledgers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for ledger, part in zip(self._ledgers, state["ledgers"], strict=True):
            ledger.load_state_dict(part)
