"""The paper's figures 1 and 2 on a CPU: one SFT start, one data set, several losses, an engine of low precision.

The start is trained here: a small Ling 2.0 model on worked and careless solutions of one family of problems, so that RL
has something to find. Every run then takes the same steps on the same prompts with the same seeds; only the loss
differs. Between trainer and engine stand vLLM in bfloat16 and, if asked for, weights rounded to fp8 or int4
(components.rollout.low_precision). The guard watches and does not act: a collapse is what is looked for.

Held-out accuracy is measured every `EVERY` steps on the same engine with the weights as they are, unrounded.
Results lie below RINGFLOW_HOME/bench/icepop, run by run and step by step: a benchmark that was stopped goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts.digest import digest_json
from components.artifacts.folder import Folder
from components.artifacts.local import LocalContext
from components.failures import BadInput, Diverged
from components.recipe.data import GeneratorSource
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.rl import GrpoLoss, GuardConfig, IcePopLoss, Loss, RlPhase, RolloutConfig, TisLoss
from components.recipe.training import OptimiserConfig
from components.rewards.types import RewardRequest, Scorer
from components.rl.batch import Prompt
from components.rl.ledger import PromptMixture
from components.rollout.low_precision import rounded
from components.rollout.types import SampleRequest, Sampling
from flows.bench import Bench
from flows.bench._one_process import OneEngine

MODEL = ModelConfig(preset="smoke")
LOSSES: Mapping[str, Loss] = {
    "grpo": GrpoLoss(),
    "grpo-engine": GrpoLoss(old_policy="engine"),
    "tis": TisLoss(),
    "icepop": IcePopLoss(),
}
SEED = 23
START_STEPS, START_TOKENS = 500, 2048
START_LR = 4e-3
LEVEL = 3
PROMPTS_PER_STEP, GROUP_SIZE, MAX_NEW_TOKENS = 12, 8, 48
MINIBATCHES = 2
HELD_OUT, HELD_OUT_SAMPLES, EVERY = 64, 2, 20
CONTEXT = 128
PROBE_STEPS = 40


@dataclass(frozen=True)
class Condition:
    """What all losses of one comparison share."""

    precision: str = "int4"
    lr: float = 1e-3
    steps: int = 300
    minibatches: int = MINIBATCHES


class Rounding(OneEngine):
    """The engine holds rounded weights; every EVERY versions it is asked held-out problems with the true ones."""

    def __init__(self, engine: Any, condition: Condition, held_out: HeldOut, context: LocalContext) -> None:
        super().__init__(engine)
        self._condition, self._held_out, self._context = condition, held_out, context

    def publish(self, version: int, weights: Mapping[str, np.ndarray]) -> str:
        if version % EVERY == 0:
            super().publish(version, weights)
            self._context.metrics(self._held_out.measure(self), version)
        if self._condition.precision != "bf16":
            weights = rounded(weights, self._condition.precision)
        return super().publish(version, weights)


class HeldOut:
    """Problems of the family that neither SFT nor RL saw."""

    def __init__(self, prompts: Sequence[Prompt], decode: Any, scorer: Scorer, stop: tuple[int, ...]) -> None:
        self._prompts, self._decode, self._scorer = prompts, decode, scorer
        self._sampling = Sampling(1.0, 1.0, MAX_NEW_TOKENS, stop)

    def measure(self, engine: OneEngine) -> dict[str, float]:
        requests = [
            SampleRequest(f"held-out/{prompt.id}/{i}", prompt.tokens, 7919 * at + i)
            for at, prompt in enumerate(self._prompts)
            for i in range(HELD_OUT_SAMPLES)
        ]
        samples = engine.generate(requests, self._sampling)
        asked = [prompt for prompt in self._prompts for _ in range(HELD_OUT_SAMPLES)]
        rewards = self._scorer.score(
            [
                RewardRequest(s.request_id, p.text, self._decode(s.tokens), p.verifier)
                for p, s in zip(asked, samples, strict=True)
            ],
            5.0,
        )
        return {"held_out/accuracy": float(np.mean([reward.value or 0.0 for reward in rewards]))}


@dataclass
class Workplace:
    """Everything the runs of this process share."""

    folder: Path
    learners: Any
    engine: Any
    tokenizer: Any
    prompts: list[Prompt]
    held_out: list[Prompt]
    scorer: Scorer

    def decode(self, tokens: list[int]) -> str:
        from components.model.tokenizer import decode_response

        return decode_response(self.tokenizer, tokens)


def run(
    steps: int = 300,
    seeds: int = 2,
    precision: str = "int4",
    lr: float = 1e-3,
    minibatches: int = MINIBATCHES,
    losses: str = "grpo,tis,icepop",
    out: str = "",
    probe: bool = False,
) -> Bench:
    """steps of each run; seeds of prompts and draws; losses, separated by commas.

    precision: what the engine computes with: bf16, or bf16 on weights rounded to fp8, int8, int4 or int3.
    out: a folder for the plots; the results' own when empty.
    probe: run the loop at a learning rate of zero instead and show that nothing drifts.
    """
    chosen = [name.strip() for name in losses.split(",")]
    unknown = sorted(set(chosen) - set(LOSSES))
    if unknown:
        raise BadInput(f"no loss is called {', '.join(unknown)}", remedy=f"Losses: {', '.join(LOSSES)}")
    place = open_workplace()
    if probe:
        from flows.bench._icepop_probe import run_probe

        return run_probe(place, min(steps, PROBE_STEPS), precision)
    condition = Condition(precision, lr, steps, minibatches)
    results: dict[str, list[dict[str, list[tuple[int, float]]]]] = {name: [] for name in chosen}
    for seed in range(seeds):
        for name in chosen:
            results[name].append(train(place, name, LOSSES[name], condition, seed))
    place.scorer.close()
    from flows.bench._icepop_plot import draw, figures

    title = f"{MODEL.preset} model, engine in {precision}, learning rate {lr:g}, {seeds} seeds"
    draw(results, Path(out) if out else place.folder, title, f"icepop-{precision}-lr{lr:g}")
    setup = asdict(condition) | {"model": MODEL.preset, "seeds": seeds, "results": str(place.folder)}
    return Bench(figures(results), setup)


def open_workplace() -> Workplace:
    from components.model.hf_config import config_json
    from components.model.spec import spec_for
    from components.model.tokenizer import load_tokenizer
    from components.rewards.scorer import open_scorer
    from components.rollout.engine import Engine
    from components.training.group import LearnerGroup

    # Results of another start, or of other sizes, lie elsewhere.
    start_of = [MODEL.preset, SEED, START_STEPS, START_TOKENS, START_LR, LEVEL]
    sizes = [PROMPTS_PER_STEP, GROUP_SIZE, MAX_NEW_TOKENS, HELD_OUT, HELD_OUT_SAMPLES, EVERY]
    identity = digest_json({"start": start_of, "sizes": sizes})[:12]
    folder = Path(os.environ.get("RINGFLOW_HOME", ".ringflow")) / "bench" / "icepop" / identity
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(MODEL.tokenizer)
    learners = LearnerGroup(MODEL, ExecutionConfig(learners=1, engines=1), seed=0, in_process=True)
    sft, prompts, held_out = data(tokenizer)
    start(folder, learners, sft)
    engine = Engine(config_json(spec_for(MODEL), tokenizer, "bfloat16"), "bfloat16", CONTEXT, 128)
    return Workplace(folder, learners, engine, tokenizer, prompts, held_out, open_scorer())


def data(tokenizer: Any) -> tuple[list[Any], list[Prompt], list[Prompt]]:
    """(SFT sequences, RL prompts, held-out prompts) of the open math family up to LEVEL."""
    from components.data.generator import generate
    from components.model.tokenizer import encode_text, render_prompt
    from components.training.documents import sft_sequences

    source = GeneratorSource(pretrain=0, sft=24_000, rl=8_000, preference=0, benchmark=256, max_level=LEVEL)
    corpus = generate(source, SEED)
    records = [record for record in corpus.sft if record.family == "chain"]
    sequences, _ = sft_sequences(records, tokenizer, CONTEXT)

    def prompt(record: Any) -> Prompt:
        text = render_prompt(tokenizer, record.prompt)
        return Prompt(record.id, record.domain, record.family, encode_text(tokenizer, text), text, record.verifier)

    asked = [prompt(record) for record in corpus.rl if record.family == "chain"]
    held_out = [item for item in corpus.benchmarks["nano-math"] if item.family == "chain" and item.level == LEVEL]
    return sequences, asked, [prompt(item) for item in held_out[:HELD_OUT]]


def start(folder: Path, learners: Any, sequences: Sequence[Any]) -> None:
    """Trains the SFT start, or finds it."""
    from components.training.documents import plan_steps

    place = folder / "start"
    if (place / "model.safetensors").is_file():
        return
    optimiser = OptimiserConfig(lr=START_LR, beta2=0.95, weight_decay=0.05, schedule="cosine", warmup_steps=30)
    learners.initialise(SEED)
    learners.configure(optimiser, START_STEPS, expert_bias_rate=1e-3)
    plan = plan_steps([len(sequence.tokens) for sequence in sequences], START_TOKENS, START_STEPS, SEED)
    for step, batch in enumerate(plan):
        metrics = learners.train_tokens([sequences[i] for i in batch], CONTEXT)
        if step % 100 == 0:
            print(f"[start] {step}/{START_STEPS} loss {metrics['loss']:.3f}", flush=True)
    learners.write_hf(Folder.local(place), MODEL.tokenizer)


def train(
    place: Workplace, name: str, loss: Loss, condition: Condition, seed: int
) -> dict[str, list[tuple[int, float]]]:
    """One run: metric -> [(step, value)]. A finished one is read, an unfinished one goes on."""
    from components.rl.controller import train_rl

    identity = digest_json(asdict(condition) | {"loss": loss.model_dump(mode="json"), "seed": seed})[:12]
    root = place.folder / f"{condition.precision}-lr{condition.lr:g}-{name}-{seed}-{identity}"
    context = LocalContext(root, name, seed, ExecutionConfig(learners=1, engines=1))
    ended = root / "ended.json"
    if not ended.is_file():
        config = phase(loss, condition, GuardConfig(mode="watch"))
        stop = (place.tokenizer.eos_token_id,)
        place.learners.load_hf(place.folder / "start")
        place.learners.configure(config.optimiser, condition.steps * condition.minibatches, expert_bias_rate=0.0)
        held_out = HeldOut(place.held_out, place.decode, place.scorer, stop)
        outcome = "finished"
        engines = Rounding(place.engine, condition, held_out, context)
        mixture = PromptMixture([(range(len(place.prompts)), 1.0)], seed)
        try:
            train_rl(context, place.learners, engines, place.scorer, place.prompts, mixture, config, place.decode, stop)
        except Diverged as error:
            outcome = str(error)
        ended.write_text(json.dumps({"outcome": outcome}))
    names = sorted({name for _, values in context.history for name in values})
    series = {name: sorted(context.series(name)) for name in names}
    series["mismatch/outside"] = outside(series)
    return series


def phase(loss: Loss, condition: Condition, guard: GuardConfig) -> RlPhase:
    return RlPhase(
        name="icepop",
        domains=("math",),
        steps=condition.steps,
        rollout=RolloutConfig(
            prompts_per_step=PROMPTS_PER_STEP,
            group_size=GROUP_SIZE,
            max_new_tokens=MAX_NEW_TOKENS,
            engine_dtype="bfloat16",
        ),
        loss=loss,
        optimiser=OptimiserConfig(lr=condition.lr),
        minibatches=condition.minibatches,
        guard=guard,
        checkpoint_every=EVERY,
    )


def outside(series: Mapping[str, Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Fraction of tokens with k outside IcePop's bounds, whichever loss was trained."""
    low, high = dict(series["mismatch/outside_low"]), dict(series["mismatch/outside_high"])
    return [(step, low[step] + high[step]) for step in sorted(low)]
