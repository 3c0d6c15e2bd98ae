"""Resuming a paused response: from vLLM's prefix cache under the same weights, from nothing under others.

vLLM's blocks on a CPU hold 128 tokens, so only responses longer than that have something to find.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from components.model.hf_config import config_json
from components.model.tokenizer import load_tokenizer
from components.rollout.engine import Engine
from components.rollout.types import SampleRequest, Sampling, Until
from tests.components.rollout.test_engine import DEADLINE_S, SPEC, publish, trainer_logprobs, weights_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
PROMPT, LENGTH = 140, 150


def test_a_paused_response_resumes_from_the_cache_and_never_from_that_of_other_weights(monkeypatch):
    engine = Engine(config_json(SPEC, load_tokenizer("nano"), "float32"), "float32", 320, 8)
    block = engine._engine.vllm_config.cache_config.block_size
    cached: list[int] = []
    step = engine._engine.step

    def watched():
        outputs = step()
        cached.extend(output.num_cached_tokens for output in outputs)
        return outputs

    monkeypatch.setattr(engine._engine, "step", watched)
    prompt = [int(token) for token in np.random.default_rng(0).integers(8, 100, PROMPT)]
    request = SampleRequest("r", prompt, seed=5, length=LENGTH)
    models, tokens, logprobs, versions, found = {}, [], [], [], []
    # version, tokens wanted before the next pause
    for version, until in ((0, 130), (0, 4), (1, 4), (1, 4), (1, None)):
        if version not in models:
            models[version], weights = weights_of(version + 1)
            publish(engine, version, weights)
        cached.clear()
        part = engine.advance(
            [replace(request, drawn=list(tokens))], Sampling(1.0, 1.0, LENGTH, ()), version, Until(until), DEADLINE_S
        )[0]
        engine.pause()
        tokens, logprobs = tokens + part.tokens, logprobs + part.logprobs
        versions += [version] * len(part.tokens)
        found.append(cached[0])
    whole_blocks = (PROMPT + 130) // block * block
    assert whole_blocks >= block
    assert found == [0, whole_blocks, 0, whole_blocks, whole_blocks]
    by_version = np.stack([trainer_logprobs(models[version], prompt, tokens) for version in models])
    # Of each version the tokens it drew: a block of another version's keys would be off by far more.
    np.testing.assert_allclose(logprobs, by_version[versions, np.arange(LENGTH)], atol=1e-5)
    assert np.abs(by_version[0] - by_version[1]).max() > 1e-2
