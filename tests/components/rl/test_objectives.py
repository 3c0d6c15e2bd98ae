"""GSPO, Dr.GRPO, C3PO and KPop: golden tables, gradients by hand, denominators, and a gradient that no layout moves."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.rl import C3poLoss, DrGrpoLoss, GrpoLoss, GspoLoss, IcePopLoss, KPopLoss, TisLoss
from components.recipe.training import OptimiserConfig
from components.rewards.types import Reward
from components.rl.advantages import group_advantages
from components.rl.batch import Group, policy_sequences, select, token_sequence
from components.rl.losses import BinaryKlCorrection, IcePopCorrection, TruncatedCorrection, binary_kl, policy_loss
from components.rl.objective import objective_of
from components.rollout.types import Sample
from components.training.types import PolicyTokens

INF, NAN = math.inf, math.nan
LOSSES = [IcePopLoss(), TisLoss(), GrpoLoss(), KPopLoss(), GspoLoss(), DrGrpoLoss(), C3poLoss(token_budget=500)]


def by_name(config):
    return config.name


def batch_of(log_r, advantages=None, weights=None, response=None, behaviour=None, old=None) -> PolicyTokens:
    log_r = torch.tensor(log_r, dtype=torch.float64)
    n = len(log_r)
    old = torch.full((n,), -2.0, dtype=torch.float64) if old is None else torch.tensor(old, dtype=torch.float64)
    return PolicyTokens(
        logprobs=(old + log_r).requires_grad_(),
        old_logprobs=old,
        behaviour_logprobs=old if behaviour is None else torch.tensor(behaviour, dtype=torch.float64),
        reference_logprobs=None,
        advantages=torch.ones(n, dtype=torch.float64)
        if advantages is None
        else torch.tensor(advantages, dtype=torch.float64),
        weights=torch.ones(n, dtype=torch.float64) if weights is None else torch.tensor(weights, dtype=torch.float64),
        entropy=torch.ones(n, dtype=torch.float64),
        response=torch.tensor(response or [0] * n),
    )


# k below, at, inside and above the bounds of each loss; pi_infer = 0.1, so binary KL of k = 5 is 0.37, of k = 9.9 2.5.
@pytest.mark.parametrize(
    ("k", "weights"),
    [
        (0.0, {"icepop": 0, "tis": 0, "kpop": 0, "grpo": 0, "gspo": 0, "dr-grpo": 0, "c3po": 0}),
        (0.49, {"icepop": 0, "tis": 0.49, "kpop": 0.49, "grpo": 1, "gspo": 1, "dr-grpo": 1, "c3po": 1}),
        (0.5, {"icepop": 0.5, "tis": 0.5, "kpop": 0.5, "grpo": 1, "gspo": 1, "dr-grpo": 1, "c3po": 1}),
        (1.0, {"icepop": 1, "tis": 1, "kpop": 1, "grpo": 1, "gspo": 1, "dr-grpo": 1, "c3po": 1}),
        (2.5, {"icepop": 2.5, "tis": 2, "kpop": 2.5, "grpo": 1, "gspo": 1, "dr-grpo": 1, "c3po": 1}),
        (5.0, {"icepop": 5, "tis": 2, "kpop": 5, "grpo": 1, "gspo": 1, "dr-grpo": 1, "c3po": 1}),
        (5.01, {"icepop": 0, "tis": 2, "kpop": 5.01, "grpo": 1, "gspo": 1, "dr-grpo": 1, "c3po": 1}),
        (9.9, {"icepop": 0, "tis": 2, "kpop": 0, "grpo": 1, "gspo": 1, "dr-grpo": 1, "c3po": 1}),
        (INF, {"icepop": 0, "tis": 0, "kpop": 0, "grpo": 0, "gspo": 0, "dr-grpo": 0, "c3po": 0}),
        (NAN, {"icepop": 0, "tis": 0, "kpop": 0, "grpo": 0, "gspo": 0, "dr-grpo": 0, "c3po": 0}),
    ],
)
@pytest.mark.parametrize("config", LOSSES, ids=by_name)
def test_golden_table_of_k(config, k, weights):
    """-d loss / d logprob of one token with r = A = w = 1 is M(k); a k without a finite log has no gradient at all."""
    # pi_infer = 0 gives k = inf, pi_train = 0 gives k = 0.
    behaviour = -INF if k == INF else math.log(0.1)
    old = NAN if math.isnan(k) else -INF if k == 0 else math.log(0.1) if k == INF else math.log(0.1 * k)
    if k in (0.5, 5.0):  # the sum of two rounded logs may miss the bound by an ulp: step inside
        old = math.nextafter(old, math.log(0.1))
    batch = batch_of([0.0], old=[old], behaviour=[behaviour])
    result = pickle.loads(pickle.dumps(policy_loss(config)))(batch)
    result.loss.backward()
    assert -batch.logprobs.grad.item() == pytest.approx(weights[config.name], rel=1e-6, abs=1e-12)
    assert math.isfinite(result.loss.item())
    assert result.sums["nonfinite"].item() == (k in (0.0, INF) or math.isnan(k))


def test_kpop_bounds_the_binary_kl_in_both_directions():
    def kl(p, q):
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    for p, q in [(0.1, 0.2), (0.9, 0.3), (1e-9, 0.5), (0.999999, 0.4), (0.3, 0.3)]:
        arguments = torch.tensor([math.log(p)], dtype=torch.float64), torch.tensor([math.log(q)], dtype=torch.float64)
        assert binary_kl(*arguments).item() == pytest.approx(kl(p, q), rel=1e-9, abs=1e-12)
    certain = torch.zeros(1, dtype=torch.float64)
    half = torch.tensor([math.log(0.5)], dtype=torch.float64)
    assert binary_kl(certain, certain).item() == 0
    assert binary_kl(half, certain).item() == INF
    assert binary_kl(certain, half).item() == pytest.approx(math.log(2))
    # p = 0.999, q = 0.5: 0.69 one way, 2.8 the other; either direction alone may mask.
    for p, q in [(0.999, 0.5), (0.5, 0.999)]:
        log_k, log_q = torch.tensor([math.log(p / q)]), torch.tensor([math.log(q)])
        larger = max(kl(p, q), kl(q, p))
        assert BinaryKlCorrection(larger * 1.001)(log_k, log_q).item() == pytest.approx(p / q, rel=1e-5)
        assert BinaryKlCorrection(larger * 0.999)(log_k, log_q).item() == 0
    # A rare token may change by a large factor, a frequent one may not: what a fixed bound on k cannot say.
    rare, frequent = torch.tensor([math.log(1e-4)]), torch.tensor([math.log(0.15)])
    six = torch.tensor([math.log(6.0)])
    assert BinaryKlCorrection(1.0)(six, rare).item() == pytest.approx(6.0, rel=1e-5)
    assert BinaryKlCorrection(1.0)(six, frequent).item() == 0
    assert IcePopCorrection(0.5, 5.0)(six, rare).item() == 0
    assert TruncatedCorrection(2.0)(six, rare).item() == 2.0


@pytest.mark.parametrize(
    ("advantage", "mean_log_r", "flows"),
    [
        (1.0, 0.0, True),
        (1.0, math.log(1 + 3.9e-4), True),
        (1.0, math.log(1 + 4.1e-4), False),
        (1.0, -0.1, True),
        (-1.0, math.log(1 - 2.9e-4), True),
        (-1.0, math.log(1 - 3.1e-4), False),
        (-1.0, 0.1, True),
    ],
)
def test_gspo_gradient_by_hand(advantage, mean_log_r, flows):
    """Response of n tokens, w = 1 / (n N): each token's gradient is -(1/N) s A / n where s is not clipped, else 0."""
    n, responses = 4, 3
    spread = [0.2, -0.2, 0.05, -0.05]
    log_r = [mean_log_r + value for value in spread] + [0.0, 0.0]
    batch = batch_of(
        log_r,
        advantages=[advantage] * n + [1.0] * 2,
        weights=[1 / (n * responses)] * n + [1 / (2 * responses)] * 2,
        response=[0] * n + [1] * 2,
    )
    result = policy_loss(GspoLoss())(batch)
    result.loss.backward()
    s = math.exp(mean_log_r)
    expected = -s * advantage / (n * responses) if flows else 0.0
    np.testing.assert_allclose(batch.logprobs.grad[:n], expected, rtol=1e-9)
    np.testing.assert_allclose(batch.logprobs.grad[n:], -1 / (2 * responses), rtol=1e-9)
    clipped = min(s * advantage, min(max(s, 1 - 3e-4), 1 + 4e-4) * advantage)
    assert result.loss.item() == pytest.approx(-(clipped + 1) / responses, rel=1e-9)
    assert result.sums["clipped"].item() == (0 if flows else n)


@pytest.mark.parametrize("config", LOSSES, ids=by_name)
def test_autograd_agrees_with_finite_differences(config):
    rng = np.random.default_rng(3)
    n = 12
    old = rng.uniform(-3, -0.5, n)
    behaviour = old + rng.normal(0, 0.2, n)
    log_r = rng.normal(0, 2e-4, n)  # inside GSPO's bounds, away from every kink
    batch = batch_of(
        log_r,
        advantages=rng.normal(0, 1, n).tolist(),
        weights=rng.uniform(0.01, 0.1, n).tolist(),
        response=[0] * 5 + [1] * 7,
        behaviour=behaviour,
        old=old,
    )
    loss = policy_loss(config)
    loss(batch).loss.backward()
    step = 1e-7
    for at in range(n):
        moved = []
        for sign in (1, -1):
            logprobs = batch.logprobs.detach().clone()
            logprobs[at] += sign * step
            fields = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
            moved.append(loss(PolicyTokens(**(fields | {"logprobs": logprobs}))).loss.item())
        assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(batch.logprobs.grad[at].item(), rel=1e-4, abs=1e-8)


def group(prompt: int, rewards: list[float | None], lengths: list[int]) -> Group:
    rng = np.random.default_rng(prompt)
    samples = tuple(
        Sample(f"{prompt}/{i}", [5, 6, 7], rng.integers(8, 90, n).tolist(), rng.uniform(-3, -1, n).tolist(), "stop", 0)
        for i, n in enumerate(lengths)
    )
    return Group(prompt, samples, tuple(Reward(r, "error" if r is None else "scored") for r in rewards))


GROUPS = [
    group(0, [1.0, 0.0, 0.0], [4, 9, 2]),
    group(1, [1.0, 1.0, 1.0], [3, 3, 3]),
    group(2, [0.0, 3.0, None], [5, 1, 8]),
    group(3, [1.0, 0.0, 1.0], [6, 6, 7]),
]


def test_dr_grpo_divides_by_a_constant_and_never_by_the_deviation():
    objective = objective_of(DrGrpoLoss(), max_new_tokens=16)
    assert objective.advantages([1.0, 0.0, 0.0, 0.0]).advantages == (0.75, -0.25, -0.25, -0.25)
    assert group_advantages([1.0, 0.0]).advantages == (1.0, -1.0)
    assert not objective.advantages([2.0, 2.0]).informative
    chosen = select(GROUPS, 4, objective.advantages, objective.token_budget)
    assert chosen.counted == 11
    for part in policy_sequences(chosen, old_of(chosen), None, 2, objective.divisor):
        for sequence in part:
            np.testing.assert_allclose(sequence.weights, 1 / (16 * 11 / 2), rtol=1e-6)
    assert objective_of(DrGrpoLoss(length=100), 16).divisor(7, 8, 2) == 400


def old_of(selection) -> list[np.ndarray]:
    return [np.array(sample.logprobs) + 0.1 for sample, _ in selection.trained]


@pytest.mark.parametrize(
    ("budget", "lengths", "outcomes"),
    [
        (1, [4], ["trained", "surplus", "surplus", "surplus"]),
        (4, [4], ["trained", "surplus", "surplus", "surplus"]),
        (5, [4, 9], ["trained", "surplus", "surplus", "surplus"]),
        (16, [4, 9, 2, 5], ["trained", "filtered", "trained", "surplus"]),
        (34, [4, 9, 2, 5, 1, 6, 6, 7], ["trained", "filtered", "trained", "trained"]),
        (1000, [4, 9, 2, 5, 1, 6, 6, 7], ["trained", "filtered", "trained", "trained"]),
    ],
)
def test_c3po_takes_whole_responses_until_the_budget_and_always_divides_by_it(budget, lengths, outcomes):
    objective = objective_of(C3poLoss(token_budget=budget), 16)
    chosen = select(GROUPS, 4, objective.advantages, objective.token_budget)
    assert [len(sample.tokens) for sample, _ in chosen.trained] == lengths
    assert sum(lengths[:-1]) < budget
    assert [outcome for _, outcome in chosen.outcomes] == outcomes
    assert sum(chosen.group_sizes) == len(lengths)
    (whole,) = policy_sequences(chosen, old_of(chosen), None, 1, objective.divisor)
    for sequence in whole:
        np.testing.assert_allclose(sequence.weights, 1 / budget, rtol=1e-6)
    assert chosen.over_budget >= 8 - len(lengths)


@pytest.fixture(scope="module")
def learner():
    from components.training.learner import Learner

    learner = Learner(0, 1, ModelConfig(preset="smoke"), ExecutionConfig(), 0)
    learner.initialise(3)
    learner.configure(OptimiserConfig(lr=1e-9), 100, expert_bias_rate=0.0)
    return learner


@pytest.mark.engine
@pytest.mark.parametrize("config", LOSSES, ids=by_name)
def test_layout_never_moves_the_gradient(learner, config, monkeypatch):
    """Order, packing into rows, micro-batches and the split over data-parallel ranks give one gradient."""
    from components.training import learner as module

    objective = objective_of(config, 16)
    chosen = select(GROUPS, 4, objective.advantages, objective.token_budget)
    old = [logprobs for logprobs, _ in learner.logprobs([token_sequence(sample) for sample, _ in chosen.trained])]
    (sequences,) = policy_sequences(chosen, old, None, 1, objective.divisor)
    rng = np.random.default_rng(1)
    drawn = [(s.old_logprobs + rng.normal(0, 0.3, len(s.old_logprobs))).astype(np.float32) for s in sequences]
    sequences = [replace(s, behaviour_logprobs=b) for s, b in zip(sequences, drawn, strict=True)]
    captured = []

    def keep(loss):
        captured.append(learner.optimiser.grad.clone())
        for router in module.routers(learner.model):
            router.local_tokens_per_expert.zero_()
        return 0.0, 0.0

    monkeypatch.setattr(learner, "_update", keep)

    def gradient(parts, row_length=None, micro_batch=2048):
        settings = learner.execution.model_copy(update={"micro_batch_tokens": micro_batch})
        monkeypatch.setattr(learner, "execution", settings)
        captured.clear()
        for part in parts:  # what an all-reduce (SUM) over ranks adds up
            learner.policy_step(part, objective.loss, row_length)
        return sum(captured)

    whole = gradient([sequences])
    scale = float(whole.abs().max())
    assert scale > 0
    shuffled = [sequences[i] for i in np.random.default_rng(0).permutation(len(sequences))]
    for other in (
        gradient([shuffled]),
        gradient([sequences], row_length=16),
        gradient([sequences], row_length=16, micro_batch=16),
        gradient([sequences[0::2], sequences[1::2]]),
        gradient([sequences[:1], sequences[1:3], [], sequences[3:]], row_length=32, micro_batch=32),
    ):
        torch.testing.assert_close(other, whole, rtol=1e-4, atol=2e-6 * scale)
