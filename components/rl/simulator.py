"""Discrete-event simulation of rollouts: the real scheduler, with engines and learner replaced by their measured times.

What is simulated is time only. The scheduler is components.rl.scheduler itself, driven as components.rl.partial drives
it, so a predicted ratio between modes is that of the machine that runs. An engine decodes its first `places` rollouts
together, one token each in step_s(batch) seconds, and pays prefill_s for each token it takes up. Events are the ends of
rollouts, of a share of the budget, and of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from components.rl.partial import SLICE_S
from components.rl.scheduler import Key, Scheduler, SchedulerPolicy


@dataclass(frozen=True)
class Cluster:
    """Times of the parts.

    engines, places: engines, and rollouts one engine decodes together.
    step_s: rollouts decoded together -> seconds of one decoding step.
    prefill_s: per token. prompt_tokens: of every prompt.
    train_s: per trained token, old log-probs and update. fixed_s: per step, exchange and what else there is.
    contention: how many times slower engines and learner are while both run: 2 on the same cores, 1 on their own.
    """

    engines: int
    places: int
    step_s: Callable[[int], float]
    prefill_s: float
    prompt_tokens: int
    train_s: float
    fixed_s: float
    contention: float = 1.0


@dataclass(frozen=True)
class StepTimes:
    """tokens: trained. rollout_tokens: as the budget counts them (all trained ones without a budget)."""

    tokens: int
    rollout_tokens: int
    rollout_s: float
    total_s: float


@dataclass
class _State:
    scheduler: Scheduler
    length: Callable[[int], int]
    cluster: Cluster
    slice_s: float
    live: set[Key] = field(default_factory=set)


def simulate(
    policy: SchedulerPolicy,
    cluster: Cluster,
    length: Callable[[int], int],
    steps: int,
    slice_s: float = SLICE_S,
) -> list[StepTimes]:
    """Times of `steps` steps. length: serial number of a rollout (group number * group size + member) -> tokens.

    A policy without token_budget and take_groups is the synchronous loop. slice_s: how long engines decode between two
    looks of an asynchronous collector.
    """
    state = _State(Scheduler(policy), length, cluster, slice_s)
    scheduler, asynchronous = state.scheduler, policy.take_groups is not None
    times = []
    for _ in range(steps):
        scheduler.begin()
        scheduler.offer([0] * scheduler.wanted())
        rollout = 0.0
        while not scheduler.over:
            rollout += _decode(state, slice_s if asynchronous else None)
            scheduler.offer([0] * scheduler.wanted())
        counted = scheduler.counted
        tokens = sum(sum(group.tokens) for group in scheduler.take())
        train = cluster.train_s * tokens
        if asynchronous:
            train = _while_training(state, train)
        state.live.clear()
        rollout_tokens = tokens if policy.token_budget is None else counted
        times.append(StepTimes(tokens, rollout_tokens, rollout, rollout + train + cluster.fixed_s))
    return times


def rates(times: Sequence[StepTimes], skip: int) -> tuple[float, float]:
    """(rollout, end to end) tokens per second after the first `skip` steps."""
    kept = times[skip:]
    rollout_s = sum(step.rollout_s for step in kept)
    rollout = sum(step.rollout_tokens for step in kept) / rollout_s if rollout_s else float("inf")
    return rollout, sum(step.tokens for step in kept) / sum(step.total_s for step in kept)


def _while_training(state: _State, train: float) -> float:
    """Decodes in slices until the update is done; seconds until the last slice ends."""
    spent = left = 0.0
    left = train
    contention = state.cluster.contention
    while left > 0:
        state.scheduler.offer([0] * state.scheduler.wanted())
        if not state.scheduler.runnable():
            return spent + left
        slice_s = _decode(state, state.slice_s, contention)
        spent += slice_s
        left -= slice_s / contention
    return spent


def _decode(state: _State, seconds: float | None, slower: float = 1.0) -> float:
    """One call of every engine with its share of what is runnable; seconds of the slowest."""
    scheduler, count, size = state.scheduler, state.cluster.engines, state.scheduler.policy.group_size
    keys, tokens = scheduler.runnable(), scheduler.remaining()
    longest = 0.0
    for rank in range(count):
        share = [key for key in keys if (key[0] * size + key[1]) % count == rank]
        budget = None if tokens is None else -(-tokens * len(share) // max(len(keys), 1))
        longest = max(longest, _engine(state, share, budget, seconds, slower))
    return longest


def _engine(state: _State, keys: list[Key], budget: int | None, seconds: float | None, slower: float) -> float:
    scheduler, cluster = state.scheduler, state.cluster
    size, finished_only = scheduler.policy.group_size, scheduler.policy.counts == "finished"
    total = {key: scheduler.groups[key[0]].tokens[key[1]] for key in keys}
    left = {key: state.length(key[0] * size + key[1]) - total[key] for key in keys}
    drawn = dict.fromkeys(keys, 0)
    waiting, running = list(keys), []
    spent, counted = 0.0, 0
    while (budget is None or counted < budget) and (seconds is None or spent < seconds):
        while waiting and len(running) < cluster.places:
            key = waiting.pop(0)
            running.append(key)
            if key not in state.live:
                state.live.add(key)
                spent += slower * cluster.prefill_s * (cluster.prompt_tokens + total[key])
        if not running:
            break
        step = slower * cluster.step_s(len(running))
        steps = min(left[key] - drawn[key] for key in running)
        if budget is not None and not finished_only:
            steps = min(steps, -(-(budget - counted) // len(running)))
        if seconds is not None:
            steps = min(steps, max(int((seconds - spent) / step), 1))
        spent += steps * step
        counted += 0 if finished_only else steps * len(running)
        for key in running:
            drawn[key] += steps
        if finished_only:
            counted += sum(total[key] + drawn[key] for key in running if drawn[key] == left[key])
        running = [key for key in running if drawn[key] < left[key]]
    for key in keys:
        if drawn[key]:
            done = drawn[key] == left[key]
            scheduler.advance(key, drawn[key], done)
            if done:
                state.live.discard(key)
    return spent
