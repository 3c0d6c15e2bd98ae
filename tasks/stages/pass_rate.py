"""Stage `pass-rate` (optional): the SFT model tries every RL prompt, and those it always or never solves go.

Output: data/rl.jsonl (what RLVR and RLHF draw from), pass_rates.jsonl, rollouts.jsonl (evidence), gates/.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.gate_tables import rollout_table
from components.data.gates import run_gates
from components.data.jsonl import read_records
from components.data.schema import RlRecord
from components.data.statistics import repetition
from components.data.suites import suite
from components.failures import BadInput
from components.model.spec import spec_for
from components.model.tokenizer import decode_response, encode_text, load_tokenizer, render_prompt
from components.recipe.mix import PassRateConfig
from components.rewards.scorer import open_scorer
from components.rl.pass_rate import DATA, ROLLOUTS, Codec, estimate_pass_rates, read_rollouts
from components.rollout.group import warm_engines
from tasks.stage import StageConfig


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """inputs: model (checkpoint), data (clean corpus).

    Raises BadInput when no prompt is left, or too many rewards could not be given.
    """
    section: PassRateConfig = config.section
    spec, tokenizer = spec_for(config.model), load_tokenizer(config.model.tokenizer)
    path = context.fetch(inputs["data"], DATA)
    with path.open("rb") as stream:
        total = sum(1 for _ in stream)

    def render(messages):
        text = render_prompt(tokenizer, messages)
        return text, encode_text(tokenizer, text)

    codec = Codec(render, partial(decode_response, tokenizer), (tokenizer.eos_token_id,), spec.max_position_embeddings)
    engines = warm_engines(config.model, section.engine_dtype, context.execution)
    engines.load_directory(context.fetch(inputs["model"], "model"))
    with open_scorer(tier=context.execution.sandbox_tier) as scorer:
        counts = estimate_pass_rates(context, engines, codec, scorer, read_records(path, RlRecord), total, section)
    errors = counts["reward errors"] / max(1, counts["responses"])
    table = rollout_table(list(read_rollouts(context.output / ROLLOUTS)), errors, repetition)
    report = run_gates({"rollouts": (suite("rollouts", config.gates), table)}, context.output / "gates")
    for name, page in report.pages.items():
        context.attach(page, f"gates/{name}{page.suffix}")
    report.require(where="pass_rate", remedy="Read gates/rollouts.html: a verifier or its data is wrong")
    if not counts["kept"]:
        raise BadInput(
            f"no RL prompt is solved sometimes ({dict(counts)})",
            where="pass_rate",
            remedy="Train SFT longer, take easier prompts, or widen min_rate and max_rate",
        )
    return StageResult(summary={**dict(sorted(counts.items())), "reward_error_rate": errors})
