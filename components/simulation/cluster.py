"""Stages of a recipe on a cluster nobody has: times of the planner's cost model, assumptions where a recipe is silent.

Steps are those of components.model.planner (formulas in components.model.cost); rollouts go through the real scheduler
(components.simulation.rollouts), so the long tail of answers is in them, which the plan leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil

from components.model.cost import decoding
from components.model.planner import LoadTime, Plan
from components.model.spec import spec_for
from components.model.workload import PROMPT, sft_steps
from components.recipe.data import GeneratorSource
from components.recipe.evaluation import EvaluationConfig
from components.recipe.recipe import Recipe
from components.recipe.rl import RlPhase
from components.recipe.training import PretrainConfig, SftConfig
from components.rl.simulator import Cluster as Engines
from components.simulation.here import section_of
from components.simulation.rollouts import answering_s, interpolated, rollout_steps
from components.simulation.stage import StageTimes

DOMAINS = 5  # benchmarks of the generator
WAVES = 20  # of an evaluation; what a wave finished is kept
CHARACTERS = 4.0  # bytes of text in a token
# Items of the benchmarks that the ladder names: AIME and HMMT have 30 problems a contest, the ARC-AGI-1 evaluation set
# 400 tasks, LiveCodeBench v6 454 problems of 2408 to 2505 (this one not counted here).
ITEMS = {"aime25": 30, "hmmt25": 30, "livecodebench": 454, "arc-agi-1": 400}


@dataclass(frozen=True)
class Assumed:
    """What neither recipe nor cost model says. Every value is a guess unless a source stands beside it.

    mean_length: mean answer over the longest. storage: bytes per second to and from a node. start_s: of learners and
    engines, before their weights are read. prompts: RL prompts that `pass-rate` tries. items: of a benchmark that is
    unknown here. corpus_bytes: text to clean; the tokens of SFT, once each, where 0. ingest, match: bytes per second,
    from file to file and with the semantic level, of one process on one core (docs/data.md, measured).
    """

    mean_length: float = 0.25
    storage: float = 2e9
    start_s: float = 120.0
    prompts: int = 50_000
    items: int = 500
    corpus_bytes: float = 0.0
    ingest: float = 13.7e6
    match: float = 1.2e6
    known: Mapping[str, int] = field(default_factory=lambda: dict(ITEMS))


def stages_on(recipe: Recipe, nodes: Iterable[tuple[str, str]], plan: Plan, assumed: Assumed) -> list[StageTimes]:
    """One entry per node. nodes: (name, stage type) in order. plan: with the same mean length."""
    made = _Made(recipe, plan, assumed)
    return [made.stage(name, kind) for name, kind in nodes]


class _Made:
    def __init__(self, recipe: Recipe, plan: Plan, assumed: Assumed) -> None:
        self.recipe, self.plan, self.assumed = recipe, plan, assumed
        self.loads = {time.load.name: time for time in plan.times}
        self.devices = plan.cluster.devices
        self.answered: dict[tuple[int, int], float] = {}
        nodes = max(1, self.devices // plan.cluster.accelerator.per_node)
        # Every node reads and sends its own part of weights and resume points; only import and release take one host.
        self.storing = assumed.storage * nodes
        self.start_s = assumed.start_s + plan.checkpoint_bytes / self.storing

    def stage(self, name: str, kind: str) -> StageTimes:
        recipe, assumed = self.recipe, self.assumed
        if kind in ("corpus", "mix"):
            return self._plain(name, 0, self._corpus_bytes() / assumed.ingest)
        if kind == "decontaminate":
            return self._plain(name, 0, self._corpus_bytes() / assumed.match)
        if kind == "release":
            moved = (self.plan.checkpoint_bytes + self.plan.release_bytes) / assumed.storage
            return self._plain(name, self.devices, self.start_s + moved)
        if kind == "evaluate":
            section = recipe.evaluate.for_base() if name == "evaluate-base" else recipe.evaluate
            return self._answers(name, self._evaluation_answers(section), section.max_new_tokens)
        if kind == "pass-rate":
            section = recipe.pass_rate
            return self._answers(name, assumed.prompts * section.samples, section.max_new_tokens)
        if kind == "select":
            section = recipe.select
            answers = section.items * section.samples * recipe.sft.checkpoints
            return self._answers(name, answers, section.max_new_tokens)
        if name not in self.loads:  # base, imported
            moved = 2 * self.plan.checkpoint_bytes / self.assumed.storage
            return self._plain(name, 0, moved)
        return self._trained(name)

    def _plain(self, name: str, devices: int, seconds: float) -> StageTimes:
        """A stage without steps and resume points; without devices its time is the host's work."""
        part = "compute" if not devices else ""
        steps = ({part: seconds},) if part else ()
        return StageTimes(name, devices, len(steps), steps, 0.0 if part else seconds)

    def _answers(self, name: str, answers: int, longest: int) -> StageTimes:
        """Finished answers are kept as they come, so that a failure costs little."""
        if (answers, longest) not in self.answered:
            mean = self.assumed.mean_length * longest
            self.answered[answers, longest] = answering_s(answers, self._engines(longest), mean, longest)
        step = {"rollout": self.answered[answers, longest] / WAVES}
        return StageTimes(name, self.devices, WAVES, (step,), self.start_s, self.plan.engines, checkpoint_every=1)

    def _trained(self, name: str) -> StageTimes:
        time = self.loads[name]
        section = section_of(self.recipe, name)
        if isinstance(section, RlPhase):
            steps = self._rl_steps(section, time)
        else:
            update = time.update
            steps = ({"compute": update.working, "communication": update.moving},)
        kept = section.checkpoints if isinstance(section, SftConfig) else 1  # of SFT every candidate
        return StageTimes(
            name,
            self.devices,
            time.load.steps,
            steps,
            self.start_s + kept * self.plan.checkpoint_bytes / self.storing,
            self.plan.layout.data,
            section.checkpoint_every,
            self.plan.resume_bytes / self.storing,
            self.plan.resume_bytes / self.storing,
        )

    def _rl_steps(self, phase: RlPhase, time: LoadTime) -> tuple[dict[str, float], ...]:
        """rollout: as the scheduler gives it; learning in proportion to the tokens of the step."""
        rollout = phase.rollout
        learning = [time.update, *([time.logprobs] if time.logprobs else [])]
        token = sum(part.total for part in learning) / time.load.tokens
        share = sum(part.working for part in learning) / sum(part.total for part in learning)
        engines = self._engines(rollout.max_new_tokens, train_s=token)
        mean = self.assumed.mean_length * rollout.max_new_tokens
        steps = []
        for step in rollout_steps(rollout, engines, mean, rollout.max_new_tokens):
            learned = step.total_s - step.rollout_s  # an asynchronous step decodes meanwhile, and ends with a slice
            steps.append(
                {
                    "rollout": step.rollout_s,
                    "compute": learned * share,
                    "communication": learned * (1 - share),
                    "exchange": time.exchange,
                }
            )
        return tuple(steps)

    def _engines(self, longest: int, train_s: float = 0.0) -> Engines:
        plan, spec = self.plan, spec_for(self.recipe.model)
        context, layout = self.assumed.mean_length * longest, plan.engine_layout
        most = self.recipe.execution.max_num_seqs
        places = decoding(spec, layout, plan.cluster, plan.engine.kv_cache, context, most).sequences

        def step_s(batch: int) -> float:
            return decoding(spec, layout, plan.cluster, plan.engine.kv_cache, context, max(batch, 1)).step

        return Engines(
            engines=plan.engines,
            places=places,
            step_s=interpolated(step_s, places),
            prefill_s=0.0,
            prompt_tokens=PROMPT,
            train_s=train_s,
            fixed_s=0.0,
            contention=2.0 if plan.placement == "colocated" else 1.0,
        )

    def _evaluation_answers(self, section: EvaluationConfig) -> int:
        return sum(answers_of(self.recipe, section, self.assumed.known, self.assumed.items).values())

    def _corpus_bytes(self) -> float:
        recipe = self.recipe
        tokens = sft_steps(recipe) * recipe.sft.tokens_per_step
        if isinstance(recipe.base, PretrainConfig):
            tokens += recipe.base.steps * recipe.base.tokens_per_step
        return self.assumed.corpus_bytes or tokens * CHARACTERS


def answers_of(recipe: Recipe, section: EvaluationConfig, known: Mapping[str, int], otherwise: int) -> dict[str, int]:
    """Benchmark -> answers of one evaluation. known: items of benchmarks in files; otherwise: of those not known."""
    found = {benchmark.name: known.get(benchmark.name, otherwise) for benchmark in recipe.corpus.benchmarks}
    for source in recipe.corpus.sources:
        if isinstance(source, GeneratorSource):
            found |= {f"generator-{number}": source.benchmark for number in range(DOMAINS)}
    settings = {one.benchmark: one for one in section.settings}
    answers = {}
    for name, items in found.items():
        own = settings.get(name)
        items = min(items, (own and own.items) or section.items or items)
        answers[name] = ceil(items) * ((own and own.samples) or section.samples)
    return answers
