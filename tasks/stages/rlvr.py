"""Stage `rlvr`: one phase of RL with verifiable rewards; leaves model/, rollouts/ and metrics.jsonl."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.recipe.data import GateConfig
from components.recipe.rl import RlPhase
from components.rewards.types import Scorer
from components.telemetry.logs import here
from components.telemetry.trace import traced
from tasks.stage import StageConfig
from tasks.stages.rewards import open_rewards

log = logging.getLogger(__name__)


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """inputs: model (checkpoint), data (clean corpus)."""
    phase: RlPhase = config.section
    parts = [(phase.domains, 1.0 - phase.rehearsal), (phase.rehearsed_domains, phase.rehearsal)]
    return run_phase(context, inputs, config, [(domains, share) for domains, share in parts if share > 0])


def run_phase(
    context: StageContext,
    inputs: Mapping[str, ArtifactRef],
    config: StageConfig,
    parts: Sequence[tuple[Sequence[str], float]],
    open_ended: Callable[[Any, Any], Scorer] | None = None,
) -> StageResult:
    """What RLVR and RLHF share.

    parts: (domains, share of each step's prompts).
    open_ended: (learners, tokenizer) -> the trained reward model as a scorer, where the stage has one.
    """
    from components.model.spec import spec_for
    from components.model.tokenizer import contract, decode_response, load_tokenizer
    from components.rl.controller import train_rl
    from components.rl.ledger import PromptMixture
    from components.rl.prompts import load_prompts
    from components.rl.traces import Traces
    from components.rollout.group import warm_engines
    from components.rollout.placement import TurnTaking
    from components.training.group import LearnerGroup, borrow_learners

    phase, model, execution = config.section, config.model, context.execution
    spec, tokenizer = spec_for(model), load_tokenizer(model.tokenizer)
    domains = [domain for part, share in parts if share > 0 for domain in part]
    longest = spec.max_position_embeddings - phase.rollout.max_new_tokens
    prompts = load_prompts(context.fetch(inputs["data"], "data/rl.jsonl"), tokenizer, domains, longest)
    mixture = PromptMixture(
        [([i for i, prompt in enumerate(prompts) if prompt.domain in part], share) for part, share in parts],
        context.seed,
        phase.prompt_filter,
    )
    start = context.locate(inputs["model"], "model")
    with ExitStack() as held:
        engines = warm_engines(model, phase.rollout.engine_dtype, execution, phase.rollout.routing_replay)
        learners = held.enter_context(borrow_learners(model, execution))
        learners.load_hf(start)
        learners.configure(phase.optimiser, phase.steps * phase.minibatches, expert_bias_rate=0.0)
        turns = None
        if execution.placement == "colocated":
            turns = TurnTaking(engines, learners)
            engines, learners = turns.engines, turns.learners
            held.callback(turns.close)
        reference = None
        if phase.loss.kl_coefficient > 0:
            frozen = LearnerGroup(model, execution, seed=0)
            held.callback(frozen.close)
            frozen.load_hf(start)
            reference = partial(_logprobs, frozen)
        trained = open_ended(learners, tokenizer) if open_ended else None
        scorer = open_rewards(context, phase, held, trained)
        summary = train_rl(
            context,
            learners,
            engines,
            scorer,
            prompts,
            mixture,
            phase,
            decode=partial(decode_response, tokenizer),
            stop_token_ids=(tokenizer.eos_token_id,),
            reference=reference,
            traces=Traces(held.enter_context(traced()), {"ringflow.stage": context.node, **_run_of()}),
        )
        context.outbox.add("model", learners.write_hf(context.outbox.place("model"), model.tokenizer))
    findings = gate_rollouts(context, config.gates)
    return StageResult(
        summary={
            "steps": summary.steps,
            "reward_first": round(summary.reward_first, 4),
            "reward_last": round(summary.reward_last, 4),
            "prompts": len(prompts),
            "guard_warnings": len(summary.warnings),
            "reward_alarms": summary.alarms,
            **{f"retired_{why}": count for why, count in sorted(summary.retired.items())},
            **(turns.turns.summary() if turns is not None else {}),
            "gate_findings": findings,
            **{f"groups_{outcome}": count for outcome, count in sorted(summary.outcomes.items())},
        },
        contract=contract(tokenizer, spec),
    )


def gate_rollouts(context: StageContext, gates: GateConfig) -> int:
    """Validates the rollouts kept as evidence, with the error rate of all rewards; the number of findings.

    They are shown and do not stop: the loop masked what had no reward, and its guard stops a run while it goes.
    """
    from components.data.gate_tables import rollout_table
    from components.data.gates import run_gates
    from components.data.statistics import repetition
    from components.data.suites import suite

    paths = sorted((context.output / "rollouts").glob("step-*.jsonl"))
    rollouts = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    steps = [json.loads(line) for line in (context.output / "metrics.jsonl").read_text().splitlines()]
    shares = [step["reward/error_fraction"] for step in steps if "reward/error_fraction" in step]
    table = rollout_table(rollouts, sum(shares) / max(1, len(shares)), repetition)
    report = run_gates({"rollouts": (suite("rollouts", gates), table)}, context.output / "gates")
    for name, page in report.pages.items():
        context.attach(page, f"gates/{name}{page.suffix}")
    for finding in report.findings:
        log.warning("%s: %s", context.node, finding)
    return len(report.findings)


def _run_of() -> dict[str, str]:
    place = here()
    return {} if place is None else {"ringflow.run": place.run}


def _logprobs(learners: Any, sequences: Sequence[Any]) -> list[Any]:
    return [logprobs for logprobs, _ in learners.logprobs(sequences)]
