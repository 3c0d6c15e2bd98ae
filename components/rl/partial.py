"""Collectors that carry rollouts over: C3PO++ and asynchronous, both driven by components.rl.scheduler.

Here lie the tokens of every unfinished rollout with their log-probs and versions; the scheduler decides, the engines
only draw. C3PO++ asks the engines for the budget's tokens and pauses them for the update. Asynchronous collection lets
them decode in short slices, in a thread of its own while the learner updates: the thread has the scheduler and the
rollouts to itself until it is joined, so nothing is locked. Scoring waits until then, since a reward model lives on the
learner.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.recipe.rl import RolloutConfig
from components.rewards.types import Reward
from components.rl.batch import Group
from components.rl.collect import Collector, Sources, Stopwatch, SynchronousCollector, has_signal, prompts_offered
from components.rl.scheduler import GroupState, Key, Purge, Scheduler, SchedulerPolicy
from components.rollout.types import Progress, Sample, SampleRequest, Until

# How long engines decode before an asynchronous collector looks at what ended. An update waits for one slice at most.
SLICE_S = 0.25
FILE = "rollouts-in-flight.json"


def open_collector(sources: Sources) -> Collector:
    """The collector of the phase's rollout mode."""
    rollout = sources.config.rollout
    if rollout.mode == "synchronous":
        return SynchronousCollector(sources)
    return PartialCollector(sources, scheduler_policy(rollout))


def scheduler_policy(rollout: RolloutConfig) -> SchedulerPolicy:
    """What the recipe's rollout section means to the scheduler; synchronous is a policy that carries nothing over."""
    common: dict[str, Any] = {
        "group_size": rollout.group_size,
        "offered": prompts_offered(rollout),
        "max_staleness": rollout.max_staleness,
        "pool": rollout.pool,
    }
    if rollout.mode == "async":
        return SchedulerPolicy(**common, overdue="wait", take_groups=rollout.prompts_per_step)
    return SchedulerPolicy(
        **common,
        token_budget=rollout.token_budget,
        counts=rollout.budget_counts,
        overdue=rollout.overdue,
        max_purges=rollout.max_purges,
    )


@dataclass
class Rollout:
    """One response on its way. versions: [tokens so far] weight version that drew each."""

    request: SampleRequest
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    finish: str | None = None
    reward: Reward | None = None

    def add(self, progress: Progress) -> None:
        self.tokens += progress.tokens
        self.logprobs += progress.logprobs
        self.versions += [progress.version] * len(progress.tokens)
        self.finish = progress.finish

    def next_request(self) -> SampleRequest:
        request = self.request
        return SampleRequest(request.request_id, request.prompt, request.seed, list(self.tokens), request.length)

    def sample(self) -> Sample:
        mixed = len(set(self.versions)) > 1
        return Sample(
            self.request.request_id,
            self.request.prompt,
            self.tokens,
            self.logprobs,
            self.finish,
            self.versions[-1],
            versions=self.versions if mixed else None,
        )


class PartialCollector:
    """Keeps the rollouts, asks the scheduler, drives the engines."""

    def __init__(self, sources: Sources, policy: SchedulerPolicy) -> None:
        self.sources, self.policy = sources, policy
        self.scheduler = Scheduler(policy)
        self.rollouts: dict[Key, Rollout] = {}
        self._keys: dict[str, Key] = {}
        self._unscored: list[Key] = []
        self._asynchronous = policy.take_groups is not None
        # Of the present step: rounds of dynamic sampling, groups they made up for, prompts they drew.
        self._rounds = self.refilled = 0
        self._silent: set[int] = set()

    def collect(self, step: int, clock: Stopwatch) -> list[Group]:
        scheduler = self.scheduler
        self._drop(scheduler.begin())
        self._rounds, self._silent, self.refilled = 0, set(), 0
        with ThreadPoolExecutor(1, thread_name_prefix="score") as pool:
            scoring: list[tuple[list[Key], Future[list[Reward]]]] = []
            with clock("rollout"):
                self._offer()
                self._score_finished(pool, scoring)
                while not scheduler.over or self._refill(scoring):
                    self._decode(SLICE_S if self._asynchronous else None)
                    self._offer()
                    self._score_finished(pool, scoring)
                if not self._asynchronous:
                    # What goes on under the next weights is taken up from its tokens: so does a run that was resumed.
                    self.sources.engines.pause()
            with clock("reward"):
                self._keep_rewards(scoring)
        return [self._close(group) for group in scheduler.take()]

    def wanted(self, groups: Sequence[Group]) -> int:
        return len(groups)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Asynchronous: decodes what the staleness bound allows until the block ends. C3PO++: the engines rest."""
        if not self._asynchronous:
            yield
            return
        stop = threading.Event()

        def decode() -> None:
            while not stop.is_set():
                self._offer()
                if not self.scheduler.runnable():
                    return
                self._decode(SLICE_S)

        with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
            going = pool.submit(decode)
            try:
                yield
            finally:
                stop.set()
            going.result()

    def discard(self) -> None:
        """Groups begun so far are drawn again from the start."""
        self.sources.engines.pause()
        self._unscored = []
        self._drop(self.scheduler.discard())

    def metrics(self) -> dict[str, float]:
        scheduler = self.scheduler
        begun = [rollout for rollout in self.rollouts.values() if rollout.tokens]
        return {
            "groups/refilled": float(self.refilled),
            "scheduler/generated_tokens": float(scheduler.generated),
            "scheduler/counted_tokens": float(scheduler.counted),
            "scheduler/carried_rollouts": float(len(begun)),
            "scheduler/carried_tokens": float(sum(len(rollout.tokens) for rollout in begun)),
            "scheduler/purged_groups": float(scheduler.counts["purged"]),
            "scheduler/purged_tokens": float(scheduler.counts["purged_tokens"]),
            "scheduler/dropped_groups": float(scheduler.counts["dropped"]),
        }

    def save(self, directory: Path) -> None:
        rollouts = [
            {
                "key": key,
                "request": asdict(rollout.request),
                "tokens": rollout.tokens,
                "logprobs": rollout.logprobs,
                "versions": rollout.versions,
                "finish": rollout.finish,
                "reward": None if rollout.reward is None else asdict(rollout.reward),
            }
            for key, rollout in self.rollouts.items()
        ]
        state = {"scheduler": self.scheduler.state_dict(), "rollouts": rollouts, "unscored": self._unscored}
        (directory / FILE).write_text(json.dumps(state, default=str))

    def restore(self, directory: Path) -> None:
        state = json.loads((directory / FILE).read_text())
        self.scheduler.load_state_dict(state["scheduler"])
        self.rollouts, self._keys = {}, {}
        for saved in state["rollouts"]:
            key = tuple(saved.pop("key"))
            request, reward = SampleRequest(**saved.pop("request")), saved.pop("reward")
            self.rollouts[key] = Rollout(request, reward=None if reward is None else Reward(**reward), **saved)
            self._keys[request.request_id] = key
        self._unscored = [tuple(key) for key in state["unscored"]]

    # ---- inside

    def _drop(self, purges: Sequence[Purge]) -> None:
        for purge in purges:
            for member in range(self.policy.group_size):
                self._forget((purge.number, member))
            if purge.requeued is None:
                self.sources.mixture.settle(purge.prompt, "purged")
            else:
                self._open(self.scheduler.groups[purge.requeued])

    def _refill(self, scoring: list[tuple[list[Key], Future[list[Reward]]]]) -> bool:
        """Dynamic sampling: at the end of an iteration, what came out without signal makes room for as many more.

        It waits for the rewards here, so that what is drawn next never depends on how fast they came.
        """
        config = self.sources.config
        if self._rounds == config.prompt_filter.refill:
            return False
        self._rounds += 1
        self._keep_rewards(scoring)
        members = range(self.policy.group_size)
        done = [group.number for group in self.scheduler.groups.values() if group.complete]
        silent = {n for n in done if not has_signal([self.rollouts[n, member].reward for member in members])}
        missing = min(config.rollout.prompts_per_step - (len(done) - len(silent)), len(silent - self._silent))
        if missing <= 0:
            return False
        self.scheduler.refill(silent - self._silent, missing)
        self._silent |= silent
        self.refilled += missing
        self._offer()
        return not self.scheduler.over

    def _keep_rewards(self, scoring: list[tuple[list[Key], Future[list[Reward]]]]) -> None:
        for keys, future in scoring:
            for key, reward in zip(keys, future.result(), strict=True):
                self.rollouts[key].reward = reward
        scoring.clear()

    def _offer(self) -> None:
        wanted = self.scheduler.wanted()
        if wanted:
            before = set(self.scheduler.groups)
            self.scheduler.offer(self.sources.mixture.draw(wanted))
            for number in self.scheduler.groups.keys() - before:
                self._open(self.scheduler.groups[number])

    def _open(self, group: GroupState) -> None:
        for member in range(self.policy.group_size):
            request = self.sources.request(f"g{group.number}", group.drawn_at, group.prompt, member)
            self.rollouts[group.number, member] = Rollout(request)
            self._keys[request.request_id] = (group.number, member)

    def _decode(self, seconds: float | None) -> None:
        keys = self.scheduler.runnable()
        size, tokens = self.policy.group_size, self.scheduler.remaining()
        progress = self.sources.engines.advance(
            [self.rollouts[key].next_request() for key in keys],
            [number * size + member for number, member in keys],
            self.sources.sampling,
            Until(tokens, self.policy.counts, seconds),
        )
        for part in progress:
            key = self._keys[part.request_id]
            self.rollouts[key].add(part)
            self.scheduler.advance(key, len(part.tokens), part.finish is not None)
            if part.finish is not None:
                self._unscored.append(key)

    def _score_finished(self, pool: ThreadPoolExecutor, scoring: list[tuple[list[Key], Future[list[Reward]]]]) -> None:
        """Hands over what may be scored; members of a group that must be scored whole wait for the others."""
        waiting = [key for key in self._unscored if key in self.rollouts]  # the others were purged meanwhile
        prompts = [self.scheduler.groups[number].prompt for number, _ in waiting]
        ready = self.sources.ready([(key[0], prompt) for key, prompt in zip(waiting, prompts, strict=True)])
        keys = [key for key, now in zip(waiting, ready, strict=True) if now]
        self._unscored = [key for key, now in zip(waiting, ready, strict=True) if not now]
        if keys:
            batch = [(self.scheduler.groups[key[0]].prompt, self.rollouts[key].sample()) for key in keys]
            scoring.append((keys, pool.submit(self.sources.score, batch)))

    def _close(self, group: GroupState) -> Group:
        members = [self._forget((group.number, member)) for member in range(self.policy.group_size)]
        return Group(
            group.prompt, tuple(member.sample() for member in members), tuple(member.reward for member in members)
        )

    def _forget(self, key: Key) -> Rollout:
        rollout = self.rollouts.pop(key)
        del self._keys[rollout.request.request_id]
        return rollout
