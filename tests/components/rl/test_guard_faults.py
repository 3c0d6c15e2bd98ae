"""Faults put into a real engine and a real learner: each is seen in the step it begins in, by its name.

The model is sure of itself, as a trained one is (its LM head is eight times what is drawn): a random one gives every
token nearly the same probability, whatever is wrong.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from components.failures import Diverged
from components.model.spec import PRESETS
from components.recipe.rl import RolloutConfig
from components.recipe.training import OptimiserConfig
from components.rollout.low_precision import rounded
from components.rollout.types import Sampling
from components.rollout.worker_extension import EngineWorker
from components.training.group import LearnerGroup
from tests.components.rl.test_controller import (
    LocalEngines,
    engine,  # noqa: F401  (a fixture)
    phase,
    tokenizer,  # noqa: F401
    train,
)

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]
BEGINS = 2  # version, and so the step, from which a fault is there
ROLLOUT = RolloutConfig(prompts_per_step=4, group_size=4, max_new_tokens=24)
C3PO = RolloutConfig(
    mode="c3po++", max_staleness=2, token_budget=200, oversample=2.0, **ROLLOUT.model_dump(include={"group_size"}),
    prompts_per_step=4, max_new_tokens=24,
)  # fmt: skip


def sure_of_itself(learners: LearnerGroup) -> None:
    learners._local.model.output_layer.weight.data.mul_(8)


def run(root, tokenizer, engines, **changes):  # noqa: F811
    config = phase(**({"rollout": ROLLOUT, "optimiser": OptimiserConfig(lr=1e-3), "steps": 4} | changes))
    return train(root, tokenizer, engines, config, prepare=sure_of_itself)


class StaleExperts(LocalEngines):
    """vLLM keeps the packed copy of its experts, what it does without our call before a reload."""

    def publish(self, version, weights):
        forget = EngineWorker._forget_packed_experts
        if version >= BEGINS:
            EngineWorker._forget_packed_experts = lambda worker: None
        try:
            return super().publish(version, weights)
        finally:
            EngineWorker._forget_packed_experts = forget


class CorruptShard(LocalEngines):
    """One tensor of one update is damaged behind the checksum, in the engine's memory."""

    damaged = False

    def publish(self, version, weights):
        if version == BEGINS and not self.damaged:
            self.damaged = True
            name = next(name for name in weights if ".mlp.experts.3.down_proj" in name)
            weights = {**weights, name: -weights[name]}
        return super().publish(version, weights)


class SwappedTokenizer(LocalEngines):
    """The engine's vocabulary stands in another order: text is the same, ids are not."""

    def stream(self, requests, sampling):
        if self.version < BEGINS:
            yield from super().stream(requests, sampling)
            return
        there, back = self.swap()
        for indices, samples in super().stream(
            [replace(r, prompt=[there[t] for t in r.prompt]) for r in requests], sampling
        ):
            yield (
                indices,
                [replace(s, prompt=[back[t] for t in s.prompt], tokens=[back[t] for t in s.tokens]) for s in samples],
            )

    def score(self, sequences):
        there, _ = self.swap()
        return super().score([([there[t] for t in tokens], length) for tokens, length in sequences])

    def swap(self):
        there = np.random.default_rng(0).permutation(PRESETS["smoke"].vocab_size).tolist()
        return there, np.argsort(there).tolist()


class RawLogprobs(LocalEngines):
    """Drawn at temperature 0.7 and reported at 1: vLLM's raw log-probs, where processed ones are asked for."""

    def stream(self, requests, sampling):
        if self.version < BEGINS:
            yield from super().stream(requests, sampling)
            return
        for indices, samples in super().stream(requests, Sampling(0.7, 1.0, sampling.max_new_tokens, ())):
            raw = self.score([(sample.prompt + sample.tokens, len(sample.prompt)) for sample in samples])
            yield indices, [replace(sample, logprobs=values) for sample, values in zip(samples, raw, strict=True)]


class Fp8(LocalEngines):
    def publish(self, version, weights):
        return super().publish(version, rounded(weights, "fp8") if version >= BEGINS else weights)


@pytest.mark.parametrize(("fault", "said"), [
    (StaleExperts, r"stopped at step 2: .*after a re-sync.*cause: stale weights"),
    (SwappedTokenizer, r"stopped at step 2: .*after a re-sync.*cause: tokenizer"),
])  # fmt: skip
def test_what_no_resync_mends_stops_in_the_same_step(tmp_path, tokenizer, engine, fault, said):  # noqa: F811
    with pytest.raises(Diverged, match=said):
        run(tmp_path, tokenizer, fault(engine))


def test_a_damaged_update_is_published_again_and_its_rollouts_are_not_trained_on(tmp_path, tokenizer, engine):  # noqa: F811
    context, summary, _ = run(tmp_path, tokenizer, CorruptShard(engine))
    assert [line.split(": ")[:2] for line in summary.warnings] == [["step 2", "resync"], ["step 2", "discard"]]
    assert "stale weights" in summary.warnings[1]
    assert summary.outcomes["discarded"] == 4
    assert [value for _, value in context.series("policy/version")] == [1, 2, 2, 3]
    mismatch = [value for _, value in context.series("mismatch/mean_abs_dlogp")]
    assert mismatch[2] > 1000 * max(mismatch[:2] + mismatch[3:])


@pytest.mark.parametrize(("fault", "cause"), [(RawLogprobs, "sampling"), (Fp8, "numerics")])
def test_what_is_wrong_by_little_is_named_in_the_same_step(tmp_path, tokenizer, engine, fault, cause):  # noqa: F811
    _, summary, _ = run(tmp_path, tokenizer, fault(engine))
    assert summary.warnings[0].startswith(f"step {BEGINS}: ")
    assert f"Likely cause: {cause}" in next(line for line in summary.warnings if line.startswith("step 2: warn"))


def test_a_clean_run_is_not_warned_of(tmp_path, tokenizer, engine):  # noqa: F811
    _, summary, _ = run(tmp_path, tokenizer, LocalEngines(engine), steps=8)
    assert summary.warnings == []


def test_at_a_learning_rate_of_zero_neither_weights_nor_mismatch_move(tmp_path, tokenizer, engine):  # noqa: F811
    """1e-30 is below the last bit of every weight; `ringflow bench icepop --probe` does this on a trained model."""
    published = []

    class Recorded(LocalEngines):
        def publish(self, version, weights):
            published.append(b"".join(array.tobytes() for array in weights.values()))
            return super().publish(version, weights)

    context, summary, _ = run(tmp_path, tokenizer, Recorded(engine), steps=6, optimiser=OptimiserConfig(lr=1e-30))
    assert len(published) == 7
    assert len(set(published)) == 1
    assert summary.warnings == []
    assert max(value for _, value in context.series("mismatch/mean_abs_dlogp")) < 1e-4


@pytest.mark.parametrize("rollout", [ROLLOUT, C3PO], ids=["synchronous", "c3po++"])
def test_an_update_that_is_not_finite_goes_back_to_the_last_good_checkpoint(
    tmp_path,
    tokenizer,  # noqa: F811
    engine,  # noqa: F811
    monkeypatch,
    rollout,
):
    """Weights of infinity stand in a minibatch of step 3; the checkpoint is of the start of step 2."""
    plain, published, calls = LearnerGroup.policy_step, {}, []

    def step(self, sequences, loss, sequence_length=None):
        calls.append(1)
        if len(calls) == 8:  # two updates a step: the second of step 3
            sequences = [replace(s, weights=np.full_like(s.weights, np.inf)) for s in sequences]
        return plain(self, sequences, loss, sequence_length)

    class Recorded(LocalEngines):
        def publish(self, version, weights):
            published[version] = {name: array.copy() for name, array in weights.items()}
            return super().publish(version, weights)

    monkeypatch.setattr(LearnerGroup, "policy_step", step)
    context, summary, _ = run(tmp_path, tokenizer, Recorded(engine), rollout=rollout, steps=6, checkpoint_every=2)
    assert [line.split(": ")[:2] for line in summary.warnings] == [["step 3", "rollback"]]
    assert [value for _, value in context.series("policy/version")] == [1, 2, 3, 4, 5, 6]
    for name, array in published[2].items():
        np.testing.assert_array_equal(array, published[4][name])  # version 4: what version 2 was
    assert summary.outcomes["discarded"] > 0
    lines = [json.loads(line) for line in (context.output / "metrics.jsonl").read_text().splitlines()]
    assert [line["guard/rollbacks"] for line in lines] == [0, 0, 0, 1, 1, 1]


def test_a_second_divergence_stops_with_the_cause(tmp_path, tokenizer, engine, monkeypatch):  # noqa: F811
    plain, calls = LearnerGroup.policy_step, []

    def step(self, sequences, loss, sequence_length=None):
        calls.append(1)
        if len(calls) > 7:
            sequences = [replace(s, weights=np.full_like(s.weights, np.inf)) for s in sequences]
        return plain(self, sequences, loss, sequence_length)

    monkeypatch.setattr(LearnerGroup, "policy_step", step)
    with pytest.raises(Diverged, match=r"stopped at step 4: .*cause: learning rate.* came back after 1 rollbacks"):
        run(tmp_path, tokenizer, LocalEngines(engine), steps=6, checkpoint_every=2)
