"""Rewards inside the loop, without models: whole groups where they are compared, evidence of everything, alarms.

Engines and learners are fakes here; test_controller and test_rollout_modes run the same loop on the real ones.
"""

from __future__ import annotations

import gzip
import json
import random

import numpy as np
import pytest

from components.artifacts.local import LocalContext
from components.data.schema import Verifier
from components.recipe.execution import ExecutionConfig
from components.recipe.rewards import MonitorConfig, RewardsConfig
from components.recipe.rl import GrpoLoss, RlPhase, RolloutConfig
from components.recipe.training import OptimiserConfig
from components.rewards.types import Reward
from components.rl.batch import Prompt
from components.rl.controller import train_rl
from components.rl.ledger import PromptMixture
from components.rollout.types import Progress, Sample

GROUP = 4
END = 0


class ScatteredEngines:
    """Responses end in an order that has nothing to do with their groups, a few at a time."""

    def __init__(self) -> None:
        self.rng, self.version = random.Random(3), 0

    def publish(self, version, weights):
        self.version = version
        return "digest"

    def stream(self, requests, sampling):
        order = list(range(len(requests)))
        self.rng.shuffle(order)
        for start in range(0, len(order), 3):
            indices = order[start : start + 3]
            yield indices, [self._sample(requests[i]) for i in indices]

    def _sample(self, request):
        tokens = [1] * (request.seed % 5) + [END]
        return Sample(request.request_id, request.prompt, tokens, [-0.5] * len(tokens), "stop", self.version)

    def advance(self, requests, homes, sampling, until):
        chosen = self.rng.sample(range(len(requests)), min(3, len(requests)))
        return [Progress(requests[i].request_id, [1, END], [-0.5, -0.5], "stop", self.version) for i in sorted(chosen)]

    def pause(self):
        pass


class StillLearners:
    def logprobs(self, sequences):
        return [
            (np.full(n, -0.5, np.float32), np.full(n, 0.5, np.float32))
            for n in (int(s.loss_mask.sum()) for s in sequences)
        ]

    def policy_step(self, sequences, loss):
        kept = dict.fromkeys(("tokens", "masked_low", "masked_high", "nonfinite"), 1.0)
        sums = {f"sum/{name}": value for name, value in kept.items()}
        return sums | {"loss": 0.0, "grad_norm": 1.0, "lr": 1e-4, "expert_load_max": 1.0}

    def weights(self):
        return {}

    def save_resume(self, directory, place):
        return place.holding([place.send("learner/state", [b"still"]).file])

    def load_resume(self, point):
        assert point.place.read("learner/state") == b"still"


class Comparing:
    """Compares the responses to general prompts with each other; remembers what came together."""

    def __init__(self) -> None:
        self.calls: list[list] = []

    def needs_group(self, domain, verifier):
        return domain == "general"

    def score(self, requests, deadline_s):
        self.calls.append(requests)
        return [Reward(float(at), "scored", {"seen": request.response}) for at, request in enumerate(requests)]

    def close(self):
        pass


def train(root, scorer, monkeypatch, **rollout):
    monkeypatch.setattr("components.rl.controller.update_report", lambda sums, maxima: {})
    config = RlPhase(
        name="test", domains=("general", "math"), steps=3, optimiser=OptimiserConfig(lr=1e-4), loss=GrpoLoss(),
        rollout=RolloutConfig(prompts_per_step=4, group_size=GROUP, max_new_tokens=8, **rollout), checkpoint_every=2,
        rewards=RewardsConfig(monitors=MonitorConfig(max_length_correlation=1.0, max_empty_fraction=0.01)),
    )  # fmt: skip
    context = LocalContext(root, "rlvr-1", seed=11, execution=ExecutionConfig(), quiet=True)
    prompts = [
        Prompt(f"p{i}", "general" if i % 2 else "math", "f", [5, 6], "say it",
               Verifier(kind="preference" if i % 2 else "math", reference={"answer": "1"}))
        for i in range(8)
    ]  # fmt: skip
    summary = train_rl(
        context, StillLearners(), ScatteredEngines(), scorer, prompts, PromptMixture([(range(8), 1.0)], 7), config,
        decode=lambda tokens: "a" * (len(tokens) - 1), stop_token_ids=(END,),
    )  # fmt: skip
    return context, summary


@pytest.mark.parametrize("rollout", [{}, {"mode": "c3po++", "max_staleness": 1, "token_budget": 24}])
def test_compared_groups_come_whole_and_the_rest_at_once(tmp_path, monkeypatch, rollout):
    scorer = Comparing()
    _context, summary = train(tmp_path, scorer, monkeypatch, **rollout)
    general = [[r for r in call if r.domain == "general"] for call in scorer.calls]
    for call in general:
        groups = {request.group for request in call}
        assert all(sum(r.group == group for r in call) == GROUP for group in groups)
    members = [request.request_id for call in general for request in call]
    assert members
    assert len(set(members)) == len(members)
    assert any(0 < sum(r.domain == "math" for r in call) < GROUP for call in scorer.calls)
    assert summary.steps == 3


def test_every_reward_is_kept_and_a_sample_goes_to_the_tracker(tmp_path, monkeypatch):
    context, summary = train(tmp_path, Comparing(), monkeypatch)
    rollouts = context.output / "rollouts"
    for step in range(3):
        rows = [json.loads(line) for line in gzip.decompress((rollouts / f"rewards-{step:06d}.jsonl.gz").read_bytes()).splitlines()]  # fmt: skip  # noqa: E501
        assert len(rows) == 4 * GROUP
        assert all(row["reward"]["evidence"]["seen"] == row["response"] for row in rows)
    assert not (rollouts / "step-000001.jsonl").exists()
    attached = {path.name for path in (tmp_path / "attachments" / "rollouts").iterdir()}
    assert attached == {"step-000000.jsonl", "step-000002.jsonl"}
    alarms = [json.loads(line) for line in (rollouts / "alarms.jsonl").read_text().splitlines()]
    assert summary.alarms == len(alarms) > 0
    assert all("no answer" in row["alarm"] for row in alarms)
    logged = [json.loads(line) for line in (context.output / "metrics.jsonl").read_text().splitlines()]
    assert all("monitor/empty_fraction" in row for row in logged)
