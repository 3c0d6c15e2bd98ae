"""How often a model solves each RL prompt, and the prompts that are left when the hopeless and the trivial ones go.

Ring-lite (arXiv 2506.14731) drops problems that are always or never solved: all members of their groups get the same
reward, so they have no advantage and their rollouts teach nothing. Prompts go through in waves; after each one what is
known is a resume point, so a killed stage draws no response twice. A reward that could not be given is no wrong answer.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from components.artifacts.context import StageContext
from components.data.schema import Message, RlRecord
from components.failures import InfrastructureError
from components.recipe.mix import PassRateConfig
from components.rewards.types import Reward, RewardRequest, Scorer
from components.rl.collect import derive_seed
from components.rollout.types import Sample, SampleRequest, Sampling

# Prompts of a wave for each sequence that the engines decode together.
WAVE_FACTOR = 4
DATA, RATES, ROLLOUTS = "data/rl.jsonl", "pass_rates.jsonl", "rollouts.jsonl"
# Every so many prompts the responses are kept in full, as evidence.
EVIDENCE_EVERY = 20


class Engines(Protocol):
    def generate(self, requests: list[SampleRequest], sampling: Sampling, deadline_s: float) -> list[Sample]: ...


@dataclass(frozen=True)
class Codec:
    """render: messages -> (text, token ids) up to the assistant's turn. decode: ids of a response -> its text."""

    render: Callable[[tuple[Message, ...]], tuple[str, list[int]]]
    decode: Callable[[list[int]], str]
    stop_token_ids: tuple[int, ...]
    context_length: int


def estimate_pass_rates(
    context: StageContext,
    engines: Engines,
    codec: Codec,
    scorer: Scorer,
    records: Iterable[RlRecord],
    total: int,
    config: PassRateConfig,
) -> Counter:
    """Writes data/rl.jsonl (prompts kept, unchanged, in order), pass_rates.jsonl and rollouts.jsonl (evidence).

    Returns counts: kept, untried (another domain, or no room for an answer), unscored, and dropped by reason.

    Raises:
        InfrastructureError: the engines returned something else than asked.
    """
    done, counts = _resumed(context)
    source = islice(records, done, None)
    wave = max(1, WAVE_FACTOR * context.execution.engines * context.execution.max_num_seqs // config.samples)
    while batch := list(islice(source, wave)):
        context.check()
        context.progress(done, total, f"prompts, {counts['kept']} kept")
        _wave(context, engines, codec, scorer, batch, done, config, counts)
        done += len(batch)
        _keep(context, done, counts)
    context.progress(done, total, f"prompts, {counts['kept']} kept")
    return counts


def verdict(rewards: Sequence[Reward], config: PassRateConfig) -> tuple[float | None, str]:
    """(share of the given rewards that are full, what becomes of the prompt)."""
    values = [reward.value for reward in rewards if reward.value is not None]
    if not values:
        return None, "unscored"
    rate = sum(value >= 1.0 for value in values) / len(values)
    if rate <= config.min_rate:
        return rate, "never solved" if config.min_rate == 0 else f"solved at {config.min_rate:g} or less"
    if rate >= config.max_rate:
        return rate, "always solved" if config.max_rate == 1 else f"solved at {config.max_rate:g} or more"
    return rate, "kept"


def _wave(
    context: StageContext,
    engines: Engines,
    codec: Codec,
    scorer: Scorer,
    batch: Sequence[RlRecord],
    first: int,
    config: PassRateConfig,
    counts: Counter,
) -> None:
    rendered = {index: codec.render(record.prompt) for index, record in enumerate(batch)}
    tried = [
        index
        for index, record in enumerate(batch)
        if record.domain in config.domains and len(rendered[index][1]) + config.max_new_tokens <= codec.context_length
    ]
    requests = [
        SampleRequest(
            f"{first + index}/{member}",
            rendered[index][1],
            derive_seed(context.seed, context.node, batch[index].id, first + index, member),
        )
        for index in tried
        for member in range(config.samples)
    ]
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens, codec.stop_token_ids)
    drawn = engines.generate(requests, sampling, context.execution.step_deadline_s) if requests else []
    samples = {sample.request_id: sample for sample in drawn}
    if samples.keys() != {request.request_id for request in requests}:
        raise InfrastructureError(f"the engines returned {len(samples)} responses for {len(requests)} requests")
    ordered = [samples[request.request_id] for request in requests]
    asked = [index for index in tried for _ in range(config.samples)]
    rewards = scorer.score(
        [
            RewardRequest(
                sample.request_id,
                rendered[index][0],
                codec.decode(sample.tokens),
                batch[index].verifier,
                sample.finish == "length",
            )
            for index, sample in zip(asked, ordered, strict=True)
        ],
        config.reward_timeout_s,
    )
    by_prompt = {
        index: range(place * config.samples, (place + 1) * config.samples) for place, index in enumerate(tried)
    }
    _write(context.output, codec, batch, first, by_prompt, ordered, rewards, config, counts)


def _write(output: Path, codec, batch, first, by_prompt, samples, rewards, config, counts: Counter) -> None:
    (output / "data").mkdir(parents=True, exist_ok=True)
    with (
        (output / DATA).open("a", encoding="utf-8") as data,
        (output / RATES).open("a", encoding="utf-8") as rates,
        (output / ROLLOUTS).open("a", encoding="utf-8") as rollouts,
    ):
        for index, record in enumerate(batch):
            places = by_prompt.get(index)
            rate, outcome = verdict([rewards[at] for at in places], config) if places else (None, "untried")
            counts[outcome] += 1
            if outcome in ("kept", "untried", "unscored"):
                data.write(record.model_dump_json() + "\n")
            row = {"id": record.id, "domain": record.domain, "family": record.family, "level": record.level}
            rates.write(json.dumps({**row, "pass_rate": rate, "outcome": outcome}) + "\n")
            if places and (first + index) % EVIDENCE_EVERY == 0:
                for at in places:
                    rollouts.write(json.dumps(_evidence(record, samples[at], rewards[at], codec), default=str) + "\n")
            for at in places or ():
                counts["responses"] += 1
                counts["reward errors"] += rewards[at].value is None


def _evidence(record: RlRecord, sample: Sample, reward: Reward, codec: Codec) -> dict[str, Any]:
    return {
        "prompt_id": record.id,
        "response": codec.decode(sample.tokens),
        "finish": sample.finish,
        "tokens": len(sample.tokens),
        "reward": asdict(reward) | {"seconds": None},
    }


def read_rollouts(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def _resumed(context: StageContext) -> tuple[int, Counter]:
    point = context.resume.latest()
    if point is None:
        return 0, Counter()
    shutil.copytree(point.path, context.output, dirs_exist_ok=True)
    return point.step, Counter(point.state["counts"])


def _keep(context: StageContext, done: int, counts: Counter) -> None:
    context.resume.save(done, context.output, {"counts": dict(counts)})
