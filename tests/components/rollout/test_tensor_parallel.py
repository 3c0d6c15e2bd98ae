"""An engine of two vLLM workers, each with half of every matrix, against the trainer."""

from __future__ import annotations

import numpy as np
import pytest

from components.failures import BadInput
from components.model.hf_config import config_json
from components.model.tokenizer import load_tokenizer
from components.rollout.engine import Engine
from tests.components.rollout.test_engine import DEADLINE_S, SPEC, publish, trainer_logprobs, weights_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def test_two_workers_agree_with_the_trainer_before_and_after_an_update_and_a_sleep():
    engine = Engine(config_json(SPEC, load_tokenizer("nano"), "float32"), "float32", 128, 8, tensor_parallel=2)
    tokens = [int(token) for token in np.random.default_rng(1).integers(8, 100, 40)]
    found = []
    for version in (0, 1):
        model, weights = weights_of(version + 1)
        publish(engine, version, weights)
        scored = engine.score([(tokens, 10)], version, DEADLINE_S)[0]
        np.testing.assert_allclose(scored, trainer_logprobs(model, tokens[:10], tokens[10:]), atol=1e-5)
        found.append(scored)
        assert engine.sleep() > 0
        engine.wake()
        assert engine.score([(tokens, 10)], version, DEADLINE_S)[0] == scored
    assert np.abs(np.subtract(*found)).max() > 1e-2


def test_routing_replay_wants_one_worker():
    with pytest.raises(BadInput, match="engine_tensor_parallel"):
        Engine({}, "float32", 128, 8, routing=True, tensor_parallel=2)
