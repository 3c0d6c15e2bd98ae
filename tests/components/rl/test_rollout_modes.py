"""Synchronous, C3PO++ and asynchronous rollouts on a real trainer and a real vLLM engine.

At staleness 0 the three give the same batches and the same weights; beyond it tokens keep the log-probs and versions
they were drawn with, ages stay bounded, and a killed C3PO++ run goes on bit for bit with its partial rollouts.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from components.cluster.connect import connect
from components.model.hf_config import config_json
from components.model.spec import PRESETS
from components.recipe.execution import ExecutionConfig
from components.recipe.rl import PromptFilter, RolloutConfig
from components.recipe.training import OptimiserConfig
from components.rewards.types import Reward
from components.rl.scheduler import SchedulerPolicy
from components.rollout.group import EngineGroup
from tests.components.rl.test_controller import (
    STEPS,
    Killed,
    LetterScorer,
    LocalEngines,
    engine,  # noqa: F401  (a fixture)
    killer,
    phase,
    tokenizer,  # noqa: F401
    train,
)

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]
SIZES = {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 24}
# Stale tokens of a fast-moving model pass the guard's bound, as they should.
SLOW = OptimiserConfig(lr=2e-4)
C3PO = RolloutConfig(mode="c3po++", max_staleness=2, token_budget=100, oversample=2.0, **SIZES)


class Uneven(LocalEngines):
    """A model that knows nothing never stops: lengths from 2 to the limit, one answer in eight a long one."""

    def stream(self, requests, sampling):
        return super().stream(self.uneven(requests), sampling)

    def advance(self, requests, homes, sampling, until):
        return super().advance(self.uneven(requests), homes, sampling, until)

    def uneven(self, requests):
        return [replace(r, length=24 if r.seed % 8 == 0 else 2 + r.seed // 8 % 9) for r in requests]


@pytest.fixture(scope="module")
def engines(tokenizer):  # noqa: F811
    """Two engines in processes of their own, as in a run."""
    execution = ExecutionConfig(engines=2, max_num_seqs=64)
    connect(execution)
    group = EngineGroup(config_json(PRESETS["smoke"], tokenizer, "float32"), "float32", 128, execution)
    yield group
    group.close()


def recorded(monkeypatch) -> list[list[tuple]]:
    from components.training.group import LearnerGroup

    batches: list[list[tuple]] = []
    plain = LearnerGroup.policy_step

    def step(self, sequences, loss, sequence_length=None):
        names = ("tokens", "loss_mask", "behaviour_logprobs", "old_logprobs", "advantages", "weights")
        batches.append([tuple(getattr(s, name).tobytes() for name in names) for s in sequences])
        result = plain(self, sequences, loss, sequence_length)
        batches[-1].append(result["grad_norm"])
        return result

    monkeypatch.setattr(LearnerGroup, "policy_step", step)
    return batches


def test_at_staleness_0_all_modes_train_on_the_same_batches_with_the_same_gradients(
    tmp_path,
    tokenizer,  # noqa: F811
    engine,  # noqa: F811
    monkeypatch,
):
    runs = {}
    for name, more in {
        "synchronous": {},
        "c3po++": {},
        "c3po++ with a budget it never meets": {"mode": "c3po++", "token_budget": 10**6, "budget_counts": "generated"},
        "async": {},
    }.items():
        batches = recorded(monkeypatch)
        rollout = RolloutConfig(**({"mode": name} | SIZES | more))
        context, summary, digest = train(tmp_path / name, tokenizer, Uneven(engine), phase(rollout=rollout))
        monkeypatch.undo()
        runs[name] = (batches, digest, context.series("reward/mean"), summary)
    batches, digest, rewards, summary = runs["synchronous"]
    assert len(batches) == 2 * STEPS
    for name, run in runs.items():
        assert run[0] == batches, name  # tokens, log-probs, advantages, weights and gradient norm, bit for bit
        assert run[1:] == (digest, rewards, summary), name


class HalfSilent(LetterScorer):
    """Prompts of an even number get equal rewards, whatever the answers."""

    def score(self, requests, deadline_s):
        rewards = super().score(requests, deadline_s)
        silent = [int(request.prompt.split()[-1]) % 2 == 0 for request in requests]
        return [Reward(0.5, "scored") if off else reward for off, reward in zip(silent, rewards, strict=True)]


def test_groups_without_signal_are_refilled_and_both_modes_draw_the_same(tmp_path, tokenizer, engine, monkeypatch):  # noqa: F811
    runs = {}
    for mode in ("synchronous", "c3po++"):
        batches = recorded(monkeypatch)
        config = phase(rollout=RolloutConfig(mode=mode, **SIZES), prompt_filter=PromptFilter(refill=3), optimiser=SLOW)
        context, summary, digest = train(tmp_path / mode, tokenizer, Uneven(engine), config, scorer=HalfSilent())
        monkeypatch.undo()
        runs[mode] = (batches, digest, summary)
        trained = [value for _, value in context.series("groups/trained")]
        assert np.mean(trained) > 3  # 2 without a refill
        assert max(value for _, value in context.series("groups/refilled")) > 0
    assert runs["synchronous"] == runs["c3po++"]
    few = RolloutConfig(mode="c3po++", max_staleness=2, token_budget=60, **SIZES)
    config = phase(rollout=few, prompt_filter=PromptFilter(refill=2), optimiser=SLOW, steps=6)
    context, summary, _ = train(tmp_path / "budget", tokenizer, Uneven(engine), config, scorer=HalfSilent())
    assert max(value for _, value in context.series("groups/refilled")) > 0
    assert summary.outcomes["filtered"] > 0
    with pytest.raises(ValidationError, match="refill needs a step that ends"):
        phase(rollout=RolloutConfig(mode="async", **SIZES), prompt_filter=PromptFilter(refill=1))


def test_c3po_carries_rollouts_over_and_every_token_keeps_the_version_that_drew_it(tmp_path, tokenizer, engine):  # noqa: F811
    context, summary, _ = train(
        tmp_path, tokenizer, Uneven(engine), phase(steps=8, rollout=C3PO, optimiser=SLOW, checkpoint_every=100)
    )
    assert max(value for _, value in context.series("scheduler/carried_rollouts")) > 0
    assert 0 < max(value for _, value in context.series("staleness/max")) <= 2
    assert max(value for _, value in context.series("staleness/mixed_fraction")) > 0
    # Fresh tokens show the engine alone: rounding. Stale ones show what updates did since, which k now absorbs.
    fresh = [value for _, value in context.series("mismatch/fresh_mean_abs_dlogp")]
    stale = [value for _, value in context.series("mismatch/stale_mean_abs_dlogp")]
    assert max(fresh) < 1e-5
    assert min(stale) > 10 * max(fresh)
    budget = context.series("scheduler/counted_tokens")
    assert all(C3PO.token_budget <= value < C3PO.token_budget + 32 * C3PO.max_new_tokens for _, value in budget)
    outcomes = summary.outcomes
    assert outcomes.get("purged", 0) == context.series("scheduler/dropped_groups")[-1][1]
    assert outcomes["trained"] > 0


def test_a_killed_c3po_run_goes_on_bit_for_bit_with_its_partial_rollouts(tmp_path, tokenizer, engine):  # noqa: F811
    config = phase(steps=6, rollout=C3PO, optimiser=SLOW, checkpoint_every=2)
    whole, summary, digest = train(tmp_path / "whole", tokenizer, Uneven(engine), config)
    with pytest.raises(Killed):
        train(tmp_path / "killed", tokenizer, Uneven(engine), config, check=killer(at=5))
    point = tmp_path / "killed" / "resume" / "00000004" / "files" / "rollouts-in-flight.json"
    carried = json.loads(point.read_text())["rollouts"]
    assert any(rollout["tokens"] and not rollout["finish"] for rollout in carried)
    assert all(len(r["tokens"]) == len(r["logprobs"]) == len(r["versions"]) for r in carried)
    again, resumed, resumed_digest = train(tmp_path / "killed", tokenizer, Uneven(engine), config)
    assert resumed_digest == digest
    assert resumed == summary
    assert (again.output / "metrics.jsonl").read_text() == (whole.output / "metrics.jsonl").read_text()


def test_asynchronous_decodes_during_updates_within_the_bound_and_learns(tmp_path, tokenizer, engines):  # noqa: F811
    rollout = RolloutConfig(mode="async", max_staleness=2, prompts_per_step=8, group_size=8, max_new_tokens=12)
    context, summary, _ = train(tmp_path, tokenizer, engines, phase(steps=15, rollout=rollout, checkpoint_every=100))
    trained = sum(summary.outcomes.values())
    assert trained == 15 * 8
    assert 0 < max(value for _, value in context.series("staleness/max")) <= 2
    rewards = [value for _, value in context.series("reward/mean")]
    assert np.mean(rewards[-3:]) > 2 * np.mean(rewards[:3])


def test_an_asynchronous_run_resumes_with_what_was_in_flight(tmp_path, tokenizer, engines):  # noqa: F811
    rollout = RolloutConfig(mode="async", max_staleness=1, **SIZES)
    config = phase(steps=6, rollout=rollout, checkpoint_every=2)
    with pytest.raises(Killed):
        train(tmp_path, tokenizer, engines, config, check=killer(at=5), scorer=LetterScorer())
    _, summary, _ = train(tmp_path, tokenizer, engines, config)
    assert sum(summary.outcomes.values()) == 6 * 4


def test_a_mode_refuses_what_it_would_ignore():
    for wrong in (
        {"max_staleness": 1},
        {"token_budget": 10},
        {"mode": "c3po++", "max_staleness": 1},
        {"mode": "async", "token_budget": 10},
        {"mode": "async", "oversample": 2.0},
    ):
        with pytest.raises(ValidationError):
            RolloutConfig(**(SIZES | wrong))
    assert RolloutConfig(**SIZES).mode == "synchronous"
    assert SchedulerPolicy(4, 4).max_staleness == 0


def test_c3po_on_two_engines_keeps_the_bound_and_loses_nothing(tmp_path, tokenizer, engines):  # noqa: F811
    config = phase(steps=5, rollout=C3PO, optimiser=SLOW, checkpoint_every=100)
    context, summary, _ = train(tmp_path, tokenizer, engines, config)
    assert max(value for _, value in context.series("scheduler/carried_rollouts")) > 0
    assert summary.outcomes["trained"] > 0
