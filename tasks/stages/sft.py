"""Stage `sft`: Long-CoT SFT, several candidates, and the choice of the one RL starts from.

Output: model/ (the chosen candidate), candidates/<step>/, selection.json (the choice with its reason).
"""

from __future__ import annotations

from collections.abc import Mapping

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.jsonl import read_records
from components.data.schema import SftRecord
from components.model.spec import spec_for
from components.model.tokenizer import contract, load_tokenizer
from components.training.group import borrow_learners
from components.training.sft import train_sft
from tasks.stage import StageConfig


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Raises BadInput when the records do not fit a row, Diverged when training produces NaN twice."""
    model = config.model
    tokenizer = load_tokenizer(model.tokenizer)
    start = context.locate(inputs["model"], "model")
    records = read_records(context.fetch(inputs["data"], "data/sft.jsonl"), SftRecord)
    with borrow_learners(model, context.execution) as learners:
        summary = train_sft(context, learners, records, config.section, tokenizer, model.tokenizer, start)
    context.attach(context.output / "selection.json", "selection.json")
    return StageResult(summary=summary, contract=contract(tokenizer, spec_for(model)))
