"""The learner on a real megatron model: packing, resume, divergence, overfitting. Layouts: test_layouts.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from components.artifacts.stored import Stored
from components.failures import BadInput, Diverged
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.training.learner import Learner
from components.training.types import LossResult, PolicySequence, PolicyTokens, Sequence
from tests.components.training.export import write_hf, write_reward
from tests.components.training.points import load_point, save_point

pytestmark = pytest.mark.engine

MODEL = ModelConfig(preset="smoke")
OPTIMISER = OptimiserConfig(lr=3e-3, warmup_steps=2, beta2=0.95)


def sequences(count: int, seed: int = 0) -> list[Sequence]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(8, 60, count)
    return [Sequence(generator.integers(10, 112, n), np.arange(n) >= n // 3) for n in lengths]


def policy_sequences(learner: Learner, count: int) -> list[PolicySequence]:
    generator = np.random.default_rng(7)
    rollouts = sequences(count, seed=3)
    return [
        PolicySequence(
            sequence.tokens,
            sequence.loss_mask,
            behaviour_logprobs=old + generator.normal(0, 0.01, len(old)).astype(np.float32),
            old_logprobs=old,
            reference_logprobs=None,
            advantages=np.full(len(old), generator.normal(), np.float32),
            weights=np.full(len(old), 1 / (len(old) * count), np.float32),
        )
        for sequence, (old, _) in zip(rollouts, learner.logprobs(rollouts), strict=True)
    ]


def reinforce(tokens: PolicyTokens) -> LossResult:
    ratio = (tokens.logprobs - tokens.old_logprobs).exp()
    return LossResult(
        loss=-(tokens.weights * ratio * tokens.advantages).sum(),
        sums={"tokens": torch.ones_like(ratio).sum(), "responses": torch.tensor(float(tokens.response.max() + 1))},
        maxima={"ratio": ratio.max()},
    )


def fresh() -> Learner:
    learner = Learner(0, 1, MODEL, ExecutionConfig(), seed=1)
    learner.initialise()
    learner.configure(OPTIMISER, 20, expert_bias_rate=1e-3)
    return learner


def flat(learner: Learner) -> np.ndarray:
    return np.concatenate([tensor.ravel() for tensor in learner.weights().values()])


def test_packed_and_single_documents_have_the_same_logprobs():
    learner, documents = fresh(), sequences(30)
    for packed, document in zip(learner.logprobs(documents), documents, strict=True):
        [(alone, entropy)] = learner.logprobs([document])
        assert len(alone) == document.loss_mask.sum()
        np.testing.assert_allclose(packed[0], alone, atol=2e-6)
        np.testing.assert_allclose(packed[1], entropy, atol=5e-6)
        assert np.all(entropy > 0)


def test_cross_entropy_is_normalised_over_the_step_and_learns():
    learner, documents = fresh(), sequences(12)
    expected = -np.concatenate([logprobs for logprobs, _ in learner.logprobs(documents)]).mean()
    history = [learner.train_tokens(documents, 128) for _ in range(18)]
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert history[0]["loss_tokens"] == sum(int(document.loss_mask.sum()) for document in documents)
    assert 0.5 < history[0]["fill"] <= 1
    assert history[-1]["loss"] < 0.75 * history[0]["loss"]
    assert any(np.any(value) for name, value in learner.weights().items() if name.endswith("expert_bias"))


def test_resume_is_bitwise(tmp_path):
    learner, documents = fresh(), sequences(8)
    for _ in range(3):
        learner.train_tokens(documents, 128)
    save_point(learner, tmp_path)
    onward = [learner.train_tokens(documents, 128)["loss"] for _ in range(3)]
    other = Learner(0, 1, MODEL, ExecutionConfig(), seed=99)
    load_point(other, tmp_path)
    assert [other.train_tokens(documents, 128)["loss"] for _ in range(3)] == onward
    assert np.array_equal(flat(other), flat(learner))


def test_a_warm_learner_forgets_everything_of_the_stage_before(tmp_path):
    learner, documents = fresh(), sequences(6)
    write_hf(learner, tmp_path)
    learner.train_tokens(documents, 128)
    learner.load_hf(tmp_path)
    learner.configure(OPTIMISER, 20, expert_bias_rate=1e-3)
    clean = fresh()
    assert learner.train_tokens(documents, 128)["loss"] == clean.train_tokens(documents, 128)["loss"]
    assert np.array_equal(flat(learner), flat(clean))


def test_the_router_bias_stays_fixed_in_rl_and_sums_and_maxima_come_back():
    learner = fresh()
    learner.configure(OPTIMISER, 20, expert_bias_rate=0.0)
    rollouts = policy_sequences(learner, 10)
    metrics = learner.policy_step(rollouts, reinforce)
    assert metrics["sum/tokens"] == metrics["loss_tokens"] == sum(len(r.advantages) for r in rollouts)
    assert metrics["max/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["loss"] == pytest.approx(-np.mean([r.advantages[0] for r in rollouts]), rel=1e-4)
    better = learner.policy_step(rollouts, reinforce)
    assert better["loss"] < metrics["loss"]
    assert not any(np.any(value) for name, value in learner.weights().items() if name.endswith("expert_bias"))


def test_a_non_finite_step_changes_nothing():
    learner, documents = fresh(), sequences(4)
    before = flat(learner)

    def broken(tokens: PolicyTokens) -> LossResult:
        return LossResult(loss=tokens.logprobs.sum() * float("nan"), sums={}, maxima={})

    with pytest.raises(Diverged, match="not changed"):
        learner.policy_step(policy_sequences(learner, 4), broken)
    assert np.array_equal(flat(learner), before)
    assert np.isfinite(learner.train_tokens(documents, 128)["loss"])


def test_a_mask_on_the_first_token_and_a_long_document_are_refused():
    learner = fresh()
    with pytest.raises(BadInput, match="first token"):
        learner.train_tokens([Sequence(np.arange(10, 20), np.ones(10, bool))], 128)
    with pytest.raises(BadInput, match="tokens"):
        learner.train_tokens([Sequence(np.full(200, 20), np.arange(200) > 0)], 128)


def test_the_reward_head_learns_an_order(tmp_path):
    learner = fresh()
    generator = np.random.default_rng(0)
    pairs = [(np.append(t, 20), np.append(t, 30)) for t in generator.integers(40, 112, (24, 12))]
    learner.configure(OptimiserConfig(lr=3e-3), 20, 0.0, reward_head=True)
    first = learner.train_pairs(pairs, len(pairs))
    assert first["loss"] == pytest.approx(np.log(2), rel=1e-4)
    head = learner.weights()["lm_head.weight"]
    for _ in range(12):
        last = learner.train_pairs(pairs, len(pairs))
    assert last["accuracy"] == 1.0
    assert np.array_equal(learner.weights()["lm_head.weight"], head)
    write_reward(learner, tmp_path)
    other = fresh()
    other.load_reward(Stored.local(tmp_path))
    scored = [tokens for pair in pairs for tokens in pair]
    np.testing.assert_allclose(other.score(scored), learner.score(scored), atol=1e-5)


def after(steps: int = 3, **settings) -> tuple[list[float], np.ndarray, Learner]:
    """(losses, weights) of supervised and policy steps in several micro-batches."""
    learner = Learner(0, 1, MODEL, ExecutionConfig(micro_batch_tokens=96, **settings), seed=1)
    learner.initialise()
    learner.configure(OPTIMISER, 20, expert_bias_rate=1e-3)
    documents = sequences(10)
    losses = [learner.train_tokens(documents, 96)["loss"] for _ in range(steps)]
    losses += [learner.policy_step(policy_sequences(learner, 6), reinforce)["loss"]]
    return losses, flat(learner), learner


def test_recomputed_layers_and_logits_in_parts_change_nothing():
    losses, weights, _ = after()
    again, recomputed, _ = after(recompute=True)
    assert again == losses
    assert np.array_equal(recomputed, weights)  # the routers' bias too: no token was counted twice
    parts, in_parts, _ = after(recompute=True, logit_rows=7)
    np.testing.assert_allclose(parts, losses, rtol=1e-5)
    np.testing.assert_allclose(in_parts, weights, atol=3e-4)  # Adam's first steps are the sign of a gradient near 0


def test_recomputation_keeps_only_the_inputs_of_layers():
    def kept(recompute: bool) -> int:
        learner = Learner(0, 1, MODEL, ExecutionConfig(recompute=recompute), seed=1)
        learner.initialise()
        [batch], _ = learner._batches(sequences(8), None)
        weights = {p.untyped_storage().data_ptr() for p in learner.model.parameters()}
        stored: dict[int, int] = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                stored[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = learner.model.run(batch.tokens, batch.lengths, batch.positions, head=False)
        assert out.requires_grad
        return sum(stored.values()) // len(batch.tokens)

    spec = fresh().spec
    # Per token: each layer's input, and what norm and head outside of layers keep.
    assert kept(recompute=True) < 4 * spec.hidden_size * (spec.num_hidden_layers + 4) + 100 < kept(recompute=False) / 4


def test_bfloat16_trains_beside_float32_with_its_master_copy_and_resumes_bitwise(tmp_path):
    losses, _, _ = after(12)
    rounded, _, learner = after(12, learner_dtype="bfloat16", recompute=True, logit_rows=64)
    np.testing.assert_allclose(rounded[:-1], losses[:-1], rtol=0.03)
    assert losses[11] < 0.8 * losses[0]
    assert learner.optimiser.master.dtype == learner.optimiser.grad.dtype == torch.float32
    kinds = {name: parameter.dtype for name, parameter in learner.model.named_parameters()}
    assert {name for name, dtype in kinds.items() if dtype == torch.float32} == {"output_layer.weight"}
    save_point(learner, tmp_path)
    onward = [learner.train_tokens(sequences(8), 96)["loss"] for _ in range(3)]
    other = Learner(0, 1, MODEL, learner.execution, seed=99)
    load_point(other, tmp_path)
    assert [other.train_tokens(sequences(8), 96)["loss"] for _ in range(3)] == onward


def test_bfloat16_sums_the_gradients_of_micro_batches_in_float32():
    def gradient(tokens: int, dtype: str) -> torch.Tensor:
        learner = Learner(0, 1, MODEL, ExecutionConfig(micro_batch_tokens=tokens, learner_dtype=dtype), seed=1)
        learner.initialise()
        learner.configure(OPTIMISER, 20, expert_bias_rate=0.0)
        seen = []
        learner._update = lambda loss: seen.append(learner.optimiser.grad.clone()) or (0.0, 0.0)
        learner.train_tokens(sequences(64), 64)
        return seen[0]

    exact = gradient(2048, "float32")
    one, many = ((gradient(tokens, "bfloat16") - exact).norm() / exact.norm() for tokens in (4096, 64))
    assert many < 1.5 * one < 0.1
