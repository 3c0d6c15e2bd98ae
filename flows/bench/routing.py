"""Rollout routing replay: the mismatch of a low-precision engine with the trainer choosing experts, and replaying them.

A nano-shaped model is trained for some steps on sequences with a rule in them, so that its distributions are peaked as
a policy's are; then a bfloat16 engine draws responses and tells the experts it chose. The trainer computes the same
tokens' log-probs in float32 twice: by its own routing, and by the engine's.
"""

from __future__ import annotations

import numpy as np

from components.model.hf_config import config_json
from components.model.spec import PRESETS
from components.model.tokenizer import load_tokenizer
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.rollout.engine import Engine
from components.rollout.exchange import checksum, pack
from components.rollout.types import Sample, SampleRequest, Sampling
from components.training.group import LearnerGroup
from components.training.types import Sequence
from flows.bench import Bench, Figure

STEPS, DOCUMENTS, LENGTH = 120, 32, 64
RESPONSES, NEW_TOKENS, PROMPT = 256, 48, 12
SPEC = PRESETS["nano"]


def run(steps: int = STEPS) -> Bench:
    """steps: of training before the engine draws."""
    learners = LearnerGroup(ModelConfig(preset="nano"), ExecutionConfig(), seed=0, in_process=True)
    learners.initialise(0)
    learners.configure(OptimiserConfig(lr=2e-3, beta2=0.95), steps, 1e-3)
    rng = np.random.default_rng(0)
    loss = float("nan")
    for _ in range(steps):
        documents = [Sequence(_document(rng), np.arange(LENGTH) > 0) for _ in range(DOCUMENTS)]
        loss = learners.train_tokens(documents, LENGTH * 8)["loss"]
    engine = Engine(config_json(SPEC, load_tokenizer("nano"), "bfloat16"), "bfloat16", 128, 64, routing=True)
    layouts, buffers = pack(learners.weights())
    engine.load_weights(1, checksum(layouts), layouts, buffers)
    requests = [SampleRequest(str(i), _document(rng)[:PROMPT].tolist(), seed=i) for i in range(RESPONSES)]
    samples = engine.generate(requests, Sampling(1.0, 1.0, NEW_TOKENS, ()), 1, 300.0)
    behaviour = np.concatenate([np.array(sample.logprobs) for sample in samples])
    figures: dict[str, Figure] = {}
    for name, replay in (("own routing", False), ("replayed", True)):
        scored = learners.logprobs([_sequence(sample, replay) for sample in samples])
        distance = np.concatenate([logprobs for logprobs, _ in scored]).astype(np.float64) - behaviour
        outside = float(((distance < np.log(0.5)) | (distance > np.log(5.0))).mean())
        for what, value, unit in (
            ("mean |dlogp|", float(np.abs(distance).mean()), "nats"),
            ("max |dlogp|", float(np.abs(distance).max()), "nats"),
            ("outside [0.5, 5]", outside, "of tokens"),
        ):
            figures[f"{name}: {what}"] = Figure(value, unit, value, value)
    ratio = figures["own routing: mean |dlogp|"].value / figures["replayed: mean |dlogp|"].value
    figures["mean |dlogp|, own over replayed"] = Figure(ratio, "x", ratio, ratio)
    setup = {"model": "nano", "steps": steps, "loss": round(loss, 3), "tokens": len(behaviour), "engine": "bfloat16"}
    return Bench(figures, setup)


def _document(rng: np.random.Generator) -> np.ndarray:
    """A walk over 64 symbols by one of four strides, with one symbol in eight drawn at random."""
    start, stride = rng.integers(64), rng.choice([1, 3, 7, 11])
    walk = (start + stride * np.arange(LENGTH)) % 64
    noise = rng.random(LENGTH) < 0.125
    return 20 + np.where(noise, rng.integers(0, 64, LENGTH), walk)


def _sequence(sample: Sample, replay: bool) -> Sequence:
    tokens = np.array([*sample.prompt, *sample.tokens])
    mask = np.arange(len(tokens)) >= len(sample.prompt)
    return Sequence(tokens, mask, experts=sample.experts if replay else None)
