"""Stage `base`: pre-trains a small Ling 2.0 model from scratch, or imports a Hugging Face checkpoint or a release.

Output: model/ (Hugging Face directory, float32, with tokenizer).
"""

from __future__ import annotations

from collections.abc import Mapping

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.jsonl import read_records
from components.data.schema import PretrainRecord
from components.model.importer import import_checkpoint
from components.model.spec import spec_for
from components.model.tokenizer import contract, load_tokenizer
from components.recipe.training import ImportConfig
from components.training.group import borrow_learners
from components.training.pretrain import train_base
from tasks.stage import StageConfig


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Raises BadInput for a checkpoint of another tokenizer or architecture, or data without documents."""
    section, model = config.section, config.model
    spec, tokenizer = spec_for(model), load_tokenizer(model.tokenizer)
    agreed = contract(tokenizer, spec)
    if isinstance(section, ImportConfig):
        where = str(context.fetch(inputs["release"], "model")) if "release" in inputs else section.uri
        summary = import_checkpoint(where, spec, model.tokenizer, context.output / "model", context.scratch)
        return StageResult(summary=summary, contract=agreed)
    records = read_records(context.fetch(inputs["data"], "data/pretrain.jsonl"), PretrainRecord)
    with borrow_learners(model, context.execution) as learners:
        summary = train_base(context, learners, records, section, tokenizer, model.tokenizer)
    return StageResult(summary=summary, contract=agreed)
