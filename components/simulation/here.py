"""Stages of a recipe on the machine whose rates a finished run measured (components.simulation.measured)."""

from __future__ import annotations

from collections.abc import Iterable

from components.model.workload import sft_steps
from components.recipe.data import GeneratorSource
from components.recipe.recipe import Recipe
from components.recipe.rl import RlPhase
from components.recipe.training import ImportConfig, RewardModelConfig
from components.simulation.measured import Rates, StageRates
from components.simulation.rollouts import rollout_steps
from components.simulation.stage import StageTimes


def stages_here(recipe: Recipe, nodes: Iterable[tuple[str, str]], rates: Rates) -> list[StageTimes]:
    """One entry per node; a stage's start holds what lies between it and the one before. nodes: (name, stage type).

    Raises BadInput for a stage that the measured run had nothing like.
    """
    return [_stage(recipe, name, kind, rates.of(name, kind), rates) for name, kind in nodes]


def _stage(recipe: Recipe, name: str, kind: str, found: StageRates, rates: Rates) -> StageTimes:
    start_s = found.fixed_s + rates.between_s
    if kind == "evaluate":
        section = recipe.evaluate.for_base() if name == "evaluate-base" else recipe.evaluate
        steps = ({"rollout": found.answer_s * section.samples},)
        return StageTimes(name, rates.devices, 1, steps, start_s)
    if kind == "corpus" and found.units:
        work = found.fixed_s * records_of(recipe) / found.units
        return StageTimes(name, rates.devices, 1, ({"compute": work},), rates.between_s)
    section = section_of(recipe, name)
    if section is None or isinstance(section, ImportConfig):
        return StageTimes(name, rates.devices, 1, ({"compute": found.fixed_s},), rates.between_s)
    count = sft_steps(recipe) if kind == "sft" else section.steps
    step = _rl_step(section, found, rates) if isinstance(section, RlPhase) else _step(section, found)
    every = section.checkpoint_every
    return StageTimes(name, rates.devices, count, (step,), start_s, 1, every, found.checkpoint_s)


def _step(section, found: StageRates) -> dict[str, float]:
    first, more = found.step
    units = section.pairs_per_step if isinstance(section, RewardModelConfig) else section.tokens_per_step * found.fill
    return {"compute": first + more * units}


def _rl_step(phase: RlPhase, found: StageRates, rates: Rates) -> dict[str, float]:
    """The mean of the steps that the scheduler makes of answers as long as the measured ones."""
    rollout, (first, more) = phase.rollout, found.step
    longest = min(found.longest, rollout.max_new_tokens)
    steps = rollout_steps(rollout, rates.cluster(), min(found.mean, longest), longest)
    tokens = sum(step.tokens for step in steps) / len(steps)
    scored = 1 if found.kind == "rlvr" else rollout.prompts_per_step * rollout.group_size
    return {
        "rollout": found.rollout * sum(step.rollout_s for step in steps) / len(steps) + found.reward_s * scored,
        "compute": first + more * tokens * found.trained,
        "exchange": found.exchange_s,
    }


def section_of(recipe: Recipe, name: str):
    """The recipe's section that trains in this node; None for the other stages."""
    if name.startswith("rlvr-"):
        return recipe.rlvr[int(name.removeprefix("rlvr-")) - 1]
    known = {"base": recipe.base, "sft": recipe.sft, "reward-model": recipe.reward_model, "rlhf": recipe.rlhf}
    return known.get(name)


def records_of(recipe: Recipe) -> int:
    """Records that the generator makes; 0 for a corpus of files."""
    sources = [source for source in recipe.corpus.sources if isinstance(source, GeneratorSource)]
    return sum(one.pretrain + one.sft + one.rl + one.preference for one in sources)
