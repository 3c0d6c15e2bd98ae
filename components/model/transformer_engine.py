"""Megatron-core's Transformer Engine layer spec with ringflow's attention semantics, for NVIDIA GPUs, and FP8 products.

What differs from the local layers: linears, norms and experts are Transformer Engine's modules (the norms before QKV
and before a dense FFN are part of the linear after them, experts keep a matrix each), attention is its fused kernel
over the packed stream, and experts are reached through megatron's token dispatcher. What does not: documents, rotary
angles (of half a head, YaRN), the norms of queries and keys, the router and the float32 LM head.

FP8 as Ling 2.0 trained (Ling-V2 `run_pretrain_4k.sh`: `--fp8-recipe blockwise --fp8-format e4m3`; DeepSeek-V3, arXiv
2412.19437, 3.3): the products of linears and experts take e4m3 blocks, 1 x 128 of activations and gradients, 128 x 128
of weights. Weights are kept in bfloat16 with a float32 master copy and rounded anew for every micro-batch: a copy kept
over micro-batches would be stale after an update. Embedding, router, norms, attention and LM head are not in FP8.

Written against megatron-core 0.16.1 and Transformer Engine 2.20.2.
"""

from __future__ import annotations

from copy import copy
from importlib import import_module
from typing import Any

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import Tensor

from components.failures import BadInput
from components.model import kernels
from components.model.layers import PackedAttention, PackedLayout, PaddedMoELayer
from components.model.spec import LingSpec

# Of megatron's TransformerConfig.
SETTINGS: dict[str, Any] = {"moe_grouped_gemm": True}
FP8_SETTINGS: dict[str, Any] = {
    "fp8": "e4m3",
    "fp8_recipe": "blockwise",
    "disable_parameter_transpose_cache": True,  # no copy outlives a micro-batch
}


def require(fp8: bool = False) -> None:
    """Raises BadInput where this process cannot import Transformer Engine, or its GPU has no products of FP8 blocks."""
    try:
        engine = import_module("transformer_engine.pytorch")
        import_module("megatron.core.extensions.transformer_engine")
    except (ImportError, OSError, AttributeError, AssertionError) as error:
        reason = str(error).strip().splitlines()
        raise BadInput(
            f"Transformer Engine cannot be imported: {reason[0] if reason else type(error).__name__}",
            where="execution.kernels",
            remedy="Install the gpu extra on the learners' hosts (docs/gpu.md), or set execution.kernels to local",
        ) from error
    if not fp8:
        return
    available, reason = engine.is_fp8_block_scaling_available(return_reason=True)
    if not available:
        raise BadInput(
            f"no FP8 blocks on this GPU: {reason}",
            where="execution.learner_dtype",
            remedy="Hopper or newer GPUs and CUDA 12.9 have them; else set it to bfloat16",
        )


def layer_spec(spec: LingSpec, layer: int) -> ModuleSpec:
    """Of layer `layer`, which may be the MTP layer's."""
    dense = spec.is_dense(layer)
    found = get_gpt_layer_with_transformer_engine_spec(
        num_experts=None if dense else spec.num_experts, moe_grouped_gemm=not dense, qk_layernorm=True
    )
    found.submodules.self_attention.submodules.core_attention = FusedAttention
    if not dense:
        found.submodules.mlp.module = PaddedMoELayer
    return found


def norm() -> Any:
    from megatron.core.extensions.transformer_engine import TENorm

    return TENorm


class FusedAttention(PackedAttention):
    """The same attention by Transformer Engine's kernels (FlashAttention or cuDNN, `thd` format).

    Context parallel ranks exchange tokens for heads here too: the ring of Transformer Engine's own context parallelism
    wants every document divided over the ranks by halves, which the streams are not.
    """

    def __init__(self, config, layer_number: int, attn_mask_type, attention_type: str, **options) -> None:
        super().__init__(config, layer_number, attn_mask_type, attention_type, **options)
        from megatron.core.extensions.transformer_engine import TEDotProductAttention

        ranks, tensor = config.context_parallel_size, config.tensor_model_parallel_size
        keys = max(config.num_query_groups // tensor, ranks)  # repeated where ranks are more
        whole = copy(config)
        whole.context_parallel_size = 1
        whole.num_attention_heads = config.num_attention_heads // ranks
        whole.num_query_groups = keys * tensor // ranks
        self.kernel = TEDotProductAttention(
            whole,
            layer_number,
            attn_mask_type,
            attention_type,
            softmax_scale=options.get("softmax_scale"),
            pg_collection=options.get("pg_collection"),
        )

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout) -> Tensor:
        query = kernels.RotaryFunction.apply(query, layout.cos, layout.sin)
        key = kernels.RotaryFunction.apply(key, layout.cos, layout.sin)
        out = self.kernel(query, key, value.contiguous(), None, AttnMaskType.causal, packed_seq_params=layout)
        return out.reshape(len(query), -1)


def own_expert_marks(experts: Any) -> None:
    """Marks expert parameters as reduced over the ranks with the same experts. Megatron marks Transformer Engine's only
    where experts are divided, but tensor parallel ranks have tokens of their own."""
    for parameter in experts.parameters():
        parameter.allreduce = False
