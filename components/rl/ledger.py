"""The prompt ledger: which prompt is drawn when, and proof that each was drawn once per epoch, also over a resume.

The order of an epoch is a permutation drawn from (seed, epoch) alone, so the state is three numbers and the record of
what became of every prompt. With a filter it also depends on the pass rates seen so far, which the state then holds.
Nothing is drawn twice in an epoch and nothing is lost: drawn = trained + filtered + surplus + failed + purged +
discarded + in flight at any time, and an epoch ends only when every prompt was drawn that is not retired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from components.failures import BadInput, IntegrityError
from components.recipe.rl import PromptFilter

# filtered: all rewards of the group were equal. surplus: over-sampled and not needed. failed: no reward was to be had.
# purged: too old to be trained on, as often as the scheduler allows. discarded: drawn by wrong weights, or undone.
Outcome = Literal["trained", "filtered", "surplus", "failed", "purged", "discarded"]

# Where an unanswered prompt stands in a curriculum: behind those known to be half solved, before the others.
UNKNOWN_PASS_RATE = 0.25
NO_FILTER = PromptFilter()


class PromptLedger:
    """Deals prompt indices in a reproducible order.

    Args:
        count: number of prompts. Prompts are known by their index in the data, whose digest is in the fingerprint.
        seed: with the epoch's number, decides the order.
        prompt_filter: pass-rate curriculum and retirement; none by default.
    """

    def __init__(self, count: int, seed: int, prompt_filter: PromptFilter = NO_FILTER) -> None:
        if count < 1:
            raise BadInput("no prompts to draw from", remedy="Check the phase's domains against data/rl.jsonl")
        self.count, self.seed, self.filter = count, seed, prompt_filter
        self.epoch = self.cursor = self.drawn = 0
        self.outcomes: Counter[str] = Counter()
        self.retired: dict[int, str] = {}
        self._in_flight: Counter[int] = Counter()
        self._rates: dict[int, float] = {}  # last pass rate of every prompt that was answered
        self._streaks: dict[int, int] = {}  # +n: solved by all members n times in a row, -n: by none
        self._order = self._permutation()

    def draw(self, number: int) -> list[int]:
        """The next `number` prompts; runs into the next epoch when this one is used up.

        Raises:
            BadInput: every prompt is retired.
        """
        drawn: list[int] = []
        while len(drawn) < number:
            if self.cursor == len(self._order):
                self.epoch, self.cursor = self.epoch + 1, 0
                self._order = self._permutation()
            prompt = self._order[self.cursor]
            self.cursor += 1
            # Retired since the order was made: it keeps its place there, so that a resume finds the same order.
            if prompt not in self.retired:
                drawn.append(prompt)
        self.drawn += number
        self._in_flight.update(drawn)
        return drawn

    def settle(self, prompt: int, outcome: Outcome, pass_rate: float | None = None) -> None:
        """Records what became of a drawn prompt, once. pass_rate: of its answers, where they are right or wrong.

        Raises:
            IntegrityError: the prompt is not in flight: it would be counted twice.
        """
        if not self._in_flight[prompt]:
            raise IntegrityError(f"prompt {prompt} was settled as {outcome} but is not in flight")
        self._in_flight[prompt] -= 1
        self._in_flight += Counter()
        self.outcomes[outcome] += 1
        if pass_rate is None:
            return
        self._rates[prompt] = pass_rate
        sign = {0.0: -1, 1.0: 1}.get(pass_rate, 0)
        before = self._streaks.get(prompt, 0)
        self._streaks[prompt] = before + sign if before * sign >= 0 and sign else sign
        if self.filter.retire_after and abs(self._streaks[prompt]) >= self.filter.retire_after:
            self.retired[prompt] = "always" if sign > 0 else "never"

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
            "drawn": self.drawn,
            "outcomes": dict(self.outcomes),
            "in_flight": sorted(self._in_flight.elements()),
            "retired": sorted(self.retired.items()),
            "rates": sorted(self._rates.items()),
            "streaks": sorted(self._streaks.items()),
            "order": self._order if self.filter != NO_FILTER else None,
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
        self.epoch, self.cursor, self.drawn = state["epoch"], state["cursor"], state["drawn"]
        self.outcomes, self._in_flight = Counter(state["outcomes"]), Counter(state["in_flight"])
        self.retired, self._rates, self._streaks = (dict(state[name]) for name in ("retired", "rates", "streaks"))
        self._order = state["order"] or self._permutation()

    def _permutation(self) -> list[int]:
        """The prompts of an epoch, without those retired. With a curriculum the useful ones come first.

        Raises:
            BadInput: none is left.
        """
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count).tolist()
        order = [prompt for prompt in order if prompt not in self.retired]
        if not order:
            raise BadInput(
                f"all {self.count} prompts are retired: {Counter(self.retired.values())}",
                where="prompt_filter.retire_after",
                remedy="Harder or easier prompts are needed, or a larger retire_after",
            )
        if self.filter.curriculum == "pass-rate":
            # p (1 - p) is what a group's advantages can learn from; a prompt nobody answered yet may be anything.
            order.sort(key=lambda prompt: -_signal(self._rates.get(prompt, UNKNOWN_PASS_RATE)))
        return order


def _signal(pass_rate: float) -> float:
    return round(pass_rate * (1 - pass_rate), 6)


class PromptMixture:
    """Several ledgers drawn from in fixed shares, e.g. half general and half verifiable prompts in every step.

    Args:
        parts: (prompt indices, share) each; shares are normalised; a part without a share is never drawn.
        seed: of the whole; each part has its own order.
        prompt_filter: as of PromptLedger, for every part.
    """

    def __init__(
        self, parts: Sequence[tuple[Sequence[int], float]], seed: int, prompt_filter: PromptFilter = NO_FILTER
    ) -> None:
        used = [(list(indices), share) for indices, share in parts if share > 0]
        everything = [prompt for indices, _ in used for prompt in indices]
        if not used or len(set(everything)) != len(everything):
            raise BadInput("a prompt belongs to two parts of the mixture, or no part has a share")
        self._prompts = [indices for indices, _ in used]
        total = sum(share for _, share in used)
        self._shares = [share / total for _, share in used]
        self._ledgers = [
            PromptLedger(len(indices), seed + 7919 * i, prompt_filter) for i, indices in enumerate(self._prompts)
        ]
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

    def settle(self, prompt: int, outcome: Outcome, pass_rate: float | None = None) -> None:
        ledger, at = self._home[prompt]
        self._ledgers[ledger].settle(at, outcome, pass_rate)

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
    def retired(self) -> Counter[str]:
        """Prompts that are not drawn any more: `always` and `never` solved."""
        return Counter(why for ledger in self._ledgers for why in ledger.retired.values())

    @property
    def epoch(self) -> float:
        """Epochs of the part that is furthest along, with its fraction."""
        return max(ledger.epoch + ledger.cursor / len(ledger._order) for ledger in self._ledgers)

    def state_dict(self) -> dict[str, Any]:
        return {"ledgers": [ledger.state_dict() for ledger in self._ledgers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for ledger, part in zip(self._ledgers, state["ledgers"], strict=True):
            ledger.load_state_dict(part)
