"""Synchronous, C3PO++ and asynchronous rollouts on one long-tailed length distribution, and what a simulator predicts.

Lengths are forced (SampleRequest.length), so every mode draws the same: each block of prompts_per_step x group_size
responses has the quantiles of a log-normal whose longest is 20 times its median, in an order of its own. Prompts are
random tokens, the reward is the share of one letter; neither changes the time. Learner, engines and loop are those of a
run (components.rl.controller), the budget of C3PO++ is the tokens of one synchronous step.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from time import perf_counter
from typing import Any

import numpy as np

from components.artifacts.local import LocalContext
from components.data.schema import Verifier
from components.failures import BadInput
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.rl import RlPhase, RolloutConfig
from components.recipe.training import OptimiserConfig
from components.rewards.types import Reward, RewardRequest
from components.rl.batch import Prompt
from components.rl.controller import train_rl
from components.rl.ledger import PromptMixture
from components.rl.partial import scheduler_policy
from components.rl.simulator import Cluster, StepTimes, rates, simulate
from components.rollout.types import Progress, Sample, SampleRequest, Sampling, Until
from flows.bench import Bench, Figure
from flows.bench._rollout_plot import KINDS

PROMPTS_PER_STEP, GROUP_SIZE = 32, 8
MEDIAN, LONGEST_OVER_MEDIAN = 22, 20
PROMPT_TOKENS = 24
MAX_STALENESS = 8
ASYNC_STALENESS = 4
OVERSAMPLE = 2.0
STEPS = 12
# The first steps of a mode fill its pool: they are run and left out, in every mode.
WARMUP = 3
SEED = 17
MODEL = ModelConfig(preset="nano")
BATCHES = (1, 4, 16, 48, 128)  # points at which the decoding step is timed


class Lengths:
    """Serial number of a rollout -> tokens. Every block holds the same lengths, shuffled by its number.

    The quantiles of a log-normal; without a sigma its longest is LONGEST_OVER_MEDIAN times the median.
    """

    def __init__(self, median: int = MEDIAN, sigma: float | None = None, longest: int | None = None) -> None:
        self.block = PROMPTS_PER_STEP * GROUP_SIZE
        z = np.array([NormalDist().inv_cdf((i + 0.5) / self.block) for i in range(self.block)])
        self.sigma = float(np.log(LONGEST_OVER_MEDIAN) / z[-1]) if sigma is None else sigma
        self.values = np.clip(np.rint(median * np.exp(self.sigma * z)), 1, longest).astype(int)

    def __call__(self, serial: int) -> int:
        block, at = divmod(serial, self.block)
        return int(self.values[np.random.default_rng([SEED, block]).permutation(self.block)[at]])


class ForcedLengths:
    """The engines with a length for every request, by the order in which rollouts are first asked for."""

    def __init__(self, engines: Any, lengths: Callable[[int], int]) -> None:
        self._engines, self._lengths = engines, lengths
        self._forced: dict[str, int] = {}

    def publish(self, version: int, weights: Mapping[str, np.ndarray]) -> str:
        return self._engines.publish(version, weights)

    def stream(self, requests: Sequence[SampleRequest], sampling: Sampling) -> Iterator[tuple[list[int], list[Sample]]]:
        return self._engines.stream(self._with_lengths(requests), sampling)

    def advance(
        self, requests: Sequence[SampleRequest], homes: Sequence[int], sampling: Sampling, until: Until
    ) -> list[Progress]:
        return self._engines.advance(self._with_lengths(requests, homes), homes, sampling, until)

    def pause(self) -> None:
        self._engines.pause()

    def _with_lengths(self, requests: Sequence[SampleRequest], serials: Sequence[int] | None = None):
        for at, request in enumerate(requests):
            if request.request_id not in self._forced:
                serial = len(self._forced) if serials is None else serials[at]
                self._forced[request.request_id] = self._lengths(serial)
        return [replace(request, length=self._forced[request.request_id]) for request in requests]


class LetterShare:
    """Reward: the share of the letter a, which random answers of a group differ in."""

    def score(self, requests: list[RewardRequest], deadline_s: float) -> list[Reward]:
        return [Reward(r.response.count("a") / max(len(r.response), 1), "scored") for r in requests]

    def close(self) -> None:
        pass


def run(steps: int = STEPS, out: str = "") -> Bench:
    """steps: of each mode, the first WARMUP of which are left out. out: folder of rollout.png, RINGFLOW_HOME/bench.

    Raises:
        BadInput: no step would be left.
    """
    from components.cluster.warm import release_all
    from components.rollout.group import warm_engines
    from components.training.group import borrow_learners

    if steps <= WARMUP:
        raise BadInput(f"{steps} steps leave none after {WARMUP} to fill the pool", remedy=f"--steps {WARMUP + 1} up")
    execution, lengths = ExecutionConfig(), Lengths()
    budget = int(lengths.values.sum())
    modes = {
        "synchronous": {},
        "c3po++": {"token_budget": budget, "max_staleness": MAX_STALENESS, "oversample": OVERSAMPLE},
        "async": {"max_staleness": ASYNC_STALENESS},
    }
    rollouts = {
        mode: RolloutConfig(
            mode=mode,
            prompts_per_step=PROMPTS_PER_STEP,
            group_size=GROUP_SIZE,
            max_new_tokens=int(lengths.values.max()),
            **settings,
        )
        for mode, settings in modes.items()
    }
    times: dict[str, list[StepTimes]] = {}
    history: dict[str, dict[str, float]] = {}
    try:
        engines = warm_engines(MODEL, "float32", execution)
        with borrow_learners(MODEL, execution) as learners, tempfile.TemporaryDirectory() as folder:
            learners.initialise(SEED)
            engines.publish(0, learners.weights())
            step_s, prefill_s = _decoding_times(engines, execution)
            for mode, rollout in rollouts.items():
                context = LocalContext(Path(folder) / mode, mode, SEED, execution, quiet=True)
                times[mode], history[mode] = measure_mode(context, learners, engines, lengths, rollout, steps)
    finally:
        release_all()
    cluster = _cluster(times["synchronous"], history["synchronous"], execution, step_s, prefill_s)
    predicted = {
        mode: simulate(scheduler_policy(rollout), cluster, lengths, steps) for mode, rollout in rollouts.items()
    }
    setup = {
        "model": MODEL.preset,
        "lengths": f"log-normal, median {MEDIAN}, sigma {lengths.sigma:.3f}, longest {lengths.values.max()}, forced",
        "rollouts_per_step": lengths.block,
        "tokens_per_step": budget,
        "steps": f"{steps}, the first {WARMUP} left out",
        "max_staleness": f"c3po++ {MAX_STALENESS}, async {ASYNC_STALENESS}",
        "oversample": OVERSAMPLE,
        "engines": f"{execution.engines} x {execution.max_num_seqs} places, sharing the cores with the learners",
        "decoding_step_ms": {batch: round(1e3 * cluster.step_s(batch), 2) for batch in BATCHES},
    }
    for mode in ("c3po++", "async"):
        setup[f"{mode}_last_step"] = history[mode]
    from flows.bench._ring_1t import predict
    from flows.bench._rollout_plot import draw

    ratios = {
        "measured here": _ratios(times, WARMUP),
        "simulated for here": _ratios(predicted, WARMUP),
        "simulated for Ring-1T's cluster": _ratios(predict(), 8),
    }
    folder = Path(out or Path(os.environ.get("RINGFLOW_HOME", ".ringflow")) / "bench")
    setup["picture"] = str(draw(ratios, folder / "rollout.png"))
    return Bench(_figures(times, ratios), setup)


def measure_mode(
    context: LocalContext, learners: Any, engines: Any, lengths: Lengths, rollout: RolloutConfig, steps: int
) -> tuple[list[StepTimes], dict[str, float]]:
    """(times of every step, figures of the last) of the real loop with forced lengths."""
    from components.model.tokenizer import decode_response, load_tokenizer

    tokenizer = load_tokenizer(MODEL.tokenizer)
    config = RlPhase(
        name="bench",
        domains=("math",),
        steps=steps,
        rollout=rollout,
        optimiser=OptimiserConfig(lr=1e-6),
        checkpoint_every=10 * steps,
    )
    learners.initialise(SEED)
    learners.configure(config.optimiser, steps * config.minibatches, expert_bias_rate=0.0)
    rng, verifier = np.random.default_rng(SEED), Verifier(kind="math", reference={})
    prompts = [
        Prompt(f"p{i}", "math", "bench", [int(t) for t in rng.integers(8, 90, PROMPT_TOKENS)], "", verifier)
        for i in range(PROMPTS_PER_STEP * (steps + 8) * 2)
    ]
    train_rl(
        context,
        learners,
        ForcedLengths(engines, lengths),
        LetterShare(),
        prompts,
        PromptMixture([(range(len(prompts)), 1.0)], SEED),
        config,
        lambda tokens: decode_response(tokenizer, tokens),
        (tokenizer.eos_token_id,),
    )
    merged: dict[int, dict[str, float]] = {}
    for step, values in context.history:
        merged.setdefault(step, {}).update(values)
    rows = [merged[step] for step in sorted(merged)]
    measured = [
        StepTimes(
            tokens=int(row["rollout/tokens"]),
            rollout_tokens=int(
                row["scheduler/counted_tokens"] if rollout.token_budget is not None else row["rollout/tokens"]
            ),
            rollout_s=row["time/rollout_s"],
            total_s=row["time/step_s"],
        )
        for row in rows
    ]
    names = ("time/old_logprobs_s", "time/update_s", "staleness/mean", "staleness/max", "scheduler/carried_rollouts")
    train_s = float(np.median([row["time/old_logprobs_s"] + row["time/update_s"] for row in rows[WARMUP:]]))
    last = {name.partition("/")[2]: round(rows[-1][name], 3) for name in names if name in rows[-1]}
    purged = {name: rows[-1][f"scheduler/{name}"] for name in ("purged_groups",) if f"scheduler/{name}" in rows[-1]}
    return measured, {"train_s": round(train_s, 3)} | last | purged


def _decoding_times(engines: Any, execution: ExecutionConfig) -> tuple[Callable[[int], float], float]:
    """Seconds of a decoding step by batch, and of prefilling a token, all engines working at once."""
    rng, count = np.random.default_rng(0), execution.engines
    sampling = Sampling(1.0, 1.0, 256, ())
    seconds = {}
    for batch in BATCHES:
        for tokens in (4, 4, 36):  # the first call warms the kernels of this batch up
            requests = [
                SampleRequest(f"{batch}/{tokens}/{i}", rng.integers(8, 90, PROMPT_TOKENS).tolist(), i, length=tokens)
                for i in range(batch * count)
            ]
            began = perf_counter()
            engines.advance(requests, range(batch * count), sampling, Until())
            seconds[batch, tokens] = perf_counter() - began
    points = [max(seconds[batch, 36] - seconds[batch, 4], 1e-6) / 32 for batch in BATCHES]
    largest = BATCHES[-1]
    prefill = max(seconds[largest, 4] - 4 * points[-1], 0.0) / (largest * PROMPT_TOKENS)
    return lambda batch: float(np.interp(batch, BATCHES, points)), prefill


def _cluster(
    measured: Sequence[StepTimes],
    history: Mapping[str, float],
    execution: ExecutionConfig,
    step_s: Callable[[int], float],
    prefill_s: float,
) -> Cluster:
    kept = measured[WARMUP:]
    tokens = float(np.median([step.tokens for step in kept]))
    rest = float(np.median([step.total_s - step.rollout_s for step in kept])) - history["train_s"]
    return Cluster(
        engines=execution.engines,
        places=execution.max_num_seqs,
        step_s=step_s,
        prefill_s=prefill_s,
        prompt_tokens=PROMPT_TOKENS,
        train_s=history["train_s"] / tokens,
        fixed_s=max(rest, 0.0),
        contention=2.0,
    )


def _ratios(times: Mapping[str, Sequence[StepTimes]], skip: int) -> dict[tuple[str, str], float]:
    """(mode, kind) -> times the synchronous loop. Asynchronous rollouts run during updates too: time spent waiting for
    them says nothing about their speed, so they have none."""
    base = rates(times["synchronous"], skip)
    return {
        (mode, kind): rates(steps, skip)[at] / base[at]
        for mode, steps in times.items()
        for at, kind in enumerate(KINDS)
        if mode != "synchronous" and (mode, kind) != ("async", "rollout")
    }


def _figures(
    times: Mapping[str, Sequence[StepTimes]], ratios: Mapping[str, Mapping[tuple[str, str], float]]
) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for mode, steps in times.items():
        for at, kind in enumerate(KINDS):
            if (mode, kind) == ("async", "rollout"):
                continue
            each = [rates([step], 0)[at] for step in steps[WARMUP:]]
            figures[f"{mode}, {kind}"] = Figure(rates(steps, WARMUP)[at], "tokens/s", min(each), max(each))
    for source, values in ratios.items():
        for (mode, kind), ratio in values.items():
            figures[f"{mode}, {kind} over synchronous, {source}"] = Figure(ratio, "x", ratio, ratio)
    for key, ratio in ratios["measured here"].items():
        off = 100 * (ratios["simulated for here"][key] / ratio - 1)
        figures[f"{key[0]}, {key[1]}: simulator off by"] = Figure(off, "%", off, off)
    return figures
