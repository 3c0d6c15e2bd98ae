"""What megatron-core is told of a Ling 2.0 spec: its TransformerConfig and the layer specs.

The layer spec is megatron's local one with ringflow's attention, norm and experts (layers.py), or, where it is asked
for, that of Transformer Engine (transformer_engine.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from components.model import cpu_compat
from components.model.layout import UNDIVIDED, Layout
from components.model.spec import LingSpec

cpu_compat.install()

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402  after the patches
from megatron.core.transformer.multi_token_prediction import (  # noqa: E402
    MultiTokenPredictionBlockSubmodules,
    get_mtp_layer_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from components.model.layers import GroupedExperts, LocalMoELayer, PackedAttention, RMSNorm  # noqa: E402

LOCAL: Mapping[str, Any] = {"moe_grouped_gemm": False}


def transformer_config(
    spec: LingSpec,
    dtype: torch.dtype = torch.float32,
    cpu: bool = True,
    layout: Layout = UNDIVIDED,
    settings: Mapping[str, Any] = LOCAL,
) -> TransformerConfig:
    """Megatron's configuration of a spec: dropless routing, no auxiliary loss (the expert bias balances the load).

    settings: what the kernels want (components.model.transformer_engine).
    """
    dense = spec.first_k_dense_replace
    config = TransformerConfig(
        tensor_model_parallel_size=layout.tensor,
        sequence_parallel=layout.tensor > 1,
        context_parallel_size=layout.context,
        pipeline_model_parallel_size=layout.pipeline,
        pipeline_dtype=dtype,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=1,
        # Losses hold their denominators: the pipeline schedule must not divide them by the micro-batches.
        calculate_per_token_loss=True,
        num_layers=spec.num_hidden_layers,
        hidden_size=spec.hidden_size,
        num_attention_heads=spec.num_attention_heads,
        num_query_groups=spec.num_key_value_heads,
        kv_channels=spec.head_dim,
        ffn_hidden_size=spec.intermediate_size,
        moe_ffn_hidden_size=spec.moe_intermediate_size,
        num_moe_experts=spec.num_experts,
        moe_layer_freq=[0] * dense + [1] * (spec.num_hidden_layers - dense),
        moe_router_topk=spec.num_experts_per_tok,
        moe_router_num_groups=spec.n_group,
        moe_router_group_topk=spec.topk_group,
        moe_router_score_function=spec.score_function,
        moe_router_enable_expert_bias=True,
        moe_router_topk_scaling_factor=spec.routed_scaling_factor,
        moe_router_dtype="fp32",
        moe_router_load_balancing_type="none",
        moe_router_bias_update_rate=0.0,
        moe_enable_routing_replay=True,  # costs nothing until experts are given
        moe_shared_expert_intermediate_size=spec.moe_intermediate_size * spec.num_shared_experts or None,
        moe_token_dispatcher_type="allgather" if cpu else "alltoall",
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=F.silu,
        normalization="RMSNorm",
        layernorm_epsilon=spec.rms_norm_eps,
        qk_layernorm=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        init_method_std=spec.initializer_range,
        perform_initialization=False,
        use_cpu_initialization=cpu,
        # Each of these is a CUDA kernel or a compiled function.
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        mtp_num_layers=spec.num_nextn_predict_layers or None,
        **settings,
    )
    # Micro-batches have as many tokens as their documents. Set afterwards, because megatron refuses it together with
    # the allgather dispatcher, which needs equal lengths among ranks that share experts: the learner pads those.
    config.variable_seq_lengths = layout.pipeline > 1
    return config


def layer_spec(spec: LingSpec, layer: int, fused: bool = False) -> ModuleSpec:
    """Of layer `layer`, which may be the MTP layer's. fused: Transformer Engine's."""
    if fused:
        from components.model import transformer_engine

        return transformer_engine.layer_spec(spec, layer)
    found = get_gpt_layer_local_spec(
        num_experts=None if spec.is_dense(layer) else spec.num_experts, qk_layernorm=True, normalization="RMSNorm"
    )
    parts = found.submodules
    parts.input_layernorm = RMSNorm
    parts.pre_mlp_layernorm = RMSNorm
    attention = parts.self_attention.submodules
    attention.q_layernorm = RMSNorm
    attention.k_layernorm = RMSNorm
    attention.core_attention = PackedAttention
    if not spec.is_dense(layer):
        parts.mlp.module = LocalMoELayer
        parts.mlp.submodules.experts = ModuleSpec(module=GroupedExperts)
    return found


def mtp_spec(spec: LingSpec, norm: Any, fused: bool = False) -> MultiTokenPredictionBlockSubmodules | None:
    """The MTP layer (DeepSeek-V3, arXiv 2412.19437, 2.2), behind the final norm as in megatron-core and Ling 2.0."""
    if not spec.num_nextn_predict_layers:
        return None
    layer = get_mtp_layer_spec(layer_spec(spec, spec.num_hidden_layers, fused), use_transformer_engine=fused)
    layer.submodules.enorm = layer.submodules.hnorm = layer.submodules.layer_norm = norm
    return MultiTokenPredictionBlockSubmodules(layer_specs=[layer])
