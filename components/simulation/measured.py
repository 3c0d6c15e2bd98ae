"""Rates of this machine out of one finished run, by which another recipe's stages are foretold.

What is kept of a run are not its times but what they are made of: seconds of a training step by its tokens, of a
decoding step by the sequences in it, of an update by the tokens it trains, of an answer of an evaluation; and what a
stage takes besides its steps. Lengths of answers are what that run's model wrote: another model writes others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from components.failures import BadInput
from components.recipe.rl import RolloutConfig
from components.rl.simulator import Cluster
from components.simulation.rollouts import rollout_steps

# One engine's decoding step on two CPU cores, by its sequences: 2.9 ms nearly empty, 14.5 ms with 128 (`ringflow bench
# rollout`, docs/rollout.md). Its shape serves where a run cannot tell the two apart.
STEP_SHAPE = (2.8e-3, 9.1e-5)
# Phases whose answers of a step differ by less than this factor tell only their sum.
TOLD_APART = 1.5

Series = Mapping[str, Sequence[tuple[int, float, float]]]
Line = tuple[float, float]  # seconds: first + second * units


@dataclass(frozen=True)
class Recorded:
    """A stage of a finished run. wall_s: of its own work. settings: values of its recipe section by dotted key.

    series: metric -> [(step, seconds of the clock when it was logged, value)].
    """

    name: str
    kind: str
    wall_s: float
    settings: Mapping[str, Any]
    series: Series

    def values(self, metric: str) -> np.ndarray:
        return np.array([value for _, _, value in self.series.get(metric, ())])

    def number(self, key: str) -> float:
        try:
            return float(self.settings[key])
        except (KeyError, ValueError) as error:
            raise BadInput(f"the run recorded no number {key}", where=self.name) from error


@dataclass(frozen=True)
class StageRates:
    """fixed_s: besides steps and checkpoints. step: by tokens (base, sft), pairs (reward-model), or trained tokens (RL:
    old log-probs and update). fill: tokens over tokens asked. units: samples of an evaluation, records of a corpus.
    answer_s: of one sample of every item. The rest are RL's: mean and longest answer, share of answers trained on,
    measured over simulated rollout seconds, and seconds of scoring: of a step in RLVR, whose verifiers run beside the
    engines and leave a rest, of an answer in RLHF, whose reward model takes the learners.
    """

    kind: str
    wall_s: float
    fixed_s: float = 0.0
    step: Line = (0.0, 0.0)
    checkpoint_s: float = 0.0
    fill: float = 1.0
    units: float = 1.0
    answer_s: float = 0.0
    mean: float = 0.0
    longest: float = 0.0
    trained: float = 1.0
    rollout: float = 1.0
    exchange_s: float = 0.0
    reward_s: float = 0.0


@dataclass(frozen=True)
class Rates:
    """decoding: one engine's step by its sequences. between_s: from one stage to the next. devices: cores or GPUs."""

    source: str
    devices: int
    engines: int
    places: int
    decoding: Line
    between_s: float
    stages: Mapping[str, StageRates] = field(default_factory=dict)

    def of(self, name: str, kind: str) -> StageRates:
        """Of this stage, else the mean one of its type. Raises BadInput."""
        if name in self.stages:
            return self.stages[name]
        alike = [asdict(rates) for rates in self.stages.values() if rates.kind == kind]
        if not alike:
            raise BadInput(f"{self.source} had no stage like it", where=name, remedy="Measure a run that has one")
        mean = {key: np.mean([one[key] for one in alike], axis=0) for key in alike[0] if key != "kind"}
        mean = {key: tuple(value.tolist()) if value.ndim else float(value) for key, value in mean.items()}
        return StageRates(kind=kind, **mean)

    def cluster(self, train_s: float = 0.0) -> Cluster:
        first, more = self.decoding
        return Cluster(self.engines, self.places, lambda batch: first + more * batch, 0.0, 0, train_s, 0.0, 2.0)


def read_rates(values: Mapping[str, Any]) -> Rates:
    """The inverse of dataclasses.asdict. Raises BadInput for anything else."""
    try:
        stages = {
            name: StageRates(**{**stage, "step": tuple(stage["step"])}) for name, stage in values["stages"].items()
        }
        return Rates(**{**values, "decoding": tuple(values["decoding"]), "stages": stages})
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"no rates that `simulate --save-rates` wrote: {error}") from error


def fit(source: str, stages: Sequence[Recorded], run_s: float, devices: int, engines: int, places: int) -> Rates:
    """run_s: of the whole run. Raises BadInput for a run without any stage that was computed."""
    if not stages:
        raise BadInput("this run computed nothing: it reused every stage", where=source, remedy="Name another run")
    documents = [stage for stage in stages if stage.kind in ("base", "sft") and "seconds" in stage.series]
    line = line_through([(_step(stage)[0], float(stage.values("tokens").mean())) for stage in documents])
    phases = [stage for stage in stages if stage.kind in ("rlvr", "rlhf")]
    decoding = (0.0, 0.0)
    if phases:
        decoding = _decoding(phases, engines)
    rates = Rates(source, devices, engines, places, decoding, max(run_s - sum(s.wall_s for s in stages), 0.0))
    made = {}
    for stage in stages:
        if stage in phases:
            made[stage.name] = _phase(stage, rates)
        elif "seconds" in stage.series:
            made[stage.name] = _training(stage, line)
        elif stage.kind == "evaluate":
            made[stage.name] = StageRates(stage.kind, stage.wall_s, units=stage.number("samples"))
        elif stage.kind == "corpus":
            made[stage.name] = StageRates(stage.kind, stage.wall_s, stage.wall_s, units=_generated(stage.settings))
        else:
            made[stage.name] = StageRates(stage.kind, stage.wall_s, stage.wall_s)
    made |= _evaluations(made)
    return Rates(source, devices, engines, places, decoding, rates.between_s / len(stages), made)


def _decoding(phases: Sequence[Recorded], engines: int) -> Line:
    """Over all steps of RL: as many decoding steps as the longest answer has tokens, and the tokens of an engine."""
    asked = [phase.number("rollout.prompts_per_step") * phase.number("rollout.group_size") for phase in phases]
    longest, tokens, spent = (
        np.concatenate([phase.values(name) for phase in phases])
        for name in ("rollout/length_max", "rollout/tokens", "time/rollout_s")
    )
    if max(asked) >= TOLD_APART * min(asked):
        return fitted(longest, tokens / engines, spent)
    first, more = STEP_SHAPE
    scale = float(spent.sum() / (first * longest + more * tokens / engines).sum())
    return scale * first, scale * more


def _generated(settings: Mapping[str, Any]) -> float:
    """Records of generator sources; 0 for files, whose time is taken as it was."""
    splits = ("pretrain", "sft", "rl", "preference")
    keys = [key for key in settings if key.startswith("sources.") and key.rpartition(".")[2] in splits]
    return float(sum(int(settings[key]) for key in keys))


def _evaluations(made: Mapping[str, StageRates]) -> dict[str, StageRates]:
    """The first evaluation of a run starts the engines: what it takes beyond the others' rate is its own."""
    found = {name: rates for name, rates in made.items() if rates.kind == "evaluate"}
    later = [rates.wall_s / rates.units for name, rates in found.items() if name != "evaluate-base"]
    usual = float(np.mean(later)) if later else 0.0
    result = {}
    for name, rates in found.items():
        answer_s = min(usual or rates.wall_s / rates.units, rates.wall_s / rates.units)
        answer_s = answer_s if name == "evaluate-base" else rates.wall_s / rates.units
        values = asdict(rates) | {"answer_s": answer_s, "fixed_s": rates.wall_s - answer_s * rates.units}
        result[name] = StageRates(**values)
    return result


def _step(stage: Recorded) -> tuple[float, float]:
    """(seconds of a step, of a checkpoint), from when steps were logged."""
    points = [(step, clock) for step, clock, _ in stage.series["seconds"]]
    every, total = int(stage.number("checkpoint_every")), int(stage.number("steps"))
    plain, saving = [], []
    for (step, clock), (later, then) in pairwise(points):
        saves = sum(done % every == 0 and done < total for done in range(step, later))
        (saving if saves else plain).append((then - clock, later - step, saves))
    if not plain:
        return stage.wall_s / total, 0.0
    step_s = sum(spent for spent, _, _ in plain) / sum(steps for _, steps, _ in plain)
    saves = sum(count for _, _, count in saving)
    over = sum(spent - steps * step_s for spent, steps, _ in saving)
    return step_s, max(over / saves, 0.0) if saves else 0.0


def _training(stage: Recorded, documents: Line) -> StageRates:
    step_s, save_s = _step(stage)
    steps, every = int(stage.number("steps")), int(stage.number("checkpoint_every"))
    fixed = stage.wall_s - steps * step_s - (steps - 1) // every * save_s
    if stage.kind == "reward-model":
        line, fill = (0.0, step_s / stage.number("pairs_per_step")), 1.0
    else:
        tokens = float(stage.values("tokens").mean())
        line, fill = documents, tokens / stage.number("tokens_per_step")
    return StageRates(stage.kind, stage.wall_s, max(fixed, 0.0), line, save_s, fill)


def _phase(stage: Recorded, rates: Rates) -> StageRates:
    rollout = RolloutConfig(
        prompts_per_step=int(stage.number("rollout.prompts_per_step")),
        group_size=int(stage.number("rollout.group_size")),
        max_new_tokens=int(stage.number("rollout.max_new_tokens")),
    )
    answers = rollout.prompts_per_step * rollout.group_size
    mean, longest = (float(stage.values(f"rollout/length_{which}").mean()) for which in ("mean", "max"))
    trained = stage.values("groups/trained") * rollout.group_size * stage.values("rollout/length_mean")
    learning = stage.values("time/old_logprobs_s") + stage.values("time/update_s")
    spent = stage.values("time/rollout_s")
    (simulated,) = rollout_steps(rollout, rates.cluster(), mean, longest)
    saves, rest = (stage.values(f"time/{name}_s") for name in ("checkpoint", "exchange"))
    other = stage.values("time/reward_s").mean() + stage.values("time/orchestration_s").mean()
    return StageRates(
        kind=stage.kind,
        wall_s=stage.wall_s,
        fixed_s=max(stage.wall_s - float(stage.values("time/step_s").sum()), 0.0),
        step=fitted(np.ones(len(trained)), trained, learning),
        checkpoint_s=float(saves.mean()) if len(saves) else 0.0,
        mean=mean,
        longest=longest,
        trained=float(stage.values("groups/trained").mean()) / rollout.prompts_per_step,
        rollout=float(spent.mean()) / simulated.rollout_s,
        exchange_s=float(rest.sum()) / len(spent),
        reward_s=float(other) / (1 if stage.kind == "rlvr" else answers),
    )


def line_through(points: Sequence[tuple[float, float]]) -> Line:
    """(seconds, units) -> the line through them; proportional where that has a negative part."""
    if not points:
        return 0.0, 0.0
    seconds, units = (np.array(column) for column in zip(*points, strict=True))
    if len(points) == 1 or np.ptp(units) < 0.1 * units.mean():
        return 0.0, float(seconds.sum() / units.sum())
    return fitted(np.ones(len(units)), units, seconds)


def fitted(first: np.ndarray, second: np.ndarray, seconds: np.ndarray) -> Line:
    """(a, b) >= 0 with a * first + b * second nearest to seconds (least squares)."""
    from scipy.optimize import nnls

    found, _ = nnls(np.stack([first, second], axis=1), seconds)
    return float(found[0]), float(found[1])
