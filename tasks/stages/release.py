"""Stage `release`: exports the last model, refuses it unless vLLM computes what the trainer computes, writes the card.

Output: model/ (what people download), README.md (the card), scores.json, parity.json, stages.png. The runner registers
the model after the commit, under `registered_model` with `alias` of the summary.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.cluster.warm import release_all
from components.data.jsonl import read_benchmarks
from components.data.schema import BenchmarkItem
from components.evaluation.plot import plot_stages
from components.evaluation.scores import load_evaluation
from components.evaluation.table import markdown_table, stage_rows
from components.evaluation.types import Answer, Evaluation
from components.failures import BadInput
from components.model.spec import LingSpec, spec_for
from components.model.tokenizer import contract, encode_prompt, encode_text, load_tokenizer
from components.recipe.evaluation import ReleaseConfig
from components.release.card import CardFacts, render_card
from components.release.export import export, loadable
from components.release.parity import Parity, Scored, compare_logprobs, released_engine, require_parity
from components.training.group import borrow_learners
from components.training.types import Sequence
from tasks.stage import StageConfig

MODEL = "model"
PARITY_OF = {True: "these files", False: "these weights as float32 (not of the {} kernels of a GPU)"}
PARITY_SEQUENCES = 64
STEPS = 4


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Inputs: `model` (checkpoint), `corpus`, `data` (clean corpus), `evaluate-*` of every stage.

    Raises:
        BadInput: the model was not evaluated. Diverged: parity is outside the tolerance; nothing is published.
    """
    section: ReleaseConfig = config.section
    source, directory = context.fetch(inputs["model"], MODEL), context.output / MODEL
    evaluations = _evaluations(context, inputs)
    context.progress(0, STEPS, f"exporting {section.dtype}")
    exported = export(source, directory, section.model_name, section.dtype)
    context.check()
    context.progress(1, STEPS, "log-prob parity")
    benchmarks = read_benchmarks(context.fetch(inputs["corpus"], "benchmarks").parent)
    sequences = held_out_sequences(list(evaluations.values())[-1], benchmarks, directory)
    loaded = loadable(directory.absolute(), context.execution.device, context.scratch)
    parity = _parity(context, config, source, loaded, sequences)
    if loaded != directory.absolute():
        shutil.rmtree(loaded)
    (context.output / "parity.json").write_text(json.dumps(parity.report(), indent=2) + "\n")
    context.attach(context.output / "parity.json", "parity.json")
    measured = {name: getattr(parity, f"{name}_abs_dlogp") for name in ("max", "p99", "mean")}
    context.metrics({f"parity/{name}_abs_dlogp": value for name, value in measured.items()}, 0)
    require_parity(parity, section.dtype)
    context.check()
    context.progress(2, STEPS, "scores")
    _write_scores(context, evaluations)
    context.progress(3, STEPS, "card")
    spec = spec_for(config.model)
    card = render_card(
        CardFacts(
            name=section.model_name,
            alias=section.alias,
            licence=section.licence,
            preset=config.model.preset,
            exported=exported,
            parity=parity,
            architecture=_architecture(spec),
            sources=json.loads(context.fetch(inputs["data"], "sources.json").read_text()),
            decontamination=json.loads(context.fetch(inputs["data"], "decontamination.json").read_text()),
            evaluations=evaluations,
            artifacts={name: (ref.fingerprint, ref.uri) for name, ref in inputs.items()},
            picture="stages.png",
            parity_of=PARITY_OF[loaded == directory.absolute()].format(section.dtype),
        )
    )
    for folder in (context.output, directory):
        (folder / "README.md").write_text(card)
    shutil.copyfile(context.output / "stages.png", directory / "stages.png")
    context.attach(context.output / "README.md", "README.md")
    context.progress(STEPS, STEPS, "released")
    final = list(evaluations.values())[-1].overall
    return StageResult(
        summary={
            "registered_model": section.model_name,
            "alias": section.alias,
            "overall": round(final.avg.value, 4),
            "overall_low": round(final.avg.low, 4),
            "overall_high": round(final.avg.high, 4),
            "parity_max_abs_dlogp": parity.max_abs_dlogp,
            "parity_p99_abs_dlogp": parity.p99_abs_dlogp,
            "parity_mean_abs_dlogp": parity.mean_abs_dlogp,
            "parity_tokens": parity.tokens,
            "parameters": exported.parameters[0],
            "bytes": exported.bytes,
            "dtype": exported.dtype,
        },
        contract=contract(load_tokenizer(directory), spec, section.dtype),
    )


def held_out_sequences(
    evaluation: Evaluation, benchmarks: Mapping[str, list[BenchmarkItem]], directory: Path
) -> list[Scored]:
    """Prompts of held-out items with answers the model really gave, spread evenly over the benchmarks."""
    tokenizer = load_tokenizer(directory)
    items = {(name, item.id): item for name, members in benchmarks.items() for item in members}
    answers = [answer for answer in evaluation.answers if answer.sample == 0 and answer.tokens > 0]
    chosen = answers[:: max(1, len(answers) // PARITY_SEQUENCES)][:PARITY_SEQUENCES]

    def tokens(answer: Answer) -> Scored:
        prompt = encode_prompt(tokenizer, items[answer.benchmark, answer.item].prompt)
        end = [tokenizer.eos_token_id] if answer.finish == "stop" else []
        return [*prompt, *encode_text(tokenizer, answer.response), *end], len(prompt)

    return [tokens(answer) for answer in chosen]


def _parity(
    context: StageContext, config: StageConfig, source: Path, directory: Path, sequences: list[Scored]
) -> Parity:
    execution = context.execution
    if execution.device == "cuda":
        release_all()  # warm engines and learners hold the memory the fresh engine needs
    engine = released_engine(directory, max(len(tokens) for tokens, _ in sequences), execution)
    try:
        # The engine starts while the learners compute.
        with borrow_learners(config.model, execution) as learners:
            learners.load_hf(source)
            scored = learners.logprobs([_sequence(*sequence) for sequence in sequences])
        released = engine.call("score", sequences, deadline_s=execution.step_deadline_s)[0]
    finally:
        engine.close()
    return compare_logprobs([logprobs.tolist() for logprobs, _ in scored], released, config.section.parity_tolerance)


def _sequence(tokens: list[int], prompt_length: int) -> Sequence:
    positions = np.arange(len(tokens))
    return Sequence(np.asarray(tokens, dtype=np.int64), positions >= prompt_length)


def _evaluations(context: StageContext, inputs: Mapping[str, ArtifactRef]) -> dict[str, Evaluation]:
    """Stage -> evaluation in the order of the recipe, the released model's last."""
    found = {
        name.removeprefix("evaluate-"): load_evaluation(context.fetch(ref))
        for name, ref in inputs.items()
        if name.startswith("evaluate-")
    }
    released = inputs["model"]
    own = [stage for stage, evaluation in found.items() if evaluation.settings.get("model") == released.fingerprint]
    if not own:
        raise BadInput(
            f"no evaluation of the model to release ({released.stage}, {released.fingerprint[:16]}) is among "
            f"{', '.join(found) or 'no evaluations'}",
            where=context.node,
            remedy="Evaluate it first: run the recipe without --only",
        )
    order = sorted((stage for stage in found if stage != own[-1]), key=_recipe_order)
    return {stage: found[stage] for stage in [*order, own[-1]]}


def _recipe_order(stage: str) -> tuple[int, int, str]:
    kind, _, number = stage.partition("-")
    place = {"base": 0, "sft": 1, "rlvr": 2, "rlhf": 3}.get(kind, 4)
    return place, int(number) if number.isdigit() else 0, stage


def _write_scores(context: StageContext, evaluations: Mapping[str, Evaluation]) -> None:
    final = list(evaluations.values())[-1]
    scores = {"stages": stage_rows(evaluations), "settings": dict(final.settings), "released": final.scores()}
    (context.output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    (context.output / "scores.md").write_text(markdown_table(evaluations))
    plot_stages(evaluations, context.output / "stages.png")
    for name in ("scores.json", "scores.md", "stages.png"):
        context.attach(context.output / name, name)


def _architecture(spec: LingSpec) -> list[tuple[str, object]]:
    return [
        ("layers", f"{spec.num_hidden_layers}, the first {spec.first_k_dense_replace} dense"),
        ("hidden size", spec.hidden_size),
        ("attention heads", f"{spec.num_attention_heads}, {spec.num_key_value_heads} key-value, {spec.head_dim} wide"),
        (
            "experts",
            f"{spec.num_experts}, {spec.num_experts_per_tok} per token from {spec.topk_group} of {spec.n_group} "
            f"groups, {spec.num_shared_experts} shared",
        ),
        ("vocabulary", spec.vocab_size),
        ("rotary", f"{spec.partial_rotary_factor:g} of each head, theta {spec.rope_theta:g}"),
    ]
