"""Stage `rlvr` on a real megatron learner and a real vLLM engine, whose processes are killed in mid-step.

`python -m tests.faults.training DIRECTORY` prints one JSON line per fault. It is a process of its own, because the last
fault takes its Ray with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from components.artifacts.local import LocalContext
from components.cluster.warm import release_all
from components.data.generator import generate
from components.data.jsonl import write_corpus
from components.recipe.data import GeneratorSource
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.rl import RlPhase, RolloutConfig
from components.recipe.training import OptimiserConfig
from components.rewards import scorer
from components.rewards.types import Reward
from components.rollout.group import EngineGroup
from components.training.group import LearnerGroup, borrow_learners
from tasks.outcome import classify, retryable
from tasks.stage import StageConfig
from tasks.stages.rlvr import run as rlvr

MODEL = ModelConfig(preset="smoke")
EXECUTION = ExecutionConfig(engines=1, learners=1, max_num_seqs=32, start_deadline_s=400, step_deadline_s=120)
PHASE = RlPhase(
    name="math-logic",
    domains=("math", "logic"),
    steps=3,
    minibatches=2,
    checkpoint_every=1,
    rollout=RolloutConfig(prompts_per_step=8, group_size=4, max_new_tokens=48),
    optimiser=OptimiserConfig(lr=3e-4),
)


class LetterScorer:
    """Rewards the share of one letter: a random model answers no problem, and without signal there is no update."""

    def score(self, requests, deadline_s):
        return [Reward(r.response.count("a") / max(len(r.response), 1), "scored") for r in requests]

    def close(self) -> None:
        pass


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def main(root: Path) -> None:
    made = {name: LocalContext(root / name, name, execution=EXECUTION, quiet=True) for name in ("model", "data")}
    with borrow_learners(MODEL, EXECUTION) as learners:
        learners.initialise(1)
        learners.write_hf(made["model"].outbox.place("model"), "nano")
    corpus = generate(GeneratorSource(pretrain=1, sft=1, rl=60, preference=8, benchmark=8), 0)
    write_corpus(made["data"].output, {"rl": corpus.rl}, {})
    inputs = {"model": made["model"].ref("checkpoint"), "data": made["data"].ref("clean-corpus")}

    scorer.open_scorer = lambda *arguments, **named: LetterScorer()

    def stage(name: str) -> str:
        context = LocalContext(root / name, "rlvr-1", 3, EXECUTION, quiet=True)
        rlvr(context, inputs, StageConfig(PHASE, MODEL))
        weights = (context.output / "model" / "model.safetensors").read_bytes()
        steps = [step for step, _ in context.series("reward/mean")]
        assert steps == [0, 1, 2], steps
        assert all(value > 0 for _, value in context.series("groups/trained")), "nothing was trained"
        return hashlib.sha256(weights).hexdigest()

    say(fault="none", digest=stage("whole"))
    for name, owner, method, call, victim in (
        ("engine", EngineGroup, "stream", 2, lambda group: group.workers),
        ("learner", LearnerGroup, "policy_step", 4, lambda group: group._workers),
    ):
        restore = kill_during(owner, method, call, lambda group, victim=victim: pids(victim(group)))
        began = time.monotonic()
        try:
            stage(name)
            say(fault=name, error="", message="nothing happened")
            continue
        except Exception as error:
            found = classify(error)
            say(
                fault=name,
                error=type(found).__name__,
                again=retryable(found),
                message=str(found)[:2000],
                seconds=time.monotonic() - began,
                resumes_from=LocalContext(root / name, "rlvr-1", quiet=True).resume.latest().step,
            )
        finally:
            restore()
        say(fault=f"{name} retried", digest=stage(name))
    kill_during(LearnerGroup, "policy_step", 4, lambda group: head())
    began = time.monotonic()
    try:
        stage("head")
        say(fault="head", error="", message="nothing happened")
    except BaseException as error:
        found = classify(error)
        say(fault="head", error=type(found).__name__, message=str(found)[:2000], seconds=time.monotonic() - began)
        os._exit(0)
    release_all()


def pids(workers) -> list[int]:
    return [about["pid"] for about in workers._about]


def head() -> list[int]:
    """Ray's own servers below this process, not the actors."""
    names = ("gcs_server", "raylet")
    return [child.pid for child in psutil.Process().children(recursive=True) if child.name() in names]


def kill_during(owner: type, method: str, call: int, victims: Callable[[object], list[int]]) -> Callable[[], None]:
    """kill -9 of processes while that call of owner.method is under way. Returns what takes the trap away."""
    real, seen = getattr(owner, method), []

    def trapped(self, *arguments, **named):
        seen.append(1)
        if len(seen) == call:
            found = victims(self)
            assert found, "nobody to kill"
            threading.Timer(0.05, lambda: [os.kill(pid, signal.SIGKILL) for pid in found]).start()
        return real(self, *arguments, **named)

    setattr(owner, method, trapped)
    return lambda: setattr(owner, method, real)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
