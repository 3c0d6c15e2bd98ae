"""Divided learners and two engines over Ray: parity, damage, an engine that misses an update, and taking turns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import ray

from components.cluster.connect import connect
from components.failures import IntegrityError
from components.model.hf_config import config_json
from components.model.spec import PRESETS
from components.model.tokenizer import load_tokenizer
from components.model.wire import WeightShards
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.rollout.group import EngineGroup
from components.rollout.placement import TurnTaking
from components.rollout.types import SampleRequest, Sampling
from components.training.group import LearnerGroup
from components.training.types import Sequence

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

SPEC = PRESETS["smoke"]
EXECUTION = ExecutionConfig(learners=2, pipeline_parallel=2, engines=2, max_num_seqs=8, start_deadline_s=900)
SAMPLING = Sampling(1.0, 1.0, 6, (1,))


@pytest.fixture(scope="module")
def groups():
    connect(EXECUTION)
    engines = EngineGroup(config_json(SPEC, load_tokenizer("nano"), "float32"), "float32", 64, EXECUTION)
    learners = LearnerGroup(ModelConfig(preset="smoke"), EXECUTION, seed=0)
    yield learners, engines
    engines.close()
    learners.close()


def requests() -> list[SampleRequest]:
    return [SampleRequest(f"r{i}", [10 + i, 20, 30, 40], seed=i) for i in range(4)]


def test_engines_draw_from_the_weights_of_divided_learners_and_are_fenced_without_them(groups):
    learners, engines = groups
    learners.initialise(1)
    first = learners.weights()
    assert isinstance(first, WeightShards)
    assert len(first.layouts) == 2  # one shard of each pipeline stage
    engines.publish(1, first)
    samples = engines.generate(requests(), SAMPLING)
    sequences = [
        Sequence(np.array(s.prompt + s.tokens), np.arange(len(s.prompt + s.tokens)) >= len(s.prompt)) for s in samples
    ]
    for sample, (logprobs, _) in zip(samples, learners.logprobs(sequences), strict=True):
        np.testing.assert_allclose(sample.logprobs, logprobs, atol=1e-5)

    # One bit of one shard on its way: every engine refuses, and none is asked any more.
    damaged = np.array(ray.get(first.sources[1]))
    damaged[100] ^= 1
    with pytest.raises(IntegrityError, match=r"shard 1 of 2 arrived with checksum"):
        engines.publish(2, replace(first, sources=(first.sources[0], ray.put(damaged))))
    assert engines.workers.call("admitted", deadline_s=60) == [(None, None)] * 2
    with pytest.raises(IntegrityError, match="did not reach every engine"):
        engines.generate(requests(), SAMPLING)

    # A publication that reaches one engine alone: the other refuses until it is synchronised again.
    learners.initialise(2)
    second = learners.weights()
    engines.publish(3, second)
    checksum = engines.checksum
    engines.workers.call_one(0, "load_weights", 4, checksum, second.layouts, list(second.sources), deadline_s=60)
    engines.version, engines._last = 4, (4, checksum, second.layouts, second.sources)
    with pytest.raises(IntegrityError, match="holds weights of version 3, the request wants version 4"):
        engines.generate(requests(), SAMPLING)
    assert engines.resync() == [1]
    assert engines.resync() == []
    assert {sample.version for sample in engines.generate(requests(), SAMPLING)} == {4}


def test_colocated_groups_take_turns_and_give_memory_back(groups):
    learners, engines = groups
    learners.initialise(3)
    learners.configure(OptimiserConfig(lr=1e-3), 4, 0.0)
    engines.publish(5, learners.weights())
    expected = [sample.tokens for sample in engines.generate(requests(), SAMPLING)]
    documents = [Sequence(np.arange(10, 50), np.arange(40) > 0)] * 2
    both = TurnTaking(engines, learners)
    loss = both.learners.train_tokens(documents, 64)["loss"]
    with pytest.raises(IntegrityError, match="the engine sleeps"):
        engines.generate(requests(), SAMPLING)
    samples = [sample for _, share in both.engines.stream(requests(), SAMPLING) for sample in share]
    assert sorted(sample.tokens for sample in samples) == sorted(expected)  # the weights are still version 5
    both.engines.publish(6, both.learners.weights())
    assert {sample.version for sample in both.engines.generate(requests(), SAMPLING)} == {6}
    assert both.learners.train_tokens(documents, 64)["loss"] < loss
    report = both.turns.summary()
    assert report["turns"] == 5  # step, draw, weights, publish and draw, step
    assert report.keys() >= {"engines_released_mib", "learners_released_mib", "turn_seconds"}
    assert report["engines_released_mib"] > 1
    both.close()
    assert len(engines.generate(requests(), SAMPLING)) == 4
