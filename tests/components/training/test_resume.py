"""Pre-training, SFT and reward model, killed anywhere, end bit for bit like runs that were not, or say why not.

A kill is an exception no code catches, at the places where a killed process leaves most behind: between checkpoints,
inside a step when the weights have moved, while a resume point is written. Only resume points survive it.
"""

from __future__ import annotations

import random
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from components.artifacts.digest import tree
from components.artifacts.folder import Folder
from components.artifacts.local import LocalContext, LocalResume
from components.artifacts.objects import DirectoryObjects
from components.artifacts.outbox import Outbox
from components.data.schema import Message, PreferenceRecord, PretrainRecord
from components.failures import Diverged, IntegrityError
from components.model.tokenizer import load_tokenizer
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import PretrainConfig, RewardModelConfig, SftConfig, SftOptimiser
from components.training.group import LearnerGroup
from components.training.pretrain import train_base
from components.training.reward_model import train_reward_model
from components.training.sft import train_sft
from tests.components.training.test_loops import sft_records

pytestmark = pytest.mark.engine

TOKENIZER = load_tokenizer("nano")
OPTIMISER = SftOptimiser(lr=5e-3, beta2=0.95, warmup_steps=2, weight_decay=0.01, schedule="constant")
STEPS, EVERY = 9, 3
STAGES = ("base", "sft", "reward-model")
STEP_OF = {"base": "train_tokens", "sft": "train_tokens", "reward-model": "train_pairs"}


class Killed(BaseException):
    """Like a signal: nothing catches it."""


@pytest.fixture(scope="module")
def learners():
    return LearnerGroup(ModelConfig(preset="smoke"), ExecutionConfig(), seed=0, in_process=True)


@pytest.fixture(scope="module")
def start(learners, tmp_path_factory):
    """A random model that SFT and the reward model start from."""
    directory = tmp_path_factory.mktemp("start")
    learners.initialise(4)
    learners.write_hf(Folder.local(directory), "nano")
    return directory


@pytest.fixture(scope="module")
def train(learners, start) -> Callable:
    """train(stage, context) -> summary."""
    texts = [PretrainRecord(id=str(i), source="test", text=f"{i}+{i}={2 * i}\n" * 3) for i in range(40)]
    user = (Message(role="user", content="1?"),)
    pairs = [
        PreferenceRecord(id=str(i), source="t", prompt=user, chosen=f"yes {i}", rejected=f"no {i}") for i in range(50)
    ]
    common = {"optimiser": OPTIMISER, "steps": STEPS, "checkpoint_every": EVERY}

    def run(stage: str, context: LocalContext) -> dict:
        learners.initialise(99)  # whatever the last user left must not matter
        if stage == "base":
            config = PretrainConfig(**common, tokens_per_step=256, sequence_length=64)
            return train_base(context, learners, texts, config, TOKENIZER, "nano")
        if stage == "sft":
            config = SftConfig(**common, tokens_per_step=128, sequence_length=32, checkpoints=2)
            return train_sft(context, learners, sft_records(60), config, TOKENIZER, "nano", start)
        config = RewardModelConfig(**common, pairs_per_step=8, sequence_length=64, min_accuracy=0.0)
        return train_reward_model(context, learners, pairs[:40], pairs[40:], config, TOKENIZER, "nano", start)

    return run


def context_at(place, stage: str) -> LocalContext:
    """A new process on another machine: only resume points and the tracker survive."""
    shutil.rmtree(place / "output", ignore_errors=True)
    shutil.rmtree(place / "scratch", ignore_errors=True)
    attempt = f"attempts/{uuid.uuid4().hex}"
    return LocalContext(place, stage, seed=2, quiet=True, outbox=Outbox(DirectoryObjects(place), attempt))


def files(context: LocalContext) -> dict[str, bytes]:
    """Of the artifact: what was written, and what was sent, of other attempts too."""
    written = tree_bytes(context.output)
    sent = [each.file.path for each in context.outbox.settle()]
    found = tree_bytes(context.root / context.outbox.attempt / "files")
    assert sent == sorted(found)
    assert not sent or "model/config.json" in sent
    return written | found


def tree_bytes(directory: Path) -> dict[str, bytes]:
    return {path: (directory / path).read_bytes() for path in tree(directory)}


def points(context: LocalContext) -> list[tuple[int, str, float]]:
    """Everything logged except times."""
    timed = ("seconds", "tokens_per_second")
    return [(s, n, v) for s, values in context.history for n, v in values.items() if n not in timed]


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """stage -> (summary, files, metrics) of a run that nothing disturbed."""
    found = {}
    for stage in STAGES:
        context = context_at(tmp_path_factory.mktemp(stage), stage)
        summary = train(stage, context)
        found[stage] = (summary, files(context), points(context))
    return found


def die_after(monkeypatch, owner, name: str, calls: int, before: bool = False) -> None:
    """The process ends after (or before) that call of owner.name, whatever it did."""
    real, seen = getattr(owner, name), []

    def call(*arguments, **named):
        seen.append(1)
        if before and len(seen) == calls:
            raise Killed
        result = real(*arguments, **named)
        if len(seen) == calls:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, call)


KILLS = {
    "before anything was saved": lambda m, step: die_after(m, LearnerGroup, step, 2),
    "weights moved, the step not counted": lambda m, step: die_after(m, LearnerGroup, step, 5),
    "the last step done, nothing written": lambda m, step: die_after(m, LearnerGroup, step, STEPS),
    "files of a resume point written, the point not": lambda m, step: die_after(m, LearnerGroup, "save_resume", 2),
    "the point written, the next step not begun": lambda m, step: die_after(m, LocalResume, "save", 2),
}


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(stage, kill, train, whole, tmp_path, monkeypatch):
    KILLS[kill](monkeypatch, STEP_OF[stage])
    with pytest.raises(Killed):
        train(stage, context_at(tmp_path, stage))
    monkeypatch.undo()
    again = context_at(tmp_path, stage)
    summary, made, logged = whole[stage]
    assert train(stage, again) == summary
    assert files(again) == made
    assert sorted(points(again)) == sorted(logged), "every step once, none missing"


def broken(monkeypatch, stage: str, at: set[int], spoil: Callable[[LearnerGroup], None] = lambda learners: None):
    """The optimiser steps of these numbers (counted over the whole test) find NaN; `spoil` is what led there."""
    name, seen = STEP_OF[stage], []
    real = getattr(LearnerGroup, name)

    def step(self, *arguments):
        seen.append(1)
        if len(seen) in at:
            spoil(self)
            raise Diverged("update 4: loss nan, gradient norm nan; the weights were not changed")
        return real(self, *arguments)

    monkeypatch.setattr(LearnerGroup, name, step)


@pytest.mark.parametrize("stage", STAGES)
def test_nan_goes_back_to_the_last_good_checkpoint_once_and_leaves_the_batch_out(stage, train, tmp_path, monkeypatch):
    def spoil(learners: LearnerGroup) -> None:
        with torch.no_grad():
            learners._local.optimiser.master.fill_(float("nan"))

    broken(monkeypatch, stage, {5}, spoil)  # step 4; the point before it is 3
    context = context_at(tmp_path / "one", stage)
    train(stage, context)
    assert [step for step, _ in context.series("divergences")] == [5]
    monkeypatch.undo()

    # The same without step 4, and without any going back.
    def skip(self, *arguments):
        skip.seen += 1
        if skip.seen == 5:
            return {"loss": 1.0, "accuracy": 1.0, "entropy": 1.0, "tokens": 1, "seconds": 1.0}
        return real(self, *arguments)

    skip.seen, real = 0, getattr(LearnerGroup, STEP_OF[stage])
    monkeypatch.setattr(LearnerGroup, STEP_OF[stage], skip)
    other = context_at(tmp_path / "other", stage)
    train(stage, other)
    weights = "model/model.safetensors"
    assert files(context)[weights] == files(other)[weights]


def test_a_second_nan_stops_with_both_reasons_also_when_the_run_was_killed_in_between(train, tmp_path, monkeypatch):
    broken(monkeypatch, "base", {2, 6})
    with pytest.raises(Diverged, match=r"step 4: .* gone back once already: step 1: .* went back to step 0"):
        train("base", context_at(tmp_path / "one", "base"))
    monkeypatch.undo()
    broken(monkeypatch, "base", {2, 5})
    die_after(monkeypatch, LearnerGroup, "train_tokens", 3, before=True)
    with pytest.raises(Killed):
        train("base", context_at(tmp_path / "two", "base"))
    monkeypatch.undo()
    broken(monkeypatch, "base", {1})
    with pytest.raises(Diverged, match="gone back once already"):
        train("base", context_at(tmp_path / "two", "base"))


def forget_head(learners: LearnerGroup) -> None:
    learners._local.reward.head.data.zero_()


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [
        ("base", lambda learners: learners.initialise(4)),
        ("sft", lambda learners: learners._local.optimiser.master.mul_(1.001)),
        ("reward-model", forget_head),
    ],
    ids=["initial weights", "weights of a thousandth more", "a forgotten reward head"],
)
def test_a_model_that_is_not_the_saved_one_stops_before_its_first_update(stage, wrong, train, tmp_path, monkeypatch):
    die_after(monkeypatch, LearnerGroup, STEP_OF[stage], 8)
    with pytest.raises(Killed):
        train(stage, context_at(tmp_path, stage))
    monkeypatch.undo()
    real = LearnerGroup.load_resume

    def load(self, point):
        real(self, point)
        with torch.no_grad():
            wrong(self)

    monkeypatch.setattr(LearnerGroup, "load_resume", load)
    monkeypatch.setattr(LearnerGroup, STEP_OF[stage], lambda *_: pytest.fail("an update was made"))
    with pytest.raises(IntegrityError, match=r"step 6: after the resume the model answers its stored probe batch diff"):
        train(stage, context_at(tmp_path, stage))


def test_every_generator_of_every_rank_goes_on(learners, tmp_path):
    learners.initialise(1)
    learners.configure(OPTIMISER, 5, 0.0)
    area = LocalContext(tmp_path, "base").resume
    (tmp_path / "point").mkdir()
    area.save(1, tmp_path / "point", {}, learners.save_resume(tmp_path / "point", area.place(1)))
    drawn = torch.rand(3), np.random.rand(3), random.random(), random.gauss(0, 1)
    assert area.latest(learners.load_resume).step == 1
    again = torch.rand(3), np.random.rand(3), random.random(), random.gauss(0, 1)
    assert torch.equal(drawn[0], again[0])
    assert np.array_equal(drawn[1], again[1])
    assert drawn[2:] == again[2:]
