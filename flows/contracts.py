"""Checks between stages that would otherwise fail hours later: lengths, vocabulary, tokenizer and chat template.

Only reads: the recipe's numbers against the architecture, and, for an imported base, the small files of its directory
(config.json, tokenizer.json, tokenizer_config.json), from disk or from S3.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from components.failures import BadInput
from components.model.architecture import check_architecture
from components.model.layout import Layout
from components.model.precision import check_shapes
from components.model.spec import LingSpec, extended, spec_for
from components.recipe.data import FileSource, GeneratorSource
from components.recipe.recipe import Recipe
from components.recipe.rl import RlPhase
from components.recipe.training import ImportConfig, PretrainConfig
from flows.completed import is_registered, small_files


def check_contracts(recipe: Recipe, read_base: bool = True) -> None:
    """Raises BadInput naming the recipe key and both values.

    Args:
        read_base: also open the directory of an imported base; `plan` leaves it out when the directory is elsewhere.
    """
    _data(recipe)
    if recipe.model.preset == "base":
        return  # nothing can be told of a model that is not known yet (flows.completed)
    spec = spec_for(recipe.model)
    if recipe.corpus.gates.expectations:
        from components.data.suites import check_expectations

        check_expectations(recipe.corpus.gates.expectations)
    _phase_names(recipe)
    _lengths(recipe, spec)
    _rules(recipe, spec)
    if read_base and isinstance(recipe.base, ImportConfig) and not is_registered(recipe.base):
        _imported_base(recipe, recipe.base.uri, spec)


def _data(recipe: Recipe) -> None:
    """Every stage finds a source of its split, and the model something to be judged by."""
    sources = recipe.corpus.sources
    if any(isinstance(source, GeneratorSource) for source in sources):
        return
    stages = {"sft": "sft"}
    if isinstance(recipe.base, PretrainConfig):
        stages["pretrain"] = "base"
    if recipe.rlvr or recipe.rlhf is not None:
        stages["rl"] = "rlvr" if recipe.rlvr else "rlhf"
    if recipe.reward_model is not None:
        stages["preference"] = "reward_model"
    for split, stage in stages.items():
        if split not in {source.split for source in sources if isinstance(source, FileSource)}:
            raise BadInput(
                f"no source has split {split}, which {stage} trains on",
                where="corpus.sources",
                remedy=f"Add {{uri: FILE, split: {split}}}; the same file may serve several splits",
            )
    if not recipe.corpus.benchmarks:
        raise BadInput(
            "no benchmark: nothing would say how good the model is, and what it was not trained on",
            where="corpus.benchmarks",
            remedy="Keep some records of your file apart, for example its last 100 lines, and name that file: "
            "benchmarks: [{name: held-out, uri: FILE}]",
        )


def _phase_names(recipe: Recipe) -> None:
    seen: dict[str, int] = {}
    for index, phase in enumerate(recipe.rlvr):
        if phase.name in seen:
            raise BadInput(
                f"the phases {seen[phase.name]} and {index} are both called {phase.name!r}",
                where=f"rlvr.{index}.name",
                remedy="Name each phase differently",
            )
        seen[phase.name] = index


def _lengths(recipe: Recipe, spec: LingSpec) -> None:
    context = spec.max_position_embeddings
    rows = {"sft.sequence_length": recipe.sft.sequence_length}
    if recipe.reward_model is not None:
        rows["reward_model.sequence_length"] = recipe.reward_model.sequence_length
    if not isinstance(recipe.base, ImportConfig):
        rows["base.sequence_length"] = recipe.base.sequence_length
    answers = {f"rlvr.{i}.rollout.max_new_tokens": p.rollout.max_new_tokens for i, p in enumerate(recipe.rlvr)}
    if recipe.rlhf is not None:
        answers["rlhf.rollout.max_new_tokens"] = recipe.rlhf.rollout.max_new_tokens
    stretched = extended(spec, recipe.evaluate.yarn_factor).max_position_embeddings
    if recipe.select is not None:
        answers["select.max_new_tokens"] = recipe.select.max_new_tokens
    for key, length in rows.items():
        if length > context:
            raise _too_long(key, length, context)
    for key, length in answers.items():
        if length >= context:
            raise _too_long(key, length, context, " and leaves no room for a prompt")
    if recipe.evaluate.max_new_tokens >= stretched:
        more = " and leaves no room for a prompt"
        raise _too_long("evaluate.max_new_tokens", recipe.evaluate.max_new_tokens, stretched, more)


def _too_long(key: str, length: int, context: int, more: str = "") -> BadInput:
    return BadInput(
        f"{length} tokens do not fit the model's context of {context}{more}",
        where=key,
        remedy="Lower it, or raise model.max_position",
    )


def _rules(recipe: Recipe, spec: LingSpec) -> None:
    if recipe.sft.entropy_low > recipe.sft.entropy_high:
        raise BadInput(
            f"entropy_low {recipe.sft.entropy_low:g} is above entropy_high {recipe.sft.entropy_high:g}",
            where="sft.entropy_low",
        )
    _mtp(recipe, spec)
    Layout.of(recipe.execution).check(spec)
    recipe.execution.check_devices()
    check_shapes(spec, Layout.of(recipe.execution), recipe.execution.learner_dtype)
    phases: dict[str, RlPhase] = {f"rlvr.{index}": phase for index, phase in enumerate(recipe.rlvr)}
    if recipe.rlhf is not None:
        phases["rlhf"] = recipe.rlhf
    for key, phase in phases.items():
        if recipe.execution.placement == "colocated" and phase.rollout.mode == "async":
            raise BadInput(
                "async decodes while the learner updates, colocated lets only one of them work at a time",
                where=f"{key}.rollout.mode",
                remedy="Set execution.placement to disaggregated or shared, or mode to synchronous or c3po++",
            )


def _mtp(recipe: Recipe, spec: LingSpec) -> None:
    """A loss on the token after the next needs a layer that predicts it."""
    if spec.num_nextn_predict_layers:
        return
    for key, section in (("sft", recipe.sft), ("base", recipe.base)):
        if getattr(section, "mtp_loss_weight", None):
            raise BadInput(
                f"{spec.name} has no layer that predicts the token after the next",
                where=f"{key}.mtp_loss_weight",
                remedy="Set model.mtp_layers to 1, or leave the weight out",
            )


def _imported_base(recipe: Recipe, uri: str, spec: LingSpec) -> None:
    from components.model.hf_config import spec_from_config
    from components.model.tokenizer import check_tokenizer, contract, load_tokenizer

    with tempfile.TemporaryDirectory(prefix="ringflow-base-") as name:
        directory = small_files(uri, Path(name))
        found = spec_from_config(directory / "config.json")
        if not spec.num_nextn_predict_layers:
            found = found.without_mtp()
        check_architecture(found, spec, f"base.uri: {uri}")
        tokenizer, expected = load_tokenizer(directory), load_tokenizer(recipe.model.tokenizer)
        check_tokenizer(tokenizer, expected, f"base.uri: {uri}")
        theirs, ours = contract(tokenizer, found), contract(expected, spec)
        for field, advice in (
            ("eos_token_id", "Use one tokenizer for both"),
            ("chat_template_sha256", "SFT teaches one template: set model.tokenizer to the base model's directory"),
        ):
            if getattr(theirs, field) != getattr(ours, field):
                raise BadInput(
                    f"the base model's {field} is {getattr(theirs, field)}, the recipe's {getattr(ours, field)}",
                    where=f"base.uri: {uri}",
                    remedy=advice,
                )
        asked = recipe.model.max_position is not None  # training teaches the positions that the base never saw
        if found.max_position_embeddings < spec.max_position_embeddings and spec.yarn is None and not asked:
            raise BadInput(
                f"the base model's context is {found.max_position_embeddings}, "
                f"the recipe's {spec.max_position_embeddings}",
                where=f"base.uri: {uri}",
                remedy=f"Set model.max_position to {found.max_position_embeddings}",
            )
