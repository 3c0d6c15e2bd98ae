"""The RL loop on a real trainer and a real vLLM engine in this process: resume bit for bit, guard, learning."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from components.artifacts.local import LocalContext
from components.data.schema import Verifier
from components.failures import BadInput, Diverged
from components.model.hf_config import config_json
from components.model.spec import PRESETS
from components.model.tokenizer import decode_response, encode_text, load_tokenizer
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.rl import GuardConfig, IcePopLoss, RlPhase, RolloutConfig
from components.recipe.training import OptimiserConfig
from components.rewards.types import Reward
from components.rl.batch import Prompt
from components.rl.collect import derive_seed
from components.rl.controller import train_rl
from components.rl.ledger import PromptMixture
from components.rl.traces import Traces
from components.rollout.engine import Engine
from components.rollout.exchange import checksum, pack
from components.telemetry.trace import Tracer
from components.training.group import LearnerGroup
from tests.components.telemetry.collector import attributes, collecting

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]
MODEL = ModelConfig(preset="smoke")
STEPS = 4
DEADLINE_S = 300.0


class LocalEngines:
    """The engine group's protocol on one engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.version = engine, -1

    def publish(self, version, weights):
        layout, buffer = pack(weights)
        self.version, digest = self.engine.load_weights(version, checksum(layout, buffer), layout, buffer)
        return digest

    def stream(self, requests, sampling):
        yield list(range(len(requests))), self.engine.generate(requests, sampling, self.version, DEADLINE_S)

    def advance(self, requests, homes, sampling, until):
        return self.engine.advance(requests, sampling, self.version, until, DEADLINE_S)

    def pause(self):
        self.engine.pause()

    def score(self, sequences):
        return self.engine.score(sequences, self.version, DEADLINE_S)


class StaleEngines(LocalEngines):
    """Answers for every version, but from the second on with other weights: what a lost update looks like."""

    def publish(self, version, weights):
        if version > 0:
            weights = {name: np.ascontiguousarray(array[::-1]) for name, array in weights.items()}
        return super().publish(version, weights)


class LetterScorer:
    """Rewards the share of one letter: something a random model can learn in a few steps."""

    def __init__(self, fail_every: int = 0) -> None:
        self.fail_every, self.count = fail_every, 0

    def score(self, requests, deadline_s):
        rewards = []
        for request in requests:
            self.count += 1
            if self.fail_every and self.count % self.fail_every == 0:
                rewards.append(Reward(None, "error", {"problem": "sandbox gone"}))
            else:
                rewards.append(Reward(request.response.count("a") / max(len(request.response), 1), "scored"))
        return rewards

    def close(self):
        pass


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("nano")


@pytest.fixture(scope="module")
def engine(tokenizer):
    return Engine(config_json(PRESETS["smoke"], tokenizer, "float32"), "float32", 128, 64)


def phase(**changes) -> RlPhase:
    values = {
        "name": "test",
        "domains": ("math",),
        "steps": STEPS,
        "rollout": RolloutConfig(prompts_per_step=4, group_size=4, max_new_tokens=12),
        "optimiser": OptimiserConfig(lr=2e-3),
        "checkpoint_every": 2,
    }
    return RlPhase(**(values | changes))


def train(root, tokenizer, engines, config: RlPhase, scorer=None, check=None, prepare=None, traces=None):
    context = LocalContext(root, "rlvr-1", seed=11, execution=ExecutionConfig(learners=1, engines=1), quiet=True)
    if check is not None:
        context.check = check
    learners = LearnerGroup(MODEL, context.execution, seed=0, in_process=True)
    learners.initialise(5)
    if prepare is not None:
        prepare(learners)
    learners.configure(config.optimiser, config.steps * config.minibatches, expert_bias_rate=0.0)
    prompts = [
        Prompt(
            f"p{i}",
            "math",
            "f",
            encode_text(tokenizer, f"say it {i}"),
            f"say it {i}",
            Verifier(kind="math", reference={}),
        )
        for i in range(10)
    ]
    summary = train_rl(
        context,
        learners,
        engines,
        scorer or LetterScorer(),
        prompts,
        PromptMixture([(range(10), 1.0)], context.seed),
        config,
        lambda tokens: decode_response(tokenizer, tokens),
        (tokenizer.eos_token_id,),
        traces=traces,
    )
    weights = learners.weights()
    digest = hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()
    return context, summary, digest


class Killed(Exception):
    pass


def killer(at: int):
    calls = []

    def check():
        calls.append(1)
        if len(calls) > at:
            raise Killed

    return check


def test_a_killed_run_goes_on_bit_for_bit_and_the_mismatch_is_rounding(tmp_path, tokenizer, engine):
    whole, summary, digest = train(tmp_path / "whole", tokenizer, LocalEngines(engine), phase())
    assert summary.outcomes["trained"] == STEPS * 4
    assert max(value for _, value in whole.series("mismatch/max_abs_dlogp")) < 1e-4
    assert [value for _, value in whole.series("policy/version")] == [1, 2, 3, 4]
    assert {"time/rollout_s", "time/reward_s", "time/old_logprobs_s", "time/update_s", "time/exchange_s"} <= {
        name for _, values in whole.history for name in values
    }
    with pytest.raises(Killed):
        train(tmp_path / "killed", tokenizer, LocalEngines(engine), phase(), check=killer(at=3))
    again, resumed, resumed_digest = train(tmp_path / "killed", tokenizer, LocalEngines(engine), phase())
    assert resumed_digest == digest
    assert resumed == summary
    for name in ("metrics.jsonl", "rollouts/step-000000.jsonl", "rollouts/step-000002.jsonl"):
        assert (again.output / name).read_text() == (whole.output / name).read_text()
    steps = [json.loads(line)["step"] for line in (again.output / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(STEPS))


@pytest.mark.parametrize("mode", ["synchronous", "c3po++"])
def test_a_trace_goes_through_prompt_rollout_reward_and_update(tmp_path, tokenizer, engine, mode):
    sizes = {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 12}
    carried = (
        {}
        if mode == "synchronous"
        else {"mode": mode, "token_budget": 40, "max_staleness": 2, "budget_counts": "generated"}
    )
    with collecting() as collector:
        tracer = Tracer({}, collector.url)
        traces = Traces(tracer, {"ringflow.stage": "rlvr-1"})
        train(
            tmp_path, tokenizer, LocalEngines(engine), phase(rollout=RolloutConfig(**sizes, **carried)), traces=traces
        )
        tracer.close()
    assert [attributes(span)["ringflow.step"] for span in collector.named("step")] == list(range(STEPS))
    trained = [span for span in collector.named("prompt") if attributes(span)["ringflow.outcome"] == "trained"]
    assert trained
    for root in trained:
        parts = {name: [] for name in ("rollout", "reward", "old_logprobs", "update", "exchange")}
        for span in collector.below(root):
            parts[span.name].append(span)
            assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= root.end_time_unix_nano
        assert [len(parts[name]) for name in ("rollout", "reward", "update")] == [4, 4, 1]
        assert {attributes(span)["ringflow.verdict"] for span in parts["reward"]} == {"scored"}
        judged = max(span.end_time_unix_nano for span in parts["reward"])
        assert judged <= parts["update"][0].start_time_unix_nano
    if mode == "synchronous":
        assert not traces.known


def test_reward_rises_on_something_a_random_model_can_learn(tmp_path, tokenizer, engine):
    rollout = RolloutConfig(prompts_per_step=8, group_size=8, max_new_tokens=12)
    context, _, _ = train(
        tmp_path, tokenizer, LocalEngines(engine), phase(steps=15, rollout=rollout, checkpoint_every=100)
    )
    rewards = [value for _, value in context.series("reward/mean")]
    assert np.mean(rewards[-3:]) > 3 * np.mean(rewards[:3])


def test_the_guard_stops_an_engine_with_other_weights_within_one_step(tmp_path, tokenizer, engine):
    with pytest.raises(Diverged, match=r"stopped at step 1: mean .* after a re-sync.* stale weights"):
        train(tmp_path, tokenizer, StaleEngines(engine), phase())


def test_failed_verifications_are_masked_and_stop_the_run_by_patience(tmp_path, tokenizer, engine):
    guard = GuardConfig(max_reward_error_fraction=0.02, patience=2)
    with pytest.raises(Diverged, match=r"stopped at step 1: .*verifications failed.* 2 steps in a row"):
        train(tmp_path, tokenizer, LocalEngines(engine), phase(guard=guard), scorer=LetterScorer(fail_every=5))
    lines = [json.loads(line) for line in (tmp_path / "output" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 1
    assert lines[0]["reward/error_fraction"] == pytest.approx(3 / 16)


def test_bad_configuration_is_refused_before_anything_is_sampled(tmp_path, tokenizer):
    with pytest.raises(BadInput, match="reference policy"):
        train(tmp_path / "kl", tokenizer, None, phase(loss=IcePopLoss(kl_coefficient=0.1)))
    hot = RolloutConfig(prompts_per_step=4, group_size=4, max_new_tokens=12, temperature=0.7)
    with pytest.raises(BadInput, match="temperature 1"):
        train(tmp_path / "hot", tokenizer, None, phase(rollout=hot))


def test_seeds_differ_by_every_part_and_never_by_chance():
    seeds = {
        derive_seed(s, n, t, p, m)
        for s in (0, 1)
        for n in ("a", "b")
        for t in (0, 1)
        for p in ("x", "y")
        for m in (0, 1)
    }
    assert len(seeds) == 32
    assert derive_seed(0, "rlvr-1", 0, "p", 0) == derive_seed(0, "rlvr-1", 0, "p", 0)
    assert max(seeds) < 2**63
