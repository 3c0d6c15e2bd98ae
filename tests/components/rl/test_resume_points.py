"""RL killed at the places where most is in flight, on a real trainer and a real vLLM engine: bit for bit, or stopped.

Synchronous and C3PO++ (with partial rollouts): between the minibatches of a step, after the update before the weights
reach the engine, with a checkpoint half written. And a policy that is not the saved one stops before its first update.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from components.artifacts.local import LocalResume
from components.failures import IntegrityError
from components.recipe.rl import RolloutConfig
from components.rl.journal import Journal
from components.training.group import LearnerGroup
from tests.components.rl.test_controller import (
    LocalEngines,
    engine,  # noqa: F401  (a fixture)
    phase,
    tokenizer,  # noqa: F401
    train,
)
from tests.components.rl.test_rollout_modes import C3PO, SLOW, Uneven

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]
SIZES = {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 12}
CONFIGS = {
    "synchronous": phase(rollout=RolloutConfig(**SIZES), minibatches=2, checkpoint_every=2),
    "c3po++": phase(rollout=C3PO, optimiser=SLOW, minibatches=2, checkpoint_every=2),
}
STAYS = ("metrics.jsonl", "rollouts/step-000000.jsonl", "rollouts/step-000002.jsonl")


class Killed(BaseException):
    """Like a signal: nothing catches it."""


def engines_for(mode: str, engine) -> LocalEngines:  # noqa: F811
    return (Uneven if mode == "c3po++" else LocalEngines)(engine)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer, engine):  # noqa: F811
    """mode -> (metrics of the tracker, output files, summary, digest of the weights) of undisturbed runs."""
    found = {}
    for mode, config in CONFIGS.items():
        context, summary, digest = train(tmp_path_factory.mktemp("whole"), tokenizer, engines_for(mode, engine), config)
        found[mode] = (logged(context), [(context.output / name).read_text() for name in STAYS], summary, digest)
    return found


def logged(context) -> list[tuple[int, str, float]]:
    """Every point of the tracker but times, each (step, name) once."""
    points = [(s, n, v) for s, values in context.history for n, v in values.items() if not n.startswith("time/")]
    points = [point for point in points if point[1] != "rollout/tokens_per_s"]
    assert len({(step, name) for step, name, _ in points}) == len(points)
    return sorted(points)


def die_after(monkeypatch, owner, name: str, calls: int, before: bool = False) -> None:
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
    "between the minibatches of step 2": lambda m: die_after(m, LearnerGroup, "policy_step", 5),
    "updated, the engine still on older weights": lambda m: die_after(m, LocalEngines, "publish", 5, before=True),
    "the second checkpoint's files half written": lambda m: die_after(m, LearnerGroup, "save_resume", 1),
    "step 3 recorded, nothing saved": lambda m: die_after(m, Journal, "record", 4),
    "the checkpoint written, step 2 not begun": lambda m: die_after(m, LocalResume, "save", 1),
}


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("mode", CONFIGS)
def test_killed_anywhere_it_ends_bit_for_bit(mode, kill, whole, tmp_path, tokenizer, engine, monkeypatch):  # noqa: F811
    KILLS[kill](monkeypatch)
    with pytest.raises(Killed):
        train(tmp_path, tokenizer, engines_for(mode, engine), CONFIGS[mode])
    monkeypatch.undo()
    for leftover in ("output", "scratch"):  # another machine: only resume points and the tracker survive
        shutil.rmtree(tmp_path / leftover)
    again, summary, digest = train(tmp_path, tokenizer, engines_for(mode, engine), CONFIGS[mode])
    points, files, undisturbed, weights = whole[mode]
    assert digest == weights
    assert summary == undisturbed
    assert [(again.output / name).read_text() for name in STAYS] == files
    assert logged(again) == points, "every step once, none missing"


def test_a_policy_that_is_not_the_saved_one_stops_before_its_first_update(tmp_path, tokenizer, engine, monkeypatch):  # noqa: F811
    die_after(monkeypatch, LearnerGroup, "policy_step", 5)
    with pytest.raises(Killed):
        train(tmp_path, tokenizer, LocalEngines(engine), CONFIGS["synchronous"])
    monkeypatch.undo()
    # What a peer did: weights of the start, everything else of the checkpoint.
    monkeypatch.setattr(LearnerGroup, "load_resume", lambda self, point: None)
    monkeypatch.setattr(LearnerGroup, "policy_step", lambda *_: pytest.fail("an update was made"))
    with pytest.raises(IntegrityError, match=r"stored probe batch differently: largest difference"):
        train(tmp_path, tokenizer, LocalEngines(engine), CONFIGS["synchronous"])


def test_the_probe_is_small_and_repeats_itself(tmp_path, tokenizer, engine):  # noqa: F811
    train(tmp_path, tokenizer, LocalEngines(engine), phase(checkpoint_every=2))
    [stored] = (tmp_path / "resume").rglob("probe.npz")
    with np.load(stored) as probe:
        assert len(probe["answers"]) == len(probe["tokens"]) - len(probe["lengths"])
    assert stored.stat().st_size < 10_000
    assert json.loads((stored.parent.parent / "point.json").read_text())["step"] == 2
