"""What vLLM does on a GPU, alone, and by turns with learners on the same one, against the trainer's log-probs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from components.model.hf_config import config_json
from components.model.spec import PRESETS
from components.model.tokenizer import load_tokenizer
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.rl import IcePopLoss
from components.recipe.training import OptimiserConfig
from components.rollout.types import Sample, SampleRequest, Sampling, Until
from components.training.types import PolicySequence, Sequence
from flows.bench import Check, Figure

MODEL, SPEC = ModelConfig(preset="nano"), PRESETS["nano"]
OPTIMISER = OptimiserConfig(lr=1e-3, clip_grad_norm=1.0)
SAMPLING = Sampling(1.0, 1.0, 96, (1,))
# Mean |dlogp| of bfloat16 engine and bfloat16 trainer on a drawn token, and of stale experts (FACTS: about 0.9).
MISMATCH, STALE = 0.06, 0.2
# vLLM's FP8, in bfloat16, may differ from the values so many times as much as float32 with rounded activations.
ROUNDED = 1.5

Found = tuple[dict[str, Check], dict[str, Figure]]


def run(device: str, model: str) -> Iterator[Found]:
    """Groups of one learner and one engine on one GPU, with Ray between them. model: a Hugging Face directory of nano's
    shape; drawn at random when empty."""
    from components.cluster.connect import connect
    from components.cluster.warm import release_all
    from components.rollout.group import EngineGroup
    from components.rollout.placement import TurnTaking
    from components.training.group import LearnerGroup

    execution = ExecutionConfig(
        device=device,
        learners=1,
        engines=1,
        max_num_seqs=256,
        placement="colocated",
        learner_dtype="bfloat16",
        engine_memory=0.3,
    )
    connect(execution)
    config = config_json(SPEC, load_tokenizer("nano"), "bfloat16")
    engines = EngineGroup(config, "bfloat16", SPEC.max_position_embeddings, execution)
    learners = LearnerGroup(MODEL, execution, seed=0)
    turns = TurnTaking(engines, learners)
    try:
        learners.load_hf(model) if model else learners.initialise(1)
        learners.configure(OPTIMISER, 100, 0.0)
        yield _exchange(turns)
        yield _draws(turns)
        yield _steps(turns)
        yield _stale(turns)
        yield _speed(turns)
        report = turns.turns.summary()
        yield {}, {f"turns: {name}": Figure.of([value], "") for name, value in report.items()}
    finally:
        engines.close()
        learners.close()
        release_all()


def _requests(count: int, length: int | None = None) -> list[SampleRequest]:
    rng = np.random.default_rng(0)
    return [
        SampleRequest(f"r{i}", rng.integers(10, 112, 24).tolist(), seed=1000 + i, length=length) for i in range(count)
    ]


def _sequences(samples: list[Sample]) -> list[Sequence]:
    return [
        Sequence(np.array([*s.prompt, *s.tokens]), np.arange(len(s.prompt) + len(s.tokens)) >= len(s.prompt))
        for s in samples
    ]


def _mismatch(turns: Any, samples: list[Sample]) -> tuple[np.ndarray, list[np.ndarray]]:
    """(|difference| of every drawn token's log-prob, the trainer's log-probs)."""
    old = [logprobs for logprobs, _ in turns.learners.logprobs(_sequences(samples))]
    return np.abs(np.concatenate(old) - np.concatenate([s.logprobs for s in samples])), old


def _exchange(turns: Any) -> Found:
    weights = turns.learners.weights()
    began = perf_counter()
    turns.engines.publish(1, weights)
    first = perf_counter() - began
    samples = turns.engines.generate(_requests(64), SAMPLING)
    differences, _ = _mismatch(turns, samples)
    seconds = []
    for version in (2, 3, 4):
        began = perf_counter()
        turns.engines.publish(version, turns.learners.weights())
        seconds.append(perf_counter() - began)
    return {
        "engine beside trainer after an exchange, mean |dlogp|": Check(float(differences.mean()), MISMATCH),
    }, {
        "engine beside trainer, largest |dlogp|": Figure.of([float(differences.max())], ""),
        "first exchange": Figure.of([first], "s"),
        "exchange with its turns": Figure.of(seconds, "s"),
    }


def _draws(turns: Any) -> Found:
    """Seeds, slices and sleep: the same tokens again."""
    whole = turns.engines.generate(_requests(32), SAMPLING)
    again = turns.engines.generate(_requests(32), SAMPLING)
    repeated = np.mean([a.tokens == b.tokens for a, b in zip(whole, again, strict=True)])
    scored = turns.engines.score([([*s.prompt, *s.tokens], len(s.prompt)) for s in whole])
    drawn = np.abs(np.concatenate(scored) - np.concatenate([s.logprobs for s in whole]))
    requests, tokens, logprobs = _requests(32), {}, {}
    for _ in range(40):
        live = [replace(r, drawn=list(tokens.get(r.request_id, ()))) for r in requests]
        progress = turns.engines.advance(live, [0] * len(live), SAMPLING, Until(tokens=256))
        for p in progress:
            tokens.setdefault(p.request_id, []).extend(p.tokens)
            logprobs.setdefault(p.request_id, []).extend(p.logprobs)
        finished = {p.request_id for p in progress if p.finish}
        requests = [r for r in requests if r.request_id not in finished]
        if not requests:
            break
    parts = [
        Sample(s.request_id, s.prompt, tokens[s.request_id], logprobs[s.request_id], "stop", s.version) for s in whole
    ]
    sliced, _ = _mismatch(turns, parts)
    turns.learners.logprobs(_sequences(whole[:1]))  # the engines sleep
    woken = turns.engines.score([([*s.prompt, *s.tokens], len(s.prompt)) for s in whole])
    return {
        "unfinished partial rollouts": Check(float(len(requests)), 0),
        "drawn and prefilled log-probs of one engine, mean difference": Check(float(drawn.mean()), MISMATCH),
        "partial rollouts beside trainer, mean |dlogp|": Check(float(sliced.mean()), MISMATCH),
        "log-probs before and after sleep, largest difference": Check(
            float(np.abs(np.concatenate(scored) - np.concatenate(woken)).max()), 1e-3
        ),
    }, {"answers drawn again alike with their seeds": Figure.of([100 * float(repeated)], "%")}


def _steps(turns: Any) -> Found:
    """Real steps: a reward for the letter e, IcePop, an exchange each; the mismatch must not grow and rewards must."""
    from components.rl.mismatch import mismatch_report
    from components.rl.objective import objective_of

    objective = objective_of(IcePopLoss(), SAMPLING.max_new_tokens)
    letter = load_tokenizer("nano").convert_tokens_to_ids("e")
    rewards, mismatches, masked, seconds = [], [], [], []
    for step in range(12):
        began = perf_counter()
        requests = [replace(r, seed=r.seed + 7919 * step) for r in _requests(128)]
        samples = turns.engines.generate(requests, SAMPLING)
        differences, old = _mismatch(turns, samples)
        reward = np.array([np.mean([token == letter for token in s.tokens]) for s in samples])
        scale = (reward - reward.mean()) / (reward.std() + 1e-6)
        batch = [
            PolicySequence(
                sequence.tokens,
                sequence.loss_mask,
                behaviour_logprobs=np.asarray(sample.logprobs, np.float32),
                old_logprobs=trained,
                reference_logprobs=None,
                advantages=np.full(len(trained), value, np.float32),
                weights=np.full(len(trained), 1 / (len(trained) * len(samples)), np.float32),
            )
            for sequence, sample, trained, value in zip(_sequences(samples), samples, old, scale, strict=True)
        ]
        report = mismatch_report(
            np.concatenate(old), np.concatenate([s.logprobs for s in samples]), objective.correction
        )
        turns.learners.policy_step(batch, objective.loss)
        turns.engines.publish(100 + step, turns.learners.weights())
        rewards.append(float(reward.mean()))
        mismatches.append(float(differences.mean()))
        masked.append(100 * (report["mismatch/rejected_low"] + report["mismatch/rejected_high"]))
        seconds.append(perf_counter() - began)
    return {
        "12 IcePop steps: mean |dlogp| of the worst": Check(max(mismatches), MISMATCH),
        "12 IcePop steps: first over last reward": Check(rewards[0] / max(rewards[-1], 1e-9), 0.8),
    }, {
        "12 IcePop steps: reward, first": Figure.of(rewards[:1], ""),
        "12 IcePop steps: reward, last": Figure.of(rewards[-1:], ""),
        "12 IcePop steps: mean |dlogp|": Figure.of(mismatches, ""),
        "12 IcePop steps: masked tokens": Figure.of(masked, "%"),
        "12 IcePop steps: a step": Figure.of(seconds[2:], "s"),
    }


def _stale(turns: Any) -> Found:
    """Another model without an exchange: the mismatch must show it, or none of the checks above means anything."""
    samples = turns.engines.generate(_requests(64), SAMPLING)
    turns.learners.initialise(77)
    differences, _ = _mismatch(turns, samples)
    return {"mean |dlogp| of stale weights, below": Check(STALE / max(float(differences.mean()), 1e-9), 1.0)}, {}


def _speed(turns: Any) -> Found:
    rates = []
    for _ in range(3):
        began = perf_counter()
        samples = turns.engines.generate(_requests(256, length=256), replace(SAMPLING, max_new_tokens=256))
        rates.append(sum(len(s.tokens) for s in samples) / (perf_counter() - began))
    return {}, {"nano: drawing, 256 together, eager": Figure.of(rates[1:] or rates, "tokens/s")}


def released(device: str, directory: str) -> Iterator[Found]:
    """An export loaded by vLLM's own kernels, beside our trainer on the values that the same file stands for."""
    from components.release.parity import ReleasedEngine

    rng = np.random.default_rng(0)
    tokens = [(rng.integers(10, 112, 120).tolist(), 20) for _ in range(32)]
    engine = ReleasedEngine(directory, 256, 0.1 if device == "cuda" else None)
    scored = np.concatenate(engine.score(tokens))
    values, rounded = _values(Path(directory), tokens, device)
    differences = np.abs(scored - values)
    what = "weights in vLLM beside the trainer on their values"
    allowed, expected = MISMATCH, {}
    if rounded is not None:
        # vLLM's FP8 kernels round activations; near a tie of experts that changes a token much, wherever it is done.
        mean = float(np.abs(rounded - values).mean())
        allowed = max(MISMATCH, ROUNDED * mean)
        expected = {"the trainer with activations rounded beside itself, mean |dlogp|": Figure.of([mean], "")}
    yield (
        {f"{what}, mean |dlogp|": Check(float(differences.mean()), allowed)},
        {f"{what}, largest |dlogp|": Figure.of([float(differences.max())], ""), **expected},
    )


def _values(directory: Path, tokens: list[tuple[list[int], int]], device: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Log-probs of the responses by a float32 model on what a directory's weights stand for; and with activations
    rounded, where the directory has FP8 weights and the device's kernels do so."""
    import torch

    from components.model.builder import build_model
    from components.model.fp8_activations import rounded_activations
    from components.model.hf import load_hf_state, read_hf_directory

    spec, tensors = read_hf_directory(directory)
    model = build_model(spec, device)
    load_hf_state(model, spec, tensors)
    stream = torch.tensor([token for sequence, _ in tokens for token in sequence], device=device)

    def scored() -> np.ndarray:
        with torch.no_grad():
            logged = model.stream_logits(stream, [len(sequence) for sequence, _ in tokens]).log_softmax(-1)
        own = logged[:-1].gather(1, stream[1:, None]).squeeze(1).cpu().numpy()
        found, start = [], 0
        for sequence, prompt in tokens:
            found.append(own[start + prompt - 1 : start + len(sequence) - 1])
            start += len(sequence)
        return np.concatenate(found)

    values = scored()
    quantised = json.loads((directory / "config.json").read_text()).get("quantization_config", {})
    if device != "cuda" or quantised.get("quant_method") != "fp8":
        return values, None
    with rounded_activations(model):
        return values, scored()
