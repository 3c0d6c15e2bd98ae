"""Stage `select` (optional): which of SFT's candidates RL starts from, by their answers instead of by entropy.

Output: model/ (the chosen candidate), selection.json (the choice with its reason and every look).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.jsonl import read_records
from components.data.schema import RlRecord
from components.evaluation.checkpoints import Contest, record
from components.evaluation.sampler import codec_for
from components.failures import BadInput
from components.model.spec import spec_for
from components.model.tokenizer import contract, load_tokenizer
from components.recipe.evaluation import SelectConfig
from components.rewards.scorer import open_scorer
from components.rollout.group import warm_engines
from components.training.sft import MEASURES, candidate
from tasks.stage import StageConfig


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """inputs: model (SFT's checkpoint with its candidates), data (clean corpus). Raises BadInput without candidates."""
    section: SelectConfig = config.section
    spec, tokenizer = spec_for(config.model), load_tokenizer(config.model.tokenizer)
    kept = context.fetch(inputs["model"], "candidates")
    # Of equals the longest trained, as SFT's own rule has it.
    steps = sorted((int(path.name) for path in kept.iterdir() if path.name.isdigit()), reverse=True)
    if not steps:
        raise BadInput("the checkpoint has no candidates", where=inputs["model"].uri)
    records = list(read_records(context.fetch(inputs["data"], "data/rl.jsonl"), RlRecord))
    engines = warm_engines(config.model, section.engine_dtype, context.execution)
    codec = codec_for(tokenizer, spec.max_position_embeddings)
    with open_scorer(tier=context.execution.sandbox_tier) as scorer:
        candidates = {str(step): kept / str(step) for step in steps}
        selection = Contest(context, engines, codec, scorer, candidates, records, section).run()
    (context.output / "selection.json").write_text(json.dumps(record(selection, section), indent=1) + "\n")
    context.attach(context.output / "selection.json", "selection.json")
    context.outbox.take(context.locate(inputs["model"], candidate(selection.best)), "model", without=(MEASURES,))
    for look in selection.looks:
        context.metrics({f"select/{name}": mean for name, mean in look.means.items()}, step=look.items)
    summary = {
        "chosen_step": int(selection.best),
        "selection": selection.reason,
        "mean": round(selection.looks[-1].means[selection.best], 4),
        "asked": selection.asked,
        "of": selection.all,
    }
    return StageResult(summary=summary, contract=contract(tokenizer, spec))
