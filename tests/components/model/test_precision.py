"""Which kernels and precisions go together with which devices, shapes and micro-batches."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from components.failures import BadInput
from components.model.builder import build_model
from components.model.layout import UNDIVIDED, Layout
from components.model.precision import FP8_ROWS, check_shapes
from components.model.spec import PRESETS
from components.model.transformer_engine import require
from components.recipe.execution import ExecutionConfig
from components.recipe.load import load_recipe
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.training.group import LearnerGroup
from components.training.learner import Learner
from components.training.types import Sequence
from flows.contracts import check_contracts
from flows.request import RECIPES

without_te = pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is not None, reason="Transformer Engine is installed"
)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"learner_dtype": "fp8"}, r"execution\.kernels: FP8 products are Transformer Engine's"),
        ({"kernels": "transformer_engine", "learner_dtype": "bfloat16"}, r"execution\.kernels: .*NVIDIA GPUs alone"),
        ({"kernels": "transformer_engine", "device": "cuda"}, r"execution\.learner_dtype: .*takes 16 bits"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_starts(settings: dict, complaint: str) -> None:
    execution = ExecutionConfig(learners=1, engines=1, **settings)
    with pytest.raises(BadInput, match=complaint):
        execution.check_devices()
    with pytest.raises(BadInput, match=complaint):
        LearnerGroup(ModelConfig(preset="nano"), execution, seed=0)
    overrides = [f"execution.{key}={value}" for key, value in settings.items()]
    more = ["execution.learners=1", "execution.engines=1"]
    with pytest.raises(BadInput, match=complaint):
        check_contracts(load_recipe("nano", [*overrides, *more], RECIPES))


def test_fp8_names_the_side_that_does_not_fit() -> None:
    nano = PRESETS["nano"]
    for spec in PRESETS.values():
        check_shapes(spec, UNDIVIDED, "fp8")
    check_shapes(nano.model_copy(update={"moe_intermediate_size": 24}), UNDIVIDED, "bfloat16")
    with pytest.raises(BadInput, match=r"execution\.learner_dtype: .* moe_intermediate_size of nano is 24"):
        check_shapes(nano.model_copy(update={"moe_intermediate_size": 24}), UNDIVIDED, "fp8")
    small = nano.model_copy(update={"moe_intermediate_size": 16})
    with pytest.raises(BadInput, match=r"is 8 on each of 2 tensor parallel ranks.*lower execution\.tensor_parallel"):
        check_shapes(small, Layout(2, tensor=2), "fp8")


@without_te
def test_without_transformer_engine_the_way_out_is_named_and_nothing_is_built() -> None:
    with pytest.raises(BadInput, match=r"execution\.kernels: Transformer Engine cannot be imported.*docs/gpu\.md"):
        require()
    with pytest.raises(BadInput, match=r"set execution\.kernels to local"):
        build_model(PRESETS["nano"], dtype=torch.bfloat16, fused=True)


@pytest.mark.engine
def test_rows_for_fp8_are_filled_up_and_change_nothing() -> None:
    found = []
    for rows in (1, FP8_ROWS):
        learner = Learner(0, 1, ModelConfig(preset="smoke"), ExecutionConfig(micro_batch_tokens=64), seed=1)
        learner.initialise()
        learner.configure(OptimiserConfig(lr=1e-3), 10, 0.0)
        learner.ranks.rows = rows
        rng = np.random.default_rng(0)
        documents = [Sequence(rng.integers(10, 112, n), np.arange(n) > 2) for n in (37, 5, 23, 41)]
        batches, _ = learner._batches(documents, 64)
        assert all(len(batch.tokens) % rows == 0 for batch in batches)
        found.append(learner.train_tokens(documents, 64))
    for key in ("loss", "grad_norm", "expert_load_max"):
        assert found[1][key] == pytest.approx(found[0][key], rel=1e-5), key
