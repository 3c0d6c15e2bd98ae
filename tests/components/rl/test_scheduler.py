"""The scheduler's promises for any lengths, any policy and any order in which rollouts end (hypothesis)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.failures import IntegrityError
from components.rl.ledger import PromptLedger
from components.rl.scheduler import Scheduler, SchedulerPolicy

PROMPTS = 12


@st.composite
def policies(draw) -> SchedulerPolicy:
    offered = draw(st.integers(1, 6))
    if draw(st.booleans()):
        return SchedulerPolicy(
            group_size=draw(st.integers(1, 4)),
            offered=offered,
            max_staleness=draw(st.integers(0, 3)),
            overdue="wait",
            take_groups=offered,
            pool=draw(st.none() | st.integers(1, 12)),
        )
    return SchedulerPolicy(
        group_size=draw(st.integers(1, 4)),
        offered=offered,
        token_budget=draw(st.none() | st.integers(1, 200)),
        counts=draw(st.sampled_from(["finished", "generated"])),
        max_staleness=draw(st.integers(0, 3)),
        overdue=draw(st.sampled_from(["purge", "wait"])),
        max_purges=draw(st.integers(0, 2)),
        pool=draw(st.none() | st.integers(1, 12)),
    )


@dataclass
class Driver:
    """Plays the engine one token at a time per place, `places` rollouts at once; any lengths."""

    policy: SchedulerPolicy
    seed: int
    places: int
    longest: int = 40
    scheduler: Scheduler = field(init=False)
    trained: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    purged_tokens: int = 0
    drawn_tokens: int = 0
    trained_tokens: int = 0

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.policy)
        self.ledger = PromptLedger(PROMPTS, self.seed)
        self.rng = np.random.default_rng(self.seed)
        self.lengths: dict[tuple[int, int], int] = {}
        self.drawn_in: dict[int, set[int]] = {}

    def length(self, key) -> int:
        return self.lengths.setdefault(key, int(np.random.default_rng([self.seed, *key]).integers(1, self.longest)))

    def decode_round(self) -> None:
        """One token for each of the first `places` runnable rollouts, in any order."""
        scheduler = self.scheduler
        keys = scheduler.runnable()
        assert keys, "not over, and nothing to run"
        assert len(set(keys)) == len(keys)
        assert self.policy.pool is None or len(keys) <= self.policy.pool
        keys = keys[: self.places]
        for at in self.rng.permutation(len(keys)):
            key = keys[at]
            done = scheduler.groups[key[0]].tokens[key[1]] + 1 == self.length(key)
            scheduler.advance(key, 1, done)
            self.drawn_tokens += 1
            self.drawn_in.setdefault(key[0], set()).add(scheduler.iteration)

    def iterate(self) -> list:
        scheduler, policy = self.scheduler, self.policy
        for purge in scheduler.begin():
            self.purged_tokens += purge.tokens
            assert policy.overdue == "purge"
            if purge.requeued is None:
                self.dropped.append(purge.prompt)
                self.ledger.settle(purge.prompt, "purged")
        scheduler.offer(self.ledger.draw(scheduler.wanted()))
        before = 0
        while not scheduler.over:
            # Budget kept: a decoding round only starts while the budget is open, or for a reason the text names.
            if scheduler.closing:
                waits = policy.overdue == "wait" or policy.max_staleness == 0
                assert waits or not any(group.complete for group in scheduler.groups.values())
            before = scheduler.counted
            self.decode_round()
            scheduler.offer(self.ledger.draw(scheduler.wanted()))
        if policy.token_budget is not None and policy.max_staleness and policy.overdue == "purge":
            assert before < policy.token_budget or sum(g.complete for g in scheduler.groups.values()) >= 1
        taken = scheduler.take()
        for group in taken:
            ages = {scheduler.iteration - iteration for iteration in self.drawn_in[group.number]}
            assert max(ages) <= policy.max_staleness
            assert group.tokens == [self.length((group.number, member)) for member in range(policy.group_size)]
            assert not (policy.pool is None and policy.max_staleness == 0 and ages != {0})
            self.trained.append(group.prompt)
            self.trained_tokens += sum(group.tokens)
            self.ledger.settle(group.prompt, "trained")
        self.ledger.check()
        scheduler.check()
        return taken


@settings(max_examples=150, deadline=None)
@given(policy=policies(), seed=st.integers(0, 10**6), places=st.integers(1, 16), iterations=st.integers(1, 12))
def test_nothing_lost_nothing_twice_age_and_budget_kept(policy, seed, places, iterations):
    driver = Driver(policy, seed, places)
    for _ in range(iterations):
        taken = driver.iterate()
        assert taken, "an iteration trains at least one group"
        if policy.take_groups is not None:
            assert len(taken) == policy.take_groups
    scheduler = driver.scheduler
    # Tokens: what was drawn was trained, purged, or is still here.
    kept = sum(sum(group.tokens) for group in scheduler.groups.values())
    assert driver.drawn_tokens == driver.trained_tokens + driver.purged_tokens + kept
    assert scheduler.counts["purged_tokens"] == driver.purged_tokens
    assert scheduler.counts["dropped"] == len(driver.dropped)
    # Prompts: each epoch trains every prompt exactly once unless it was dropped, which is counted, or is in flight.
    here = Counter(group.prompt for group in scheduler.groups.values())
    seen = Counter(driver.trained) + Counter(driver.dropped) + here
    drawn = driver.ledger.drawn
    for prompt in range(PROMPTS):
        assert drawn // PROMPTS <= seen[prompt] <= -(-drawn // PROMPTS)
    assert sum(seen.values()) == drawn
    if policy.max_staleness == 0 or policy.overdue == "wait":
        assert not driver.purged_tokens


@settings(max_examples=50, deadline=None)
@given(policy=policies(), seed=st.integers(0, 10**6), places=st.integers(1, 16), cut=st.integers(1, 5))
def test_a_restored_scheduler_goes_on_exactly(policy, seed, places, cut):
    one, two = Driver(policy, seed, places), Driver(policy, seed, places)
    for _ in range(cut):
        assert one.iterate() == two.iterate()
    restored = Scheduler(policy)
    restored.load_state_dict(json.loads(json.dumps(two.scheduler.state_dict())))
    two.scheduler = restored
    for _ in range(4):
        assert one.iterate() == two.iterate()
    assert one.scheduler.state_dict() == two.scheduler.state_dict()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 4), offered=st.integers(1, 5), places=st.integers(1, 20))
def test_at_staleness_0_all_modes_take_the_same_groups_with_the_same_tokens(seed, size, offered, places):
    common = {"group_size": size, "offered": offered}
    modes = [
        SchedulerPolicy(**common),
        SchedulerPolicy(**common, token_budget=10**9, counts="generated"),
        SchedulerPolicy(**common, take_groups=offered, overdue="wait"),
    ]
    drivers = [Driver(policy, seed, places) for policy in modes]
    for iteration in range(5):
        taken = [[(g.number, g.prompt, g.tokens) for g in driver.iterate()] for driver in drivers]
        assert taken[0] == taken[1] == taken[2]
        assert [number for number, _, _ in taken[0]] == list(range(iteration * offered, (iteration + 1) * offered))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), staleness=st.integers(1, 3))
def test_asynchronous_draw_ahead_is_bounded(seed, staleness):
    driver = Driver(SchedulerPolicy(2, 3, max_staleness=staleness, overdue="wait", take_groups=3), seed, places=8)
    for iteration in range(8):
        driver.iterate()
        for _ in range(5):  # the engines go on while the learner updates
            driver.scheduler.offer(driver.ledger.draw(driver.scheduler.wanted()))
            if driver.scheduler.runnable():
                driver.decode_round()
        assert driver.scheduler.counts["offered"] <= (iteration + 1 + staleness) * 3
        assert driver.scheduler.counts["trained"] == (iteration + 1) * 3


def test_long_answers_are_not_left_out_while_they_fit_the_age_bound():
    """Lengths of trained answers have the distribution of all answers: carried over, not lost."""
    policy = SchedulerPolicy(2, 6, token_budget=120, max_staleness=8)
    driver = Driver(policy, seed=3, places=12)
    for _ in range(200):
        driver.iterate()
    assert driver.scheduler.counts["purged"] == 0
    trained = driver.trained_tokens / (2 * len(driver.trained))
    assert trained == pytest.approx(np.mean(list(driver.lengths.values())), rel=0.02)


def test_what_never_fits_is_purged_requeued_and_dropped_with_counts():
    policy = SchedulerPolicy(1, 3, token_budget=4, max_staleness=1, max_purges=1)
    driver = Driver(policy, seed=0, places=3)
    driver.lengths = {(number, 0): 1000 if number % 3 == 0 else 2 for number in range(1000)}
    for _ in range(12):
        driver.iterate()
    counts = driver.scheduler.counts
    assert counts["dropped"] == len(driver.dropped) >= 1
    assert counts["purged"] > counts["dropped"]
    assert driver.ledger.outcomes["purged"] == counts["dropped"]


def test_progress_is_never_counted_twice():
    scheduler = Scheduler(SchedulerPolicy(1, 1))
    scheduler.begin()
    scheduler.offer([7])
    scheduler.advance((0, 0), 3, True)
    with pytest.raises(IntegrityError, match="finished"):
        scheduler.advance((0, 0), 1, False)
    with pytest.raises(IntegrityError, match="unknown"):
        scheduler.advance((9, 0), 1, False)
    with pytest.raises(IntegrityError, match="another size"):
        Scheduler(SchedulerPolicy(2, 1)).load_state_dict(scheduler.state_dict())
