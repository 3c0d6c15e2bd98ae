"""The cost and memory models against steps that were measured on a GPU, and the constants of operators that are no
products against a count of the bytes that they are given here."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.model import builder
from components.model.accelerators import parse_cluster
from components.model.cost import BACKWARD, FORWARD, step_time
from components.model.layout import UNDIVIDED, Layout
from components.model.memory import Method, layer_activations, learner_memory
from components.model.spec import PRESETS

# One H200, torch 2.11 with CUDA 13: flows/bench/_gpu_learner.py, `_slice`; docs/gpu.md has the run. Four of
# Ring-mini-2.0's layers, AdamW, steps of two micro-batches of documents of 2,048 tokens; the LM head of bfloat16 models
# in TF32. (method, tokens of a micro-batch, peak in GB, static part in GB, tokens per second)
SLICE = PRESETS["ring-mini-2.0"].model_copy(update={"num_hidden_layers": 4})
MEASURED = {
    "float32": (Method("float32"), 4096, 66.33, None, 10_655),
    "bfloat16": (Method("bfloat16", "bfloat16"), 8192, 80.56, 55.97, 54_751),
    "in parts": (Method("in parts", "bfloat16", recompute=True, head_rows=4096), 8192, 67.90, 55.97, 42_055),
}


@pytest.mark.parametrize("name", MEASURED)
def test_peak_memory_is_the_measured_one(name: str) -> None:
    method, tokens, peak, static, _ = MEASURED[name]
    memory = learner_memory(SLICE, UNDIVIDED, method, 0, tokens, 2, 2048)
    held = memory.weights + memory.gradients + memory.moments
    assert (held + memory.activations + memory.working) / 1e9 == pytest.approx(peak, rel=0.01)
    if static is not None:
        assert held / 1e9 == pytest.approx(static, rel=0.003)


@pytest.mark.parametrize("name", MEASURED)
def test_a_step_takes_as_long_as_the_measured_one(name: str) -> None:
    method, tokens, _, _, rate = MEASURED[name]
    found = step_time(SLICE, UNDIVIDED, method, parse_cluster("1xH200"), 2 * tokens, tokens, 2048)
    assert 2 * tokens / found.total == pytest.approx(rate, rel=0.1)


def test_a_step_s_parts_follow_what_they_are_made_of() -> None:
    h200 = parse_cluster("64xH200")

    def step(layout: Layout = UNDIVIDED, tokens: int = 1 << 20, **changes):
        method = Method("any", "bfloat16", **changes)
        return step_time(PRESETS["ring-mini-2.0"], layout, method, h200, tokens, 8192, 2048)

    once, again, parts = step(), step(recompute=True), step(head_rows=4096)
    head = 2 * SLICE.vocab_size * SLICE.hidden_size * (1 << 20) / (494.7e12 * 0.65)
    assert parts.compute - once.compute == pytest.approx(head)
    assert again.compute > once.compute + head / 2
    assert again.memory > once.memory < parts.memory
    assert once.optimiser == again.optimiser == step(tokens=1 << 21).optimiser
    assert step(Layout(8), distributed=True).optimiser < step(Layout(8)).optimiser
    # A pipeline waits for its last stage, which has the head.
    assert 2 * step(Layout(2, pipeline=2)).compute > once.compute


class Moved(TorchDispatchMode):
    """Bytes that operators other than products and views read and write."""

    PRODUCTS = ("mm", "bmm", "_grouped_mm", "_scaled_dot_product_flash_attention_for_cpu", "_unsafe_view", "empty_like")

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func._opname.removesuffix("_backward") not in self.PRODUCTS:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
            self.bytes[func._opname] += sum(t.numel() * t.element_size() for t in tensors)
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_between_products_move_so_many_times_what_layers_save(dtype: torch.dtype) -> None:
    """Of Ring-mini-2.0 everything but layers, vocabulary and experts to choose from at a quarter."""
    spec = PRESETS["ring-mini-2.0"].model_copy(
        update={
            **{"num_hidden_layers": 4, "vocab_size": 256, "hidden_size": 512, "num_attention_heads": 4},
            **{"num_key_value_heads": 1, "intermediate_size": 1280, "moe_intermediate_size": 128, "num_experts": 32},
        }
    )
    model = builder.build_model(spec, dtype=dtype)
    for parameter in model.parameters():
        parameter.data.fill_(1.0) if parameter.dim() == 1 else parameter.data.normal_(0, 0.02)
    tokens = torch.arange(256)
    with Moved() as forward:
        out = model.run(tokens, [128, 128], None, head=False)
    with Moved() as backward:
        out.sum().backward()
    saved = sum(layer_activations(spec, spec.is_dense(layer), dtype.itemsize) for layer in range(4)) * len(tokens)
    assert sum(forward.bytes.values()) / saved == pytest.approx(FORWARD, rel=0.2)
    assert sum(backward.bytes.values()) / saved == pytest.approx(BACKWARD, rel=0.2)
