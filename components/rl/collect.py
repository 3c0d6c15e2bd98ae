"""Where a step's groups come from: one collector per rollout mode, all scored the same way.

The synchronous collector draws a step's prompts and waits for all of them. The others are in components.rl.partial.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np

from components.artifacts.context import StageContext
from components.recipe.rl import RlPhase, RolloutConfig
from components.rewards.types import GroupScorer, Reward, RewardRequest, Scorer
from components.rl.advantages import group_advantages
from components.rl.batch import Group, Prompt
from components.rl.ledger import PromptMixture
from components.rl.traces import Spent, Traces
from components.rollout.types import Progress, Sample, SampleRequest, Sampling, Until


class Engines(Protocol):
    """What the loop needs of the sampler (components.rollout.group.EngineGroup)."""

    def publish(self, version: int, weights: Mapping[str, np.ndarray]) -> str: ...

    def stream(
        self, requests: Sequence[SampleRequest], sampling: Sampling
    ) -> Iterator[tuple[list[int], list[Sample]]]: ...

    def advance(
        self, requests: Sequence[SampleRequest], homes: Sequence[int], sampling: Sampling, until: Until
    ) -> list[Progress]: ...

    def pause(self) -> None: ...

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]: ...


class Collector(Protocol):
    """Gathers the groups of one step after another."""

    def collect(self, step: int, clock: Stopwatch) -> list[Group]:
        """The scored groups of this step, in draw order, drawn by the published weights (and earlier ones)."""

    def wanted(self, groups: Sequence[Group]) -> int:
        """How many informative groups of the step may be trained on."""

    def decoding(self) -> AbstractContextManager[None]:
        """Engines may go on decoding inside this block, in which weights must not be published."""

    def discard(self) -> None:
        """Forgets what was drawn and not handed out yet: the weights that drew it were wrong, or are undone."""

    def metrics(self) -> dict[str, float]:
        """What the last `collect` did besides its groups."""

    def save(self, directory: Path) -> None:
        """Writes everything that is carried over to the next step; nothing when nothing is."""

    def restore(self, directory: Path) -> None:
        """Goes on from what `save` wrote."""


class Stopwatch:
    """Seconds of a step by what they were spent on. spans: the same one by one, with start and end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.spans: list[Spent] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started, began = time.monotonic(), time.time_ns()
        try:
            yield
        finally:
            self.spans.append((name, began, time.time_ns()))
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def spent(self, total: float) -> dict[str, float]:
        """Seconds by what they were spent on, with `orchestration`, which nothing else accounts for of `total`."""
        return self.seconds | {"orchestration": max(total - sum(self.seconds.values()), 0.0)}


@dataclass(frozen=True)
class Sources:
    """What every collector draws from and scores with; fields as the arguments of `train_rl`."""

    context: StageContext
    engines: Engines
    scorer: Scorer
    prompts: Sequence[Prompt]
    mixture: PromptMixture
    config: RlPhase
    sampling: Sampling
    decode: Callable[[list[int]], str]
    traces: Traces = field(default_factory=lambda: Traces(None))

    def request(self, name: str, step: int, index: int, member: int) -> SampleRequest:
        """A fresh request. name: first part of its id. step: the one its prompt was drawn in."""
        prompt = self.prompts[index]
        self.traces.asked(request_id := f"{name}/{prompt.id}/{member}")
        return SampleRequest(
            request_id=request_id,
            prompt=prompt.tokens,
            seed=derive_seed(self.context.seed, self.context.node, step, prompt.id, member),
        )

    def score(self, drawn: Sequence[tuple[int, Sample]]) -> list[Reward]:
        """Rewards of (prompt index, finished sample), in order."""
        answered = time.time_ns()
        rewards = self.scorer.score([self.reward_request(*pair) for pair in drawn], self.config.reward_timeout_s)
        self.traces.judged([sample.request_id for _, sample in drawn], answered)
        return rewards

    def reward_request(self, index: int, sample: Sample) -> RewardRequest:
        """What the scorer is asked about a finished sample of a prompt."""
        prompt = self.prompts[index]
        return RewardRequest(
            request_id=sample.request_id,
            prompt=prompt.text,
            response=self.decode(sample.tokens),
            verifier=prompt.verifier,
            truncated=sample.finish == "length",
            domain=prompt.domain,
            group=sample.request_id.rpartition("/")[0],
        )

    def scored(self, groups: Sequence[Group]) -> list[tuple[RewardRequest, Reward]]:
        """Every response of the step with what its scorer was asked and answered."""
        return [
            (self.reward_request(group.prompt, sample), reward)
            for group in groups
            for sample, reward in zip(group.samples, group.rewards, strict=True)
        ]

    def ready(self, finished: Sequence[tuple[Hashable, int]]) -> list[bool]:
        """Which of the (group, prompt index) finished and not yet scored may be scored now: all, except that a scorer
        that compares the responses to a prompt gets a whole group at once."""
        scorer, size = self.scorer, self.config.rollout.group_size
        if not isinstance(scorer, GroupScorer):
            return [True] * len(finished)
        counts = Counter(group for group, _ in finished)
        return [
            counts[group] == size or not scorer.needs_group(self.prompts[index].domain, self.prompts[index].verifier)
            for group, index in finished
        ]


class SynchronousCollector:
    """A step's responses are all drawn by the weights it starts from; nothing is carried over."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.refilled = 0

    def collect(self, step: int, clock: Stopwatch) -> list[Group]:
        """The groups of a step, with as many more as came out without signal, for `refill` rounds."""
        config, mixture = self.sources.config, self.sources.mixture
        groups = self._round(step, mixture.draw(prompts_offered(config.rollout)), clock)
        self.refilled = 0
        for _ in range(config.prompt_filter.refill):
            missing = config.rollout.prompts_per_step - sum(has_signal(group.rewards) for group in groups)
            if missing <= 0:
                break
            self.refilled += missing
            groups += self._round(step, mixture.draw(missing), clock)
        return groups

    def _round(self, step: int, drawn: list[int], clock: Stopwatch) -> list[Group]:
        """One group per drawn prompt. What one engine has finished is scored while the others still decode."""
        sources = self.sources
        size = sources.config.rollout.group_size
        requests = [sources.request(str(step), step, index, member) for index in drawn for member in range(size)]
        samples: dict[int, Sample] = {}
        rewards: dict[int, Reward] = {}
        with ThreadPoolExecutor(1, thread_name_prefix="score") as pool:
            waiting, unscored = [], []
            with clock("rollout"):
                for indices, finished in sources.engines.stream(requests, sources.sampling):
                    samples |= dict(zip(indices, finished, strict=True))
                    unscored += indices
                    ready = sources.ready([(i // size, drawn[i // size]) for i in unscored])
                    indices = [i for i, now in zip(unscored, ready, strict=True) if now]
                    unscored = [i for i, now in zip(unscored, ready, strict=True) if not now]
                    batch = [(drawn[i // size], samples[i]) for i in indices]
                    waiting.append((indices, pool.submit(sources.score, batch)))
            with clock("reward"):
                for indices, scored in waiting:
                    rewards |= dict(zip(indices, scored.result(), strict=True))
        return [
            Group(
                prompt=index,
                samples=tuple(samples[i] for i in range(at * size, (at + 1) * size)),
                rewards=tuple(rewards[i] for i in range(at * size, (at + 1) * size)),
            )
            for at, index in enumerate(drawn)
        ]

    def wanted(self, groups: Sequence[Group]) -> int:
        return self.sources.config.rollout.prompts_per_step

    def decoding(self) -> AbstractContextManager[None]:
        return nullcontext()

    def discard(self) -> None:
        pass

    def metrics(self) -> dict[str, float]:
        return {"groups/refilled": float(self.refilled)}

    def save(self, directory: Path) -> None:
        pass

    def restore(self, directory: Path) -> None:
        pass


def prompts_offered(rollout: RolloutConfig) -> int:
    """Fresh prompts of a step, over-sampling included."""
    return round(rollout.prompts_per_step * rollout.oversample)


def has_signal(rewards: Sequence[Reward]) -> bool:
    """A group whose rewards differ, so that it has advantages to train on."""
    return group_advantages([reward.value for reward in rewards]).informative


def derive_seed(seed: int, *parts: int | str) -> int:
    """A 63-bit seed from the stage's seed and a path of names; independent of process, order and time."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def staleness_metrics(
    samples: Sequence[Sample], version: int, old: np.ndarray, behaviour: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """(age of every trained token in versions, metrics). Mismatch apart by age: fresh tokens show the engine's alone.

    old, behaviour: [tokens] log-probs of all samples one after another; behaviour by the version that drew each token.
    """
    ages = np.concatenate([version - np.array(s.versions or [s.version] * len(s.tokens)) for s in samples])
    if not ages.any():
        return ages, {}
    distance = np.abs(np.asarray(old, np.float64) - np.asarray(behaviour, np.float64))
    known = np.isfinite(distance)
    report = {
        "staleness/mean": float(ages.mean()),
        "staleness/max": float(ages.max()),
        "staleness/stale_fraction": float((ages > 0).mean()),
        "staleness/mixed_fraction": float(np.mean([len(set(s.versions or [0])) > 1 for s in samples])),
    }
    for name, chosen in (("fresh", known & (ages == 0)), ("stale", known & (ages > 0))):
        if chosen.any():
            report[f"mismatch/{name}_mean_abs_dlogp"] = float(distance[chosen].mean())
    return ages, report
