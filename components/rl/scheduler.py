"""The rollout scheduler of C3PO++ (arXiv 2510.18855, algorithm 1) as a pure state machine: no Ray, no vLLM, no clock.

One iteration gathers what one update trains on:

    purge      groups that cannot be trained within `max_staleness` any more go back to the prompt queue
    refill     offered prompts become groups of `group_size` rollouts; unfinished rollouts form the inference pool
    decode     the driver draws tokens for `runnable()` in that order and reports them with `advance`
    take       whole groups whose rollouts all ended: the training queue of this iteration

The iteration ends when its token budget is met, or when nothing is left to decode. What is unfinished then keeps its
tokens, ages by one, and is decoded on by the next policy. Age is counted from a group's first token, so no trained
token was drawn more than `max_staleness` iterations before. Where the text is silent:

- The budget counts the tokens of finished rollouts (algorithm 1) or all drawn ones (the prose): `counts`.
- A prompt trains when its whole group is done, so the budget may be met without one whole group: the iteration then
  goes on, by tenths of the budget, until there is one.
- One rollout too old makes its group untrainable. The group is drawn again from the start, behind the groups already
  waiting, at most `max_purges` times, then dropped. Both are counted, so that no bias to short answers is silent.
- `overdue="wait"` finishes what would grow too old instead of purging it. With `max_staleness` 0 nothing can be
  carried, so an iteration waits for all it started, whatever `overdue` says: the synchronous loop.

Asynchronous training is the same machine with `take_groups`: an iteration takes exactly that many groups, oldest first,
and prompts are offered up to (iteration + 1 + max_staleness) * take_groups groups in all, the bound of AReaL's
staleness manager (arXiv 2505.24298, eq. 3). That bounds how many wait, not how long one straggler does while younger
groups overtake it, so an iteration also ends only when what it leaves behind can still be taken in time: for every
iteration b, those begun by b must fit into the (b + max_staleness - iteration) takes before they are too old.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from components.failures import IntegrityError

# An iteration whose budget was met without one whole group goes on by this share of the budget at a time.
EXTENSION = 0.1

Key = tuple[int, int]  # (group number, member)


@dataclass(frozen=True)
class SchedulerPolicy:
    """What decides when an iteration ends and what is carried over.

    offered: fresh groups that may wait at the start of an iteration; over-sampling is offered over trained.
    token_budget: Phi; None: an iteration ends when everything offered is done.
    pool: Omega, unfinished rollouts handed out together; None: all of them.
    """

    group_size: int
    offered: int
    token_budget: int | None = None
    counts: Literal["finished", "generated"] = "finished"
    max_staleness: int = 0
    overdue: Literal["purge", "wait"] = "purge"
    max_purges: int = 3
    pool: int | None = None
    take_groups: int | None = None


@dataclass
class GroupState:
    """number: order of draw, unique. drawn_at: iteration it was offered in. born: iteration of its first token."""

    number: int
    prompt: int
    drawn_at: int
    purges: int
    tokens: list[int]
    done: list[bool]
    born: int | None = None

    @property
    def complete(self) -> bool:
        return all(self.done)


@dataclass(frozen=True)
class Purge:
    """A group that was given up. requeued: the number it goes by now, None when it was dropped for good."""

    number: int
    prompt: int
    tokens: int
    requeued: int | None


class Scheduler:
    """Call, per iteration: begin, then (offer, runnable, advance) until `over`, then take."""

    def __init__(self, policy: SchedulerPolicy) -> None:
        self.policy = policy
        self.iteration = -1
        self.counted = self.generated = 0
        self.groups: dict[int, GroupState] = {}
        self.counts: Counter[str] = Counter()  # offered, purged, dropped, trained: groups; purged_tokens
        self._next = self._room = 0

    def begin(self) -> list[Purge]:
        """Starts an iteration: budget at zero, everything unfinished one older, what is too old purged."""
        self.iteration += 1
        self.counted = self.generated = 0
        old = [
            group
            for group in self.groups.values()
            if group.born is not None and not group.complete and self._age(group) > self.policy.max_staleness
        ]
        purged = [self._purge(group) for group in old]
        waiting = sum(group.born is None for group in self.groups.values())
        self._room = max(self.policy.offered - waiting, 0)
        return purged

    def wanted(self) -> int:
        """How many prompts to offer now."""
        if self.policy.take_groups is None:
            return self._room
        limit = (self.iteration + 1 + self.policy.max_staleness) * self.policy.take_groups
        return max(limit - (self.counts["offered"] - self.counts["dropped"]), 0)

    def offer(self, prompts: Sequence[int]) -> None:
        """Adds one group per prompt, behind those waiting."""
        for prompt in prompts:
            self._add(prompt, purges=0)
        self.counts["offered"] += len(prompts)
        self._room = max(self._room - len(prompts), 0)

    def refill(self, silent: Collection[int], prompts: int) -> None:
        """Complete groups that hold no signal leave the budget, and make room for that many further prompts."""
        self.counted -= sum(sum(self.groups[number].tokens) for number in silent)
        self._room += prompts

    def runnable(self) -> list[Key]:
        """The inference pool: unfinished rollouts in the order they should get a place, those begun before first."""
        closing = self.closing and any(group.complete for group in self.groups.values())
        open_groups = [
            group for group in self.groups.values() if not group.complete and not (closing and group.born is None)
        ]
        open_groups.sort(key=lambda group: (group.born is None, group.number))
        keys = [(group.number, member) for group in open_groups for member, done in enumerate(group.done) if not done]
        return keys[: self.policy.pool]

    def advance(self, key: Key, tokens: int, done: bool) -> None:
        """Reports `tokens` new ones of a rollout, and whether it ended.

        Raises:
            IntegrityError: the rollout is unknown or has ended, or ended without a token: it would be counted twice.
        """
        number, member = key
        group = self.groups.get(number)
        if group is None or group.done[member]:
            raise IntegrityError(f"rollout {key} made progress but is {'unknown' if group is None else 'finished'}")
        if tokens < 0 or (done and group.tokens[member] + tokens == 0):
            raise IntegrityError(f"rollout {key} reported {tokens} tokens, done: {done}")
        if tokens and group.born is None:
            group.born = self.iteration
        group.tokens[member] += tokens
        group.done[member] = done
        self.generated += tokens
        if self.policy.counts == "generated":
            self.counted += tokens
        elif done:
            self.counted += group.tokens[member]

    @property
    def closing(self) -> bool:
        """The iteration has what it wants: no new group is started."""
        policy = self.policy
        if policy.take_groups is not None:
            return sum(group.complete for group in self.groups.values()) >= policy.take_groups
        return policy.token_budget is not None and self.counted >= policy.token_budget

    @property
    def over(self) -> bool:
        """The iteration can end: its budget is met with a whole group in the queue, or nothing is left to decode."""
        if all(group.complete for group in self.groups.values()):
            return len(self.groups) >= (self.policy.take_groups or 0)
        if not self.closing or not any(group.complete for group in self.groups.values()):
            return False
        if self.policy.take_groups is not None:
            return self._rest_in_time(self.policy.take_groups)
        return not any(self._must_wait(group) for group in self.groups.values())

    def remaining(self) -> int | None:
        """Tokens to draw before asking again, as the budget counts them; None: until everything runnable is done."""
        budget = self.policy.token_budget
        if budget is None or self.policy.take_groups is not None:
            return None
        if not self.closing:
            return budget - self.counted
        if any(group.complete for group in self.groups.values()):
            return None
        return max(round(EXTENSION * budget), 1)

    def take(self) -> list[GroupState]:
        """Ends the iteration: removes and returns the groups to train on, in the order they were drawn."""
        ready = sorted((g for g in self.groups.values() if g.complete), key=lambda g: (g.born, g.number))
        taken = sorted(ready[: self.policy.take_groups], key=lambda group: group.number)
        for group in taken:
            if self._age(group) > self.policy.max_staleness:
                raise IntegrityError(f"group {group.number} is {self._age(group)} iterations old: {self.policy}")
            del self.groups[group.number]
        self.counts["trained"] += len(taken)
        self.check()
        return taken

    def discard(self) -> list[Purge]:
        """Between two iterations: every group with a token is drawn again, whatever its age. No purge is counted."""
        again = []
        for group in [group for group in self.groups.values() if group.born is not None]:
            del self.groups[group.number]
            number = self._add(group.prompt, group.purges)
            again.append(Purge(group.number, group.prompt, sum(group.tokens), number))
        self.counts["discarded"] += len(again)
        self.check()
        return again

    def check(self) -> None:
        """Raises IntegrityError unless every offered group is trained, dropped or still here."""
        accounted = self.counts["trained"] + self.counts["dropped"] + len(self.groups)
        if accounted != self.counts["offered"]:
            raise IntegrityError(f"scheduler: {self.counts['offered']} groups offered, {accounted} accounted for")

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; `load_state_dict` on a scheduler of the same policy goes on exactly."""
        return {
            "iteration": self.iteration,
            "next": self._next,
            "counts": dict(self.counts),
            "groups": [asdict(group) for group in self.groups.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on after a `take`.

        Raises:
            IntegrityError: a group has another size than the policy's.
        """
        groups = [GroupState(**group) for group in state["groups"]]
        if any(len(group.done) != self.policy.group_size for group in groups):
            raise IntegrityError(f"scheduler state holds groups of another size than {self.policy.group_size}")
        self.iteration, self._next = state["iteration"], state["next"]
        self.counts = Counter(state["counts"])
        self.groups = {group.number: group for group in groups}
        self.counted = self.generated = 0

    # ---- inside

    def _age(self, group: GroupState) -> int:
        return 0 if group.born is None else self.iteration - group.born

    def _must_wait(self, group: GroupState) -> bool:
        waits = self.policy.overdue == "wait" or self.policy.max_staleness == 0
        started = group.born is not None and not group.complete
        return waits and started and self._age(group) >= self.policy.max_staleness

    def _rest_in_time(self, taken: int) -> bool:
        begun = [group for group in self.groups.values() if group.born is not None]
        for born in {group.born for group in begun}:
            until = [group for group in begun if group.born <= born]
            takes_left = born + self.policy.max_staleness - self.iteration
            must = len(until) - takes_left * taken
            if min(sum(group.complete for group in until), taken) < must:
                return False
        return True

    def _add(self, prompt: int, purges: int) -> int:
        size, number = self.policy.group_size, self._next
        self.groups[number] = GroupState(number, prompt, self.iteration, purges, [0] * size, [False] * size)
        self._next += 1
        return number

    def _purge(self, group: GroupState) -> Purge:
        del self.groups[group.number]
        self.counts["purged"] += 1
        self.counts["purged_tokens"] += sum(group.tokens)
        requeued = None
        if group.purges < self.policy.max_purges:
            requeued = self._add(group.prompt, group.purges + 1)
        else:
            self.counts["dropped"] += 1
        return Purge(group.number, group.prompt, sum(group.tokens), requeued)
