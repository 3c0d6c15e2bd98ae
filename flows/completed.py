"""What a recipe need not say: the model follows from an imported base, lengths from the model, names from the recipe.

A base is a Hugging Face directory or a registered model (models:/NAME@released), whose small files are read here. The
registered one becomes an input of the stage `base`, so that lineage goes through it to the data it was made from.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.artifacts.objects import open_objects
from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.failures import BadInput
from components.model.architecture import preset_of
from components.model.hf_config import spec_from_config
from components.model.spec import PRESETS, LingSpec, spec_for
from components.model.tokenizer import load_tokenizer, tokenizer_sha256
from components.recipe.load import LoadedRecipe
from components.recipe.training import MTP_LOSS_WEIGHT, ImportConfig, PretrainConfig
from flows.references import find_artifact

REGISTERED = "models:/"
ROWS_PER_STEP = 8
SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
TEMPLATE = "chat_template.jinja"
OF_BASE = "the base's"


@dataclass(frozen=True)
class Base:
    """An imported base without its weights. tokenizer: `nano` or its directory. release: None for a directory."""

    spec: LingSpec
    tokenizer: str
    release: ArtifactRef | None = None


def is_registered(section: Any) -> bool:
    return isinstance(section, ImportConfig) and section.uri.startswith(REGISTERED)


def look_at_base(uri: str) -> Base:
    """Reads the small files of an imported base.

    Raises:
        BadInput: no such directory or model, no BailingMoeV2.
        InfrastructureError: the storage or MLflow does not answer.
    """
    if uri.startswith(REGISTERED):
        release = _release(uri)
        store = Store.open(os.environ.get("RINGFLOW_STORE"))
        small = {f"model/{name}" for name in (*SMALL_FILES, TEMPLATE)}
        for name in sorted(small & {file.path for file in store.read_manifest(release).files}):
            directory = store.fetch(release, name).parent
        return Base(spec_from_config(directory / "config.json"), _tokenizer(directory, str(directory)), release)
    with tempfile.TemporaryDirectory(prefix="ringflow-base-") as name:
        directory = small_files(uri, Path(name))
        found = spec_from_config(directory / "config.json")
        return Base(found, _tokenizer(directory, uri.removeprefix("file://")))


def small_files(uri: str, directory: Path) -> Path:
    """Copies config and tokenizer of a Hugging Face directory (local or S3) into `directory`. Raises BadInput."""
    objects = open_objects(uri)
    for file in SMALL_FILES:
        if not objects.get(file, directory / file):
            raise BadInput(
                f"the base model has no {file}",
                where=f"base.uri: {uri}",
                remedy="Name a Hugging Face BailingMoeV2 directory with config.json and a fast tokenizer",
            )
    objects.get(TEMPLATE, directory / TEMPLATE)
    return directory


def completed(loaded: LoadedRecipe, base: Base | None) -> LoadedRecipe:
    """The recipe with what was left out, and where each such value came from.

    base: of an import; None when it is not imported or cannot be read now: then what follows from it stays open.
    Raises BadInput for a model that is neither named nor follows from a base.
    """
    recipe, found = loaded.recipe, {}
    if base is not None:
        named = recipe.model.preset != "base"
        preset = recipe.model.preset if named else preset_of(base.spec, f"base.uri: {recipe.base.uri}")
        context = base.spec.yarn.original_max_position if base.spec.yarn else base.spec.max_position_embeddings
        found = {"model.preset": (preset, OF_BASE), "model.tokenizer": (base.tokenizer, OF_BASE)}
        if base.spec.num_nextn_predict_layers:
            found["model.mtp_layers"] = (base.spec.num_nextn_predict_layers, OF_BASE)
        if not named and context != PRESETS[preset].max_position_embeddings:
            found["model.max_position"] = (context, OF_BASE)
    elif recipe.model.preset == "base" and not isinstance(recipe.base, ImportConfig):
        raise BadInput(
            "a model that is trained from scratch needs its shape",
            where="model.preset",
            remedy=f"One of {', '.join(PRESETS)}",
        )
    found["release.model_name"] = (recipe.name, "the recipe's name")
    if not recipe.rlvr and recipe.rlhf is None:
        found["sft.choose"] = ("loss", "no RL follows")
    loaded = _with(loaded, found)
    if not is_open(loaded):
        spec = spec_for(loaded.recipe.model)
        context = spec.max_position_embeddings
        loaded = _with(loaded, {"sft.sequence_length": (context, "the context")})
        if spec.num_nextn_predict_layers:
            sections = ("sft", "base") if isinstance(recipe.base, PretrainConfig) else ("sft",)
            weight = (MTP_LOSS_WEIGHT, "the model has an MTP layer")
            loaded = _with(loaded, {f"{section}.mtp_loss_weight": weight for section in sections})
        rows = ROWS_PER_STEP * loaded.recipe.sft.sequence_length
        half = (context // 2, "half the context")
        loaded = _with(loaded, {"sft.tokens_per_step": (rows, "8 rows"), "evaluate.max_new_tokens": half})
    return loaded


def is_open(loaded: LoadedRecipe) -> bool:
    """Whether the model is not known yet, because its base could not be read."""
    return loaded.recipe.model.preset == "base"


def _with(loaded: LoadedRecipe, found: Mapping[str, tuple[Any, str]]) -> LoadedRecipe:
    """`found`: dotted key -> (value, origin), taken where the recipe says nothing."""
    recipe, values, origins = loaded.recipe, dict(loaded.values), dict(loaded.origins)
    for key, (value, origin) in found.items():
        if not _left_out(loaded, key):
            continue
        name, field = key.split(".")
        section = getattr(recipe, name).model_copy(update={field: value})
        recipe = recipe.model_copy(update={name: section})
        values[key], origins[key] = value, f"default: {origin}"
    return replace(loaded, recipe=recipe, values=values, origins=origins)


def _left_out(loaded: LoadedRecipe, key: str) -> bool:
    return loaded.origins[key] == "default" or loaded.values[key] == "base"


def _release(uri: str) -> ArtifactRef:
    ref = find_artifact(uri, Store.open(os.environ.get("RINGFLOW_STORE")))
    if ref.kind != "release":
        raise BadInput(f"a {ref.kind} cannot be the base", where=f"base.uri: {uri}", remedy="Name a released model")
    return ref


def _tokenizer(directory: Path, source: str) -> str:
    """`source`, a directory that workers can open; the built-in one where it is that or where they cannot (S3): the
    contracts then say that a local copy is needed."""
    tokenizer, nano = load_tokenizer(directory), load_tokenizer("nano")
    same = tokenizer_sha256(tokenizer) == tokenizer_sha256(nano) and tokenizer.chat_template == nano.chat_template
    return "nano" if same or "://" in source else source
