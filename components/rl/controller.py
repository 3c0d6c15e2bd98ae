"""The RL loop on one page: sample, score, select, old log-probs, guard, update, publish, checkpoint.

Where a step's groups come from is the collector's affair (components.rl.collect): drawn by the weights the step starts
from, carried over from earlier ones, or drawn while the learner updates. Every seed is derived from (stage seed, node,
step, prompt, member) and the ledger's order from (seed, epoch), so nothing but the resume point is needed to go on, and
a synchronous or C3PO++ run that was killed and resumed equals one that was not (bit for bit in float32 on CPU).

One log-prob is computed twice on purpose: the engine's, when it drew the token, and the trainer's, at the start of the
step with the weights then, which are the engine's unless the token was carried over. Their difference is the
train-inference mismatch that the loss corrects (IcePop) and the guard watches; taking the one for the other hides it.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from components.artifacts.context import StageContext
from components.failures import BadInput, Diverged
from components.recipe.rl import RlPhase
from components.rewards.monitor import alarms, monitor
from components.rewards.types import Reward, RewardRequest, Scorer
from components.rl.batch import Group, Prompt, policy_sequences, rollout_metrics, select, token_sequence
from components.rl.collect import Collector, Engines, Sources, Stopwatch, staleness_metrics
from components.rl.evidence import count_alarms, keep_rewards, note_alarms, sample_groups
from components.rl.guard import Guard, Verdict
from components.rl.ledger import PromptMixture
from components.rl.mismatch import mismatch_report, update_report
from components.rl.objective import objective_of
from components.rl.partial import open_collector
from components.rollout.types import Sampling
from components.training.probe import Probe, logprob_answer
from components.training.types import PolicyLoss, PolicySequence
from components.training.types import Sequence as TokenSequence

log = logging.getLogger(__name__)


class Learners(Protocol):
    """What the loop needs of the trainer (components.training.group.LearnerGroup)."""

    def logprobs(self, sequences: Sequence[TokenSequence]) -> list[tuple[np.ndarray, np.ndarray]]: ...

    def policy_step(self, sequences: Sequence[PolicySequence], loss: PolicyLoss) -> dict[str, float]: ...

    def weights(self) -> Mapping[str, np.ndarray]: ...

    def save_resume(self, directory: Path) -> None: ...

    def load_resume(self, directory: Path) -> None: ...


@dataclass
class RlSummary:
    """steps: trained. first and last: mean reward over the first and the last tenth of the steps (at least one).

    warnings: the guard's. alarms: of the reward monitors.
    """

    steps: int
    reward_first: float
    reward_last: float
    outcomes: dict[str, int]
    warnings: list[str] = field(default_factory=list)
    alarms: int = 0


def train_rl(
    context: StageContext,
    learners: Learners,
    engines: Engines,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    mixture: PromptMixture,
    config: RlPhase,
    decode: Callable[[list[int]], str],
    stop_token_ids: tuple[int, ...],
    reference: Callable[[Sequence[TokenSequence]], list[np.ndarray]] | None = None,
) -> RlSummary:
    """Trains the learners' model for `config.steps` steps, going on from the stage's resume point if there is one.

    Args:
        learners: hold the starting model with an optimiser made for `config.optimiser`.
        prompts: what `mixture` deals indices of.
        decode: token ids of a response -> text without the end-of-turn token.
        reference: log-probs of the reference policy; needed exactly when the KL coefficient is positive.
    Raises:
        Diverged: the guard stopped the run; the message is its diagnosis.
        BadInput: a KL coefficient without a reference; a sampling distribution the trainer does not compute.
    """
    if (config.rollout.temperature, config.rollout.top_p) != (1.0, 1.0):
        raise BadInput(
            "RL samples at temperature 1 and top_p 1: the trainer's log-probs are those of the full distribution",
            where=f"{config.name}.rollout",
            remedy="Remove temperature and top_p",
        )
    if config.loss.kl_coefficient > 0 and reference is None:
        raise BadInput("a KL coefficient needs a reference policy", where=f"{config.name}.loss.kl_coefficient")
    objective, guard = objective_of(config.loss, config.rollout.max_new_tokens), Guard(config.guard)
    probe = Probe([prompt.tokens for prompt in prompts], logprob_answer(learners), context.execution.device)
    journal = Journal(context, probe)
    rollout = config.rollout
    sampling = Sampling(rollout.temperature, rollout.top_p, rollout.max_new_tokens, stop_token_ids)
    sources = Sources(context, engines, scorer, prompts, mixture, config, sampling, decode)
    collector = open_collector(sources)
    start, version = 0, 0
    if (point := context.resume.latest()) is not None:
        start, version = point.step, point.state["version"]
        mixture.load_state_dict(point.state["ledger"])
        guard.load_state_dict(point.state["guard"])
        learners.load_resume((point.path / "learner").absolute())
        journal.restore(point.path, point.state["warnings"])
        collector.restore(point.path)
    engines.publish(version, learners.weights())

    for step in range(start, config.steps):
        context.check()
        clock, started = Stopwatch(), time.monotonic()
        groups = collector.collect(step, clock)
        selection = select(groups, collector.wanted(groups), objective.advantages, objective.token_budget)
        metrics = rollout_metrics(groups, selection, lambda index: prompts[index].domain) | collector.metrics()
        samples = [sample for sample, _ in selection.trained]
        metrics |= (watched := monitor(scored_requests(sources, groups)))
        journal.alarms(step, alarms(watched, config.rewards.monitors))

        with collector.decoding():
            with clock("old_logprobs"):
                sequences = [token_sequence(sample) for sample in samples]
                old = [logprobs for logprobs, _ in learners.logprobs(sequences)] if sequences else []
                references = reference(sequences) if reference is not None and sequences else None
            if sequences:
                behaviour = np.concatenate([sample.logprobs for sample in samples])
                metrics |= mismatch_report(np.concatenate(old), behaviour, objective.correction)
                metrics |= staleness_metrics(samples, version, np.concatenate(old), behaviour)
            journal.judge(step, guard.observe(metrics), metrics)

            with clock("update"):
                minibatches = policy_sequences(selection, old, references, config.minibatches, objective.divisor)
                updates = [learners.policy_step(minibatch, objective.loss) for minibatch in minibatches]
            metrics |= summarise(updates)
            journal.judge(step, guard.observe_update(metrics), metrics)
        with clock("exchange"):
            if updates:
                version += 1
                engines.publish(version, learners.weights())
        for prompt, outcome in selection.outcomes:
            mixture.settle(prompt, outcome)
        mixture.check()

        journal.evidence(step, groups, prompts, decode, every=config.checkpoint_every)
        metrics |= {"ledger/epoch": mixture.epoch, "policy/version": float(version)}
        journal.record(step, metrics)
        if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
            with clock("checkpoint"):
                journal.checkpoint(step + 1, learners, version, mixture, guard, collector)
        total = time.monotonic() - started
        context.metrics({f"time/{name}_s": seconds for name, seconds in clock.seconds.items()}, step)
        # What scoring adds to a step: it goes on while the engines decode, and this is the rest that is waited for.
        context.metrics({"time/reward_share": clock.seconds.get("reward", 0.0) / total}, step)
        context.metrics({"time/step_s": total, "rollout/tokens_per_s": metrics["rollout/tokens"] / total}, step)
        context.progress(step + 1, config.steps, f"reward {metrics.get('reward/mean', float('nan')):.3f}")
    return journal.summary(config.steps, mixture)


def scored_requests(sources: Sources, groups: Sequence[Group]) -> list[tuple[RewardRequest, Reward]]:
    """Every response of the step with what its scorer was asked and answered."""
    return [
        (sources.reward_request(group.prompt, sample), reward)
        for group in groups
        for sample, reward in zip(group.samples, group.rewards, strict=True)
    ]


def summarise(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a step from those of its optimiser updates (components.training.learner.Learner.policy_step)."""
    if not updates:
        return {}
    sums: dict[str, float] = {}
    maxima: dict[str, float] = {}
    for update in updates:
        for name, value in update.items():
            kind, _, key = name.partition("/")
            if kind == "sum":
                sums[key] = sums.get(key, 0.0) + value
            elif kind == "max":
                maxima[key] = max(maxima.get(key, value), value)
    return update_report(sums, maxima) | {
        "train/loss": float(np.mean([update["loss"] for update in updates])),
        "train/grad_norm": max(update["grad_norm"] for update in updates),
        "train/lr": updates[-1]["lr"],
        "train/expert_load_max": max(update["expert_load_max"] for update in updates),
    }


class Journal:
    """What a run writes down: metrics.jsonl, sample evidence, resume points. Kept in each resume point, so that the
    output of a resumed stage is that of an uninterrupted one."""

    def __init__(self, context: StageContext, probe: Probe) -> None:
        self.context, self.probe = context, probe
        self.file, self.rollouts = context.output / "metrics.jsonl", context.output / "rollouts"
        self.rewards: list[float] = []
        self.warnings: list[str] = []
        shutil.rmtree(self.rollouts, ignore_errors=True)
        self.rollouts.mkdir(parents=True)
        self.file.write_text("")

    def judge(self, step: int, verdict: Verdict, metrics: Mapping[str, float]) -> None:
        """Notes a warning; stops the run with the guard's diagnosis."""
        if verdict.action == "stop":
            self.context.metrics(dict(metrics), step)
            raise Diverged(f"{self.context.node} stopped at step {step}: {verdict.diagnosis}")
        if verdict.action == "warn":
            self.warnings.append(f"step {step}: {verdict.diagnosis}")
            log.warning("%s step %d: %s", self.context.node, step, verdict.diagnosis)

    def alarms(self, step: int, found: Sequence[str]) -> None:
        """Notes what the monitors of the rewards found; a person decides."""
        note_alarms(self.rollouts, step, found)
        for text in found:
            log.warning("%s step %d: reward monitor: %s", self.context.node, step, text)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        self.context.metrics(metrics, step)
        if "reward/mean" in metrics:
            self.rewards.append(metrics["reward/mean"])
        with self.file.open("a") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")

    def evidence(
        self,
        step: int,
        groups: Sequence[Group],
        prompts: Sequence[Prompt],
        decode: Callable[[list[int]], str],
        every: int,
    ) -> None:
        """Keeps every reward; puts the first groups of every `every`-th step into the tracker, in full."""
        keep_rewards(self.rollouts, step, groups, prompts, decode)
        if step % every == 0:
            path = sample_groups(self.rollouts, step, groups, prompts, decode)
            self.context.attach(path, f"rollouts/{path.name}")

    def checkpoint(
        self,
        step: int,
        learners: Learners,
        version: int,
        mixture: PromptMixture,
        guard: Guard,
        collector: Collector,
    ) -> None:
        """Saves everything the loop needs to go on at `step`."""
        directory = self.context.scratch / "resume"
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "learner").mkdir(parents=True)
        learners.save_resume((directory / "learner").absolute())
        self.probe.save(directory)
        collector.save(directory)
        shutil.copytree(self.rollouts, directory / "rollouts")
        shutil.copy(self.file, directory / "metrics.jsonl")
        state = {"version": version, "ledger": mixture.state_dict(), "guard": guard.state_dict()}
        self.context.resume.save(step, directory, state | {"warnings": self.warnings})
        shutil.rmtree(directory)

    def restore(self, path: Path, warnings: list[str]) -> None:
        """Takes over what was written before the resume point, once the restored policy proved to be the saved one."""
        self.probe.check(path, f"{self.context.node} {path.name}")
        self.warnings = list(warnings)
        shutil.copytree(path / "rollouts", self.rollouts, dirs_exist_ok=True)
        shutil.copy(path / "metrics.jsonl", self.file)
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        self.rewards = [line["reward/mean"] for line in lines if "reward/mean" in line]

    def summary(self, steps: int, mixture: PromptMixture) -> RlSummary:
        tenth = max(len(self.rewards) // 10, 1)
        return RlSummary(
            steps=steps,
            reward_first=float(np.mean(self.rewards[:tenth])) if self.rewards else float("nan"),
            reward_last=float(np.mean(self.rewards[-tenth:])) if self.rewards else float("nan"),
            outcomes=dict(mixture.outcomes),
            warnings=self.warnings,
            alarms=count_alarms(self.rollouts),
        )
