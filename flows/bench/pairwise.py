"""RL on a generative pairwise reward with nothing but real parts: a judge that was trained here, served by vLLM.

No judge of a billion parameters fits two cores, so one is made by the recipe's own SFT stage: from nano's base model,
on nano's preference pairs put as the questions that `components/rewards/pairwise.py` asks, in either order, with the
verdict as the answer. Then the RL stage trains nano's SFT model on general prompts alone; it starts the judge from its
directory, asks it about every pair of a group in both orders, and writes down what was said. The hidden function that
labelled the pairs says how often the judge was right, and whether the replies got better.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from components.artifacts.local import LocalContext
from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.data.jsonl import read_records
from components.data.preference import gold
from components.data.schema import Message, PreferenceRecord, RlRecord, SftRecord
from components.failures import InfrastructureError
from components.recipe.execution import ExecutionConfig, JudgeEndpoint
from components.recipe.load import load_recipe
from components.recipe.rewards import DomainReward, PairwiseReward, RewardPart, RewardsConfig
from components.recipe.rl import RlPhase
from components.recipe.training import SftConfig
from components.rewards import extract
from components.rewards.pairwise import question
from flows.bench import Bench, Figure
from flows.bench.modes import StoreContext
from flows.board import PlainBoard
from flows.execute import run_here
from flows.recipe_flow import ring
from flows.request import RECIPES, RunRequest
from tasks.stage import StageConfig

JUDGE = "nano-judge"
POSITIONS = 1024  # a question is about 700 characters, and nano reads characters
JUDGE_STEPS, JUDGE_TOKENS = 200, 8192
STEPS, GROUPS, SIZE = 8, 8, 4
ENDS = 3  # steps at either end that are compared


def run(recipe: str = "nano", seed: int = 0, steps: int | None = None) -> Bench:
    """recipe: of the project, or a file. steps: of RL; the judge's SFT is as long as it is."""
    from components.cluster.warm import release_all
    from tasks.stages import rlvr

    loaded = load_recipe(recipe, directory=RECIPES)
    inputs = _inputs(recipe, seed)
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            judge, trained = _judge(root, inputs, loaded, seed)
            release_all()
            execution = ExecutionConfig(judges=(JudgeEndpoint(model=JUDGE, directory=str(judge), timeout_s=300),))
            context = StoreContext(root / "rl", "rl-pairwise", seed, execution)
            phase = _phase(loaded, steps or STEPS)
            config = StageConfig(phase, loaded.model)
            rlvr.run(context, {"model": inputs["sft"], "data": inputs["decontaminate"]}, config)
            figures = trained | _figures(context, _references(inputs))
            setup = {"recipe": recipe, "seed": seed, "steps": phase.steps, "judge": f"SFT of {JUDGE_STEPS} steps"}
            return Bench(figures, setup)
    finally:
        release_all()


def _inputs(recipe: str, seed: int) -> Mapping[str, ArtifactRef]:
    wanted = ["corpus", "decontaminate", "base", "sft"]
    named = {"recipe_file": recipe} if recipe.endswith(".yaml") else {"recipe": recipe}
    result = run_here(ring, RunRequest(**named, seed=seed, only=wanted), PlainBoard())
    refs = {stage.node: stage.ref for stage in result.stages}
    missing = [node for node in wanted if refs.get(node) is None]
    if missing:
        raise InfrastructureError(f"{missing[0]} of {recipe} did not finish")
    return refs


def _judge(root: Path, inputs: Mapping[str, ArtifactRef], recipe: Any, seed: int) -> tuple[Path, dict[str, Figure]]:
    """(directory of the judge, what its training says), by the SFT stage."""
    from tasks.stages import sft

    corpus = Store.open().fetch(inputs["decontaminate"], "data/preference.jsonl")
    data = LocalContext(root / "questions", "questions", seed)
    place = data.output / "data" / "sft.jsonl"
    place.parent.mkdir()
    rng, pairs = random.Random(seed), read_records(corpus, PreferenceRecord)
    with place.open("w") as stream:
        for number, pair in enumerate(pairs):
            for verdict in rng.sample("AB", 2):
                stream.write(_asked(f"{number}{verdict}", pair, verdict).model_dump_json() + "\n")
    model = recipe.model.model_copy(update={"max_position": POSITIONS})
    section = SftConfig.model_validate(
        recipe.sft.model_dump()
        | {"steps": JUDGE_STEPS, "tokens_per_step": JUDGE_TOKENS, "sequence_length": POSITIONS, "checkpoints": 1}
    )
    context = StoreContext(root / "judge", "judge", seed, ExecutionConfig())
    result = sft.run(context, {"model": inputs["base"], "data": data.ref("corpus")}, StageConfig(section, model))
    loss = float(result.summary["held_out_loss"])
    return context.output / "model", {"judge, held-out loss": Figure.of([loss], "nats/token")}


def _asked(identity: str, pair: PreferenceRecord, verdict: str) -> SftRecord:
    """The question about a pair with the better reply in the place that `verdict` names."""
    replies = [extract.final_text(text) or "" for text in (pair.chosen, pair.rejected)]
    prompt = "\n".join(message.content for message in pair.prompt)
    asked = question(prompt, *(replies if verdict == "A" else reversed(replies)))
    return SftRecord(
        id=identity,
        source=pair.source,
        licence=pair.licence,
        domain="general",
        family="judge",
        prompt=tuple(Message.model_validate(message) for message in asked),
        response=f"<think></think>[[{verdict}]]",
    )


def _phase(recipe: Any, steps: int) -> RlPhase:
    part = RewardPart(reward=PairwiseReward(judges=(JUDGE,), max_new_tokens=16))
    rollout = {"prompts_per_step": GROUPS, "group_size": SIZE}
    return RlPhase.model_validate(
        recipe.rlvr[0].model_dump()
        | {
            "name": "pairwise",
            "domains": ["general"],
            "steps": steps,
            "rollout": recipe.rlvr[0].rollout.model_dump() | rollout,
            "rewards": RewardsConfig(domains=(DomainReward(domain="general", parts=(part,)),)).model_dump(),
        }
    )


def _references(inputs: Mapping[str, ArtifactRef]) -> dict[str, Mapping[str, Any]]:
    """Prompt id -> what the hidden judge knows of it."""
    records = read_records(Store.open().fetch(inputs["decontaminate"], "data/rl.jsonl"), RlRecord)
    return {record.id: record.verifier.reference for record in records if record.domain == "general"}


def _figures(context: LocalContext, references: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """What the stage wrote down: every response with its reward, every question to the judge."""
    steps = []
    for path in sorted((context.output / "rollouts").glob("rewards-*.jsonl.gz")):
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
        steps.append([row | {"gold": gold(references[row["prompt_id"]], row["response"])} for row in rows])
    asked = [json.loads(line) for line in (context.output / "rollouts" / "judge.jsonl").read_text().splitlines()]
    every = [row for step in steps for row in step]
    games = [game for row in every for game in row["reward"]["evidence"]["games"] if game.get("asked")]
    verdicts = [both for game in games for both in game["verdicts"].values()]
    golds = [100 * _mean([row["gold"] for row in step]) for step in steps]
    shares = [100 * value for _, value in context.series("time/reward_share")]
    failed = [100.0 * (row["reward"]["value"] is None) for row in every]
    return {
        "replies judged": Figure.of([len(every)], "replies"),
        "questions to the judge": Figure.of([len(asked)], "questions"),
        "asked again, out of form": Figure.of([sum(len(row["messages"]) > 2 for row in asked)], "questions"),
        "orders that agree": Figure.of([100 * _mean([one == other for one, other in verdicts])], "%"),
        "pairs ordered as the hidden judge does": Figure.of([100 * _agreement(steps)], "%"),
        "rewards that failed": Figure.of([_mean(failed)], "%"),
        "reward's share of a step": Figure.of(shares, "%"),
        "hidden judge, first steps": Figure.of(golds[:ENDS], "%"),
        "hidden judge, last steps": Figure.of(golds[-ENDS:], "%"),
    }


def _agreement(steps: Sequence[Sequence[Mapping[str, Any]]]) -> float:
    """Share of the pairs in a group that both rewards tell apart and order alike."""
    products = []
    for step in steps:
        for one, other in combinations([row for row in step if row["reward"]["value"] is not None], 2):
            if one["prompt_id"] == other["prompt_id"]:
                products.append((one["reward"]["value"] - other["reward"]["value"]) * (one["gold"] - other["gold"]))
    return _mean([product > 0 for product in products if product])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
