"""Experts as a bfloat16 engine chose them, replayed in the float32 trainer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from components.failures import BadInput
from components.model.builder import RouterReplayAction, build_model, routers
from components.model.hf import hf_state
from components.model.hf_config import config_json
from components.model.layers import PackedLayout
from components.model.spec import PRESETS
from components.model.tokenizer import load_tokenizer
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.rollout.engine import Engine
from components.rollout.exchange import checksum, pack
from components.rollout.types import SampleRequest, Sampling
from components.training.learner import Learner
from components.training.types import Sequence

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

SPEC = PRESETS["smoke"]


def test_replayed_routing_brings_the_trainer_nearer_to_the_engine():
    model = build_model(SPEC, seed=1)
    weights = {name: tensor.float().numpy().copy() for name, tensor in hf_state(model, SPEC)}
    for (
        name
    ) in weights:  # sharper routers and heads than a fresh model's: near ties are what bfloat16 decides otherwise
        if name.endswith(("gate.weight", "lm_head.weight")):
            weights[name] *= 8
    engine = Engine(config_json(SPEC, load_tokenizer("nano"), "bfloat16"), "bfloat16", 64, 32, routing=True)
    layouts, buffers = pack(weights)
    engine.load_weights(1, checksum(layouts), layouts, buffers)
    rng = np.random.default_rng(0)
    requests = [SampleRequest(f"r/{i}", rng.integers(10, 100, 3 + i % 5).tolist(), seed=i) for i in range(48)]
    samples = engine.generate(requests, Sampling(1.0, 1.0, 24, (1,)), 1, 300.0)
    learner = Learner(0, 1, ModelConfig(preset="smoke"), ExecutionConfig(), 1)
    learner.initialise()
    learner.model.load_state_dict(model.state_dict())
    for name, parameter in learner.model.named_parameters():
        if name.endswith("router.weight") or name.startswith("output_layer"):
            parameter.data.mul_(8)

    def distance(replay: bool) -> np.ndarray:
        sequences = []
        for sample in samples:
            tokens = np.array(sample.prompt + sample.tokens)
            assert sample.experts.shape == (len(tokens) - 1, 1, SPEC.num_experts_per_tok)
            mask = np.arange(len(tokens)) >= len(sample.prompt)
            sequences.append(Sequence(tokens, mask, experts=sample.experts if replay else None))
        scored = np.concatenate([logprobs for logprobs, _ in learner.logprobs(sequences)])
        return np.abs(scored - np.concatenate([sample.logprobs for sample in samples]))

    own, replayed = distance(False), distance(True)
    assert replayed.mean() < own.mean()
    assert replayed.max() < own.max()
    assert (own > 1e-6).any()


def test_experts_of_another_length_are_refused():
    learner = Learner(0, 1, ModelConfig(preset="smoke"), ExecutionConfig(), 1)
    learner.initialise()
    experts = np.zeros((4, 1, SPEC.num_experts_per_tok), np.uint8)
    with pytest.raises(BadInput, match="every token but the last"):
        learner.logprobs([Sequence(np.arange(10, 20), np.arange(10) > 0, experts=experts)])


def test_replay_of_the_trainers_own_choice_changes_nothing():
    """The choice as megatron records it: log-probs are equal bit for bit."""
    learner = Learner(0, 1, ModelConfig(preset="smoke"), ExecutionConfig(), 1)
    learner.initialise()
    tokens = np.random.default_rng(3).integers(10, 100, 30)
    mask = np.arange(30) > 0
    ((plain, _),) = learner.logprobs([Sequence(tokens, mask)])
    replays = [router.router_replay for router in routers(learner.model)]
    for replay in replays:
        replay.set_router_replay_action(RouterReplayAction.RECORD)
    with torch.no_grad():
        layout = PackedLayout.of([len(tokens)], SPEC)
        learner.model(torch.as_tensor(tokens).unsqueeze(0), None, None, packed_seq_params=layout)
    recorded = np.stack([replay.get_recorded_indices().numpy() for replay in replays], axis=1)
    ((replayed, _),) = learner.logprobs([Sequence(tokens, mask, experts=recorded[:-1])])
    np.testing.assert_array_equal(plain, replayed)
