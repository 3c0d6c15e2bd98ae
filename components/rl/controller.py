"""The RL loop on one page: sample, score, select, old log-probs, guard, update, publish, checkpoint.

Where a step's groups come from is the collector's affair (components.rl.collect): drawn by the weights the step starts
from, carried over from earlier ones, or drawn while the learner updates. Every seed is derived from (stage seed, node,
step, prompt, member) and the ledger's order from (seed, epoch), so nothing but the resume point is needed to go on, and
a synchronous or C3PO++ run that was killed and resumed equals one that was not (bit for bit in float32 on CPU).

One log-prob is computed twice on purpose: the engine's, when it drew the token, and the trainer's, at the start of the
step with the weights then, which are the engine's unless the token was carried over. Their difference is the
train-inference mismatch that the loss corrects (IcePop) and the guard watches; taking the one for the other hides it.

The guard (components.rl.guard) decides, this loop acts. A rollback gives learner and engine the weights of the last
good checkpoint and leaves steps, prompts and versions where they are: the same batches would only fail again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np

from components.artifacts.context import ResumePoint, StageContext
from components.artifacts.folder import Folder
from components.failures import BadInput, Diverged
from components.recipe.rl import RlPhase
from components.rewards.monitor import alarms, monitor
from components.rewards.types import Scorer
from components.rl.batch import (
    Prompt,
    Selection,
    pass_rate,
    policy_sequences,
    rollout_metrics,
    select,
    token_sequence,
)
from components.rl.collect import Engines, Sources, Stopwatch, staleness_metrics
from components.rl.guard import Guard, Verdict
from components.rl.journal import Journal, RlSummary
from components.rl.ledger import PromptMixture
from components.rl.mismatch import mismatch_report, surprise_report, update_report
from components.rl.objective import Objective, objective_of
from components.rl.partial import open_collector
from components.rl.resync import resync
from components.rl.traces import Traces
from components.rollout.types import Sample, Sampling
from components.training.probe import Probe, logprob_answer
from components.training.types import PolicyLoss, PolicySequence
from components.training.types import Sequence as TokenSequence


class Learners(Protocol):
    """What the loop needs of the trainer (components.training.group.LearnerGroup)."""

    def logprobs(self, sequences: Sequence[TokenSequence]) -> list[tuple[np.ndarray, np.ndarray]]: ...

    def policy_step(self, sequences: Sequence[PolicySequence], loss: PolicyLoss) -> dict[str, float]: ...

    def weights(self) -> Mapping[str, np.ndarray]: ...

    def save_resume(self, directory: Path, place: Folder) -> Folder: ...

    def load_resume(self, point: ResumePoint) -> None: ...


Reference = Callable[[Sequence[TokenSequence]], list[np.ndarray]]


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
    reference: Reference | None = None,
    traces: Traces | None = None,
) -> RlSummary:
    """Trains the learners' model for `config.steps` steps, going on from the stage's resume point if there is one.

    Args:
        learners: hold the starting model with an optimiser made for `config.optimiser`.
        prompts: what `mixture` deals indices of.
        decode: token ids of a response -> text without the end-of-turn token.
        reference: log-probs of the reference policy; needed exactly when the KL coefficient is positive.
        traces: where some prompts' ways through the steps are written.
    Raises:
        Diverged: the guard stopped the run; the message is its diagnosis.
        BadInput: a KL coefficient without a reference; a sampling distribution the trainer does not compute.
    """
    rollout = config.rollout
    if (rollout.temperature, rollout.top_p) != (1.0, 1.0):
        raise BadInput(
            "RL samples at temperature 1 and top_p 1: the trainer's log-probs are those of the full distribution",
            where=f"{config.name}.rollout",
            remedy="Remove temperature and top_p",
        )
    if config.loss.kl_coefficient > 0 and reference is None:
        raise BadInput("a KL coefficient needs a reference policy", where=f"{config.name}.loss.kl_coefficient")
    objective, guard = objective_of(config.loss, rollout.max_new_tokens), Guard(config.guard, rollout.engine_dtype)
    probe = Probe([prompt.tokens for prompt in prompts], logprob_answer(learners), context.execution.device)
    journal = Journal(context, probe)
    sampling = Sampling(rollout.temperature, rollout.top_p, rollout.max_new_tokens, stop_token_ids)
    sources = Sources(context, engines, scorer, prompts, mixture, config, sampling, decode, traces or Traces(None))
    collector = open_collector(sources)
    start, version, due = 0, 0, False
    if (point := context.resume.latest(learners.load_resume)) is not None:
        start, version = point.step, point.state["version"]
        mixture.load_state_dict(point.state["ledger"])
        guard.load_state_dict(point.state["guard"])
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
        metrics |= (watched := monitor(sources.scored(groups)))
        journal.alarms(step, alarms(watched, config.rewards.monitors))

        with ExitStack() as decoding:
            decoding.enter_context(collector.decoding())
            with clock("old_logprobs"):
                old, references, compared = compare(samples, version, learners, objective, reference)
            metrics |= compared
            verdict = guard.observe(metrics)
            if verdict.action == "resync":
                journal.note(step, verdict)
                decoding.close()
                with clock("resync"):
                    found = resync(engines, version, learners.weights(), samples, old, guard.bound)
                    verdict = guard.observe_resync(metrics, found.remaining, found.loading)
                decoding.enter_context(collector.decoding())
            if verdict.action in ("ok", "warn"):
                journal.note(step, verdict)
                with clock("update"):
                    updates, verdict = update(learners, guard, selection, old, references, config, objective)
                metrics |= updates
        if verdict.action == "stop":
            raise journal.stop(step, verdict, metrics)
        journal.note(step, verdict)
        undone = verdict.action in ("discard", "rollback")
        if verdict.action == "rollback":
            with clock("rollback"):
                roll_back(context, step, verdict, learners, probe)
            guard.rolled_back()
        if undone:
            collector.discard()
        if verdict.action == "rollback" or (not undone and selection.trained):
            with clock("exchange"):
                version += 1
                engines.publish(version, learners.weights())
        for group, (prompt, outcome) in zip(groups, selection.outcomes, strict=True):
            mixture.settle(prompt, "discarded" if undone else outcome, None if undone else pass_rate(group))
        mixture.check()

        journal.evidence(step, groups, prompts, decode, every=config.checkpoint_every)
        metrics |= {"ledger/epoch": mixture.epoch, "policy/version": float(version)}
        metrics |= {f"ledger/retired_{why}": float(mixture.retired[why]) for why in ("always", "never")}
        metrics |= {"guard/resyncs": float(guard.resyncs), "guard/rollbacks": float(guard.rollbacks)}
        journal.record(step, metrics)
        due = due or (step + 1) % config.checkpoint_every == 0
        if due and guard.calm and not undone and step + 1 < config.steps:
            due = False
            with clock("checkpoint"):
                journal.checkpoint(step + 1, learners, version, mixture, guard, collector)
        total = time.monotonic() - started
        sources.traces.step(step, groups, prompts, clock.spans, selection, undone)
        context.metrics({f"time/{name}_s": seconds for name, seconds in clock.spent(total).items()}, step)
        # What scoring adds to a step: it goes on while the engines decode, and this is the rest that is waited for.
        context.metrics({"time/reward_share": clock.seconds.get("reward", 0.0) / total}, step)
        context.metrics({"time/step_s": total, "rollout/tokens_per_s": metrics["rollout/tokens"] / total}, step)
        context.progress(step + 1, config.steps, f"reward {metrics.get('reward/mean', float('nan')):.3f}")
    return journal.summary(config.steps, mixture)


def compare(
    samples: Sequence[Sample], version: int, learners: Learners, objective: Objective, reference: Reference | None
) -> tuple[list[np.ndarray], list[np.ndarray] | None, dict[str, float]]:
    """(old log-probs, reference log-probs, metrics of the mismatch); one [length] array per sample."""
    if not samples:
        return [], None, {}
    sequences = [token_sequence(sample) for sample in samples]
    scored = learners.logprobs(sequences)
    references = reference(sequences) if reference is not None else None
    old, behaviour = [logprobs for logprobs, _ in scored], np.concatenate([sample.logprobs for sample in samples])
    flat, entropies = np.concatenate(old), np.concatenate([entropy for _, entropy in scored])
    ages, staleness = staleness_metrics(samples, version, flat, behaviour)
    metrics = mismatch_report(flat, behaviour, objective.correction) | staleness
    return old, references, metrics | surprise_report(flat[ages == 0], entropies[ages == 0])


def update(
    learners: Learners,
    guard: Guard,
    selection: Selection,
    old: Sequence[np.ndarray],
    references: Sequence[np.ndarray] | None,
    config: RlPhase,
    objective: Objective,
) -> tuple[dict[str, float], Verdict]:
    """Trains on the step's minibatches; (metrics, the guard's verdict). What is not finite changes no weight."""
    minibatches = policy_sequences(selection, old, references, config.minibatches, objective.divisor)
    try:
        metrics = summarise([learners.policy_step(minibatch, objective.loss) for minibatch in minibatches])
    except Diverged as error:
        return {}, guard.diverged(str(error))
    return metrics, guard.observe_update(metrics)


def roll_back(context: StageContext, step: int, verdict: Verdict, learners: Learners, probe: Probe) -> None:
    """Gives the learners weights and optimiser of the last good checkpoint.

    Raises:
        Diverged: there is none.
        IntegrityError: what was loaded is not what was saved.
    """
    point = context.resume.latest(learners.load_resume)
    if point is None:
        raise Diverged(f"{context.node} stopped at step {step}: {verdict.diagnosis}; no checkpoint to go back to yet")
    probe.check(point.path, f"{context.node} step {step}, back to {point.step}")


def summarise(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a step from those of its optimiser updates (components.training.learner.Learner.policy_step)."""
    if not updates:
        return {}
    sums: dict[str, float] = {}
    maxima: dict[str, float] = {}
    for values in updates:
        for name, value in values.items():
            kind, _, key = name.partition("/")
            if kind == "sum":
                sums[key] = sums.get(key, 0.0) + value
            elif kind == "max":
                maxima[key] = max(maxima.get(key, value), value)
    return update_report(sums, maxima) | {
        "train/loss": float(np.mean([values["loss"] for values in updates])),
        "train/grad_norm": max(values["grad_norm"] for values in updates),
        "train/lr": updates[-1]["lr"],
        "train/expert_load_max": max(values["expert_load_max"] for values in updates),
    }
