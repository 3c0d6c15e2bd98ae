"""Opens the rewards of an RL phase: rules, reward model and judges as its `rewards` section mixes them. No stage."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from components.artifacts.context import StageContext
from components.failures import BadInput
from components.recipe.execution import ExecutionConfig, JudgeEndpoint
from components.recipe.rl import RlPhase

if TYPE_CHECKING:
    from components.rewards.judge import Judge
    from components.rewards.types import Scorer

JUDGE_URL = "RINGFLOW_JUDGE_URL"
# Below the rollouts, which resume points carry: the record of a resumed stage is whole.
RECORD = "rollouts/judge.jsonl"


def open_rewards(context: StageContext, phase: RlPhase, held: ExitStack, open_ended: Scorer | None = None) -> Scorer:
    """The phase's scorer; what it opens is closed with `held`.

    Args:
        open_ended: the trained reward model, where the stage has one.
    Raises:
        BadInput: a judge without an endpoint, or a reward model where there is none.
    """
    from components.rewards.mixture import Mixture
    from components.rewards.pairwise import PairwiseScorer
    from components.rewards.rubric import RubricScorer
    from components.rewards.scorer import open_scorer

    config = phase.rewards
    judges = {name: _open_judge(name, context, held) for name in config.judges()}
    parts: dict = {}
    for row in config.domains:
        for part in row.parts:
            if part.reward.kind == "pairwise":
                parts[part] = PairwiseScorer(part.reward, [judges[name] for name in part.reward.judges])
            elif part.reward.kind == "rubric":
                parts[part] = RubricScorer(part.reward, [judges[name] for name in part.reward.judges])
            elif part.reward.kind == "reward-model" and open_ended is None:
                raise BadInput(
                    "this phase has no reward model", where=f"{phase.name}.rewards", remedy="Only rlhf is handed one"
                )
    scorer = Mixture(
        config,
        open_scorer(tier=context.execution.sandbox_tier, instruction_mode=config.instruction_mode),
        open_ended,
        parts,
    )
    held.callback(scorer.close)
    return scorer


def _open_judge(name: str, context: StageContext, held: ExitStack) -> Judge:
    from pathlib import Path

    from components.rewards.judge import Judge

    endpoint = judge_endpoint(name, context.execution)
    if endpoint.directory:
        from components.release.serve import start
        from components.release.server_command import ServeOptions

        options = ServeOptions(port=_free_port(), served_name=name, device=context.execution.device)
        server = held.enter_context(start(endpoint.directory, options, log=context.scratch / f"judge-{name}.log"))
        endpoint = endpoint.model_copy(update={"base_url": server.base_url})
    judge = Judge(
        endpoint, record=context.output / RECORD, cache=Path(endpoint.cache).expanduser() if endpoint.cache else None
    )
    held.callback(judge.close)
    return judge


def judge_endpoint(name: str, execution: ExecutionConfig) -> JudgeEndpoint:
    """Where a judge answers, by `execution.judges` or the environment.

    Raises:
        BadInput: nowhere.
    """
    found = next((endpoint for endpoint in execution.judges if endpoint.model == name), None)
    if found is not None and (found.base_url or found.directory):
        return found
    if url := os.environ.get(JUDGE_URL):
        return (found or JudgeEndpoint(model=name)).model_copy(update={"base_url": url})
    raise BadInput(
        f"the judge {name!r} has no endpoint",
        where="execution.judges",
        remedy=f"Add {{model: {name}, base_url: http://HOST:PORT/v1}}, or set {JUDGE_URL}",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
