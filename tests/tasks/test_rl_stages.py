"""Stages `rlvr` and `rlhf` on real parts: Ray, a megatron learner, a vLLM engine, rule rewards and a reward model."""

from __future__ import annotations

import json

import pytest

from components.artifacts.local import LocalContext
from components.cluster.warm import release_all
from components.data.generator import generate
from components.data.jsonl import write_corpus
from components.data.schema import RlRecord
from components.failures import BadInput
from components.model.hf import read_hf_directory, tensor_shapes
from components.recipe.data import GeneratorSource
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.rl import IcePopLoss, RlhfConfig, RlPhase, RolloutConfig
from components.recipe.training import OptimiserConfig
from components.training.group import LearnerGroup
from tasks.stage import StageConfig
from tasks.stages.rlhf import run as rlhf
from tasks.stages.rlvr import run as rlvr

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]
MODEL = ModelConfig(preset="smoke")
EXECUTION = ExecutionConfig(engines=1, learners=1, max_num_seqs=32, start_deadline_s=600)
ROLLOUT = RolloutConfig(prompts_per_step=4, group_size=4, max_new_tokens=24)
OPTIMISER = OptimiserConfig(lr=3e-4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A random checkpoint, a random reward model, and RL prompts of every domain."""
    root = tmp_path_factory.mktemp("artifacts")
    contexts = {
        name: LocalContext(root / name, name, execution=EXECUTION, quiet=True) for name in ("model", "reward", "data")
    }
    learner = LearnerGroup(MODEL, EXECUTION, seed=0, in_process=True)
    learner.initialise(1)
    learner.write_hf(contexts["model"].outbox.place("model"), "nano")
    learner.configure(OPTIMISER, 1, 0.0, reward_head=True)
    learner.write_reward(contexts["reward"].outbox.place(), "nano")
    corpus = generate(GeneratorSource(pretrain=1, sft=1, rl=60, preference=8, benchmark=8), 0)
    write_corpus(contexts["data"].output, {"rl": corpus.rl}, {})
    kinds = {"model": "checkpoint", "reward": "reward-model", "data": "clean-corpus"}
    yield root, {name: context.ref(kinds[name]) for name, context in contexts.items()}
    release_all()


def test_rlvr_leaves_a_model_metrics_and_rollouts(inputs):
    root, refs = inputs
    context = LocalContext(root / "rlvr-1", "rlvr-1", 3, EXECUTION, quiet=True)
    phase = RlPhase(
        name="math-logic",
        domains=("math", "logic"),
        rehearsed_domains=("code",),
        rehearsal=0.25,
        steps=2,
        rollout=ROLLOUT,
        optimiser=OPTIMISER,
        loss=IcePopLoss(kl_coefficient=0.01),
        checkpoint_every=1,
    )
    result = rlvr(context, refs, StageConfig(phase, MODEL))
    spec, tensors = read_hf_directory(context.output / "model")
    assert {name for name, _ in tensors} == set(tensor_shapes(spec))
    lines = [json.loads(line) for line in (context.output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert all(line["reward/error_fraction"] == 0 for line in lines)
    evidence = [json.loads(line) for line in (context.output / "rollouts/step-000001.jsonl").open()]
    assert len(evidence) == 16
    codes = [record for record in evidence if "g:" in record["prompt"]]  # the family `fold` of code
    assert len(codes) == 4, "one prompt of four, with its group of four"
    assert result.summary["steps"] == 2
    assert sum(value for key, value in result.summary.items() if key.startswith("groups_")) == 8
    assert result.contract is not None


def test_rlhf_mixes_reward_model_and_rules(inputs):
    root, refs = inputs
    context = LocalContext(root / "rlhf", "rlhf", 3, EXECUTION, quiet=True)
    phase = RlhfConfig(steps=1, rollout=ROLLOUT, optimiser=OPTIMISER, verifiable_fraction=0.5)
    rlhf(context, refs, StageConfig(phase, MODEL))
    evidence = [json.loads(line) for line in (context.output / "rollouts/step-000000.jsonl").open()]
    by_judge = {"reward_model" in record["reward"]["evidence"] for record in evidence}
    assert by_judge == {True, False}
    assert "rubric" not in json.dumps(evidence)


def test_a_domain_without_prompts_is_named(inputs, tmp_path):
    _, refs = inputs
    data = LocalContext(tmp_path / "data", "data", execution=EXECUTION, quiet=True)
    corpus = generate(GeneratorSource(pretrain=1, sft=1, rl=60, preference=8, benchmark=8), 0)
    only_math: list[RlRecord] = [record for record in corpus.rl if record.domain == "math"]
    write_corpus(data.output, {"rl": only_math}, {})
    context = LocalContext(tmp_path / "rlvr-2", "rlvr-2", 3, EXECUTION, quiet=True)
    phase = RlPhase(name="code", domains=("code",), steps=1, rollout=ROLLOUT, optimiser=OPTIMISER)
    with pytest.raises(BadInput, match=r"rl.jsonl: no prompt of domain code"):
        rlvr(context, {**refs, "data": data.ref("clean-corpus")}, StageConfig(phase, MODEL))
