"""The training loops of the stages on a real learner in this process: interruption, choice of checkpoint, gates."""

from __future__ import annotations

import json

import pytest
import torch

from components.artifacts.local import LocalContext
from components.data.schema import Message, PreferenceRecord, PretrainRecord, SftRecord
from components.failures import BadInput, Diverged
from components.model.hf import read_hf_directory
from components.model.tokenizer import load_tokenizer
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import PretrainConfig, RewardModelConfig, SftConfig, SftOptimiser
from components.training.group import LearnerGroup
from components.training.pretrain import train_base
from components.training.reward_model import train_reward_model
from components.training.sft import candidate_steps, select, train_sft

pytestmark = pytest.mark.engine

TOKENIZER = load_tokenizer("nano")
OPTIMISER = SftOptimiser(lr=5e-3, beta2=0.95, warmup_steps=2, weight_decay=0.01, schedule="constant")


class Killed(Exception):
    pass


class KilledContext(LocalContext):
    """Dies at the check before step `at`, as a killed process would."""

    def __init__(self, *args, at: int, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.left = at

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.fixture(scope="module")
def learners():
    return LearnerGroup(ModelConfig(preset="smoke"), ExecutionConfig(), seed=0, in_process=True)


@pytest.fixture(scope="module")
def base(learners, tmp_path_factory):
    context = LocalContext(tmp_path_factory.mktemp("base"), "base", seed=4, quiet=True)
    config = PretrainConfig(optimiser=OPTIMISER, steps=6, tokens_per_step=256, sequence_length=64)
    records = [PretrainRecord(id=str(i), source="test", text=f"{i}+{i}={2 * i}\n" * 3) for i in range(40)]
    summary = train_base(context, learners, records, config, TOKENIZER, "nano")
    assert summary["steps"] == 6
    assert [step for step, _ in context.series("loss")] == [1, 6]
    return context.output / "model"


def sft_records(count: int) -> list[SftRecord]:
    return [
        SftRecord(
            id=str(i),
            source="test",
            domain="math",
            family="sum",
            prompt=(Message(role="user", content=f"{i % 3}?"),),
            response=f"<think>{'abc'[i % 3]}</think>\\boxed{{{i % 3}}}",
        )
        for i in range(count)
    ]


def weights(directory):
    return dict(read_hf_directory(directory)[1])


def test_sft_overfits_and_an_interrupted_run_ends_bitwise_the_same(learners, base, tmp_path):
    config = SftConfig(
        optimiser=OPTIMISER, steps=30, tokens_per_step=128, sequence_length=32, checkpoints=3, checkpoint_every=8
    )
    arguments = (learners, sft_records(60), config, TOKENIZER, "nano", base)
    whole = LocalContext(tmp_path / "whole", "sft", seed=2, quiet=True)
    summary = train_sft(whole, *arguments)
    assert summary["held_out_loss"] < 0.3
    assert summary["chosen_step"] in (10, 20, 30)
    selection = json.loads((whole.output / "selection.json").read_text())
    assert [candidate["step"] for candidate in selection["candidates"]] == [10, 20, 30]
    assert selection["reason"] == summary["selection"]
    chosen = weights(whole.output / "candidates" / str(summary["chosen_step"]))
    assert all(torch.equal(value, chosen[name]) for name, value in weights(whole.output / "model").items())

    with pytest.raises(Killed):
        train_sft(KilledContext(tmp_path / "cut", "sft", seed=2, quiet=True, at=20), *arguments)
    again = LocalContext(tmp_path / "cut", "sft", seed=2, quiet=True)
    assert again.resume.latest().step == 16
    assert train_sft(again, *arguments) == summary
    last = weights(whole.output / "candidates" / "30")
    assert all(torch.equal(v, last[n]) for n, v in weights(again.output / "candidates" / "30").items())
    assert (again.output / "candidates" / "10" / "model.safetensors").is_file()


def test_the_reward_model_is_gated_by_held_out_accuracy(learners, base, tmp_path):
    def records(first: int, count: int, flipped: bool = False) -> list[PreferenceRecord]:
        pairs = []
        for i in range(first, first + count):
            answers = (f"yes {i}", f"no {i}")
            chosen, rejected = answers[::-1] if flipped else answers
            prompt = (Message(role="user", content=str(i)),)
            pairs.append(PreferenceRecord(id=str(i), source="t", prompt=prompt, chosen=chosen, rejected=rejected))
        return pairs

    config = RewardModelConfig(optimiser=OPTIMISER, steps=12, pairs_per_step=8, sequence_length=64)
    context = LocalContext(tmp_path / "good", "reward-model", quiet=True)
    data = (records(0, 40), records(40, 10))
    summary = train_reward_model(context, learners, *data, config, TOKENIZER, "nano", base)
    assert summary["accuracy"] >= 0.9
    assert (context.output / "head.safetensors").is_file()
    context = LocalContext(tmp_path / "bad", "reward-model", quiet=True)
    with pytest.raises(Diverged, match="held-out"):
        train_reward_model(
            context, learners, records(0, 40), records(40, 10, flipped=True), config, TOKENIZER, "nano", base
        )
    assert not (context.output / "head.safetensors").exists()


def test_records_that_do_not_fit_stop_the_stage(learners, base, tmp_path):
    config = SftConfig(optimiser=OPTIMISER, steps=2, tokens_per_step=64, sequence_length=16)
    context = LocalContext(tmp_path, "sft", quiet=True)
    long = [record.model_copy(update={"response": "9" * 20}) for record in sft_records(10)]
    with pytest.raises(BadInput, match="longer than 16 tokens"):
        train_sft(context, learners, long, config, TOKENIZER, "nano", base)


def test_the_entropy_rule():
    measured = {step: {"entropy": entropy, "loss": 1.0} for step, entropy in ((10, 0.9), (20, 0.45), (30, 0.31))}
    assert select(measured, 0.3, 0.5)["chosen"] == 30
    assert select({10: measured[10]}, 0.3, 0.5)["reason"].startswith("no candidate lies in [0.3, 0.5]")
    assert select(measured, 0.05, 0.1)["chosen"] == 30
    assert candidate_steps(700, 4) == [175, 350, 525, 700]
    assert candidate_steps(2, 4) == [1, 2]


def test_epochs_become_steps_and_without_rl_the_lowest_loss_is_taken(learners, base, tmp_path):
    config = SftConfig(
        optimiser=OPTIMISER, epochs=2, tokens_per_step=64, sequence_length=32, checkpoints=2, choose="loss"
    )
    context = LocalContext(tmp_path, "sft", 1, quiet=True)
    summary = train_sft(context, learners, sft_records(30), config, TOKENIZER, "nano", base)
    assert summary["tokens"] / summary["steps"] <= 64
    assert summary["documents"] > 20
    assert summary["steps"] >= 2
    selection = json.loads((context.output / "selection.json").read_text())
    losses = {candidate["step"]: candidate["loss"] for candidate in selection["candidates"]}
    assert losses[selection["chosen"]] == min(losses.values())
