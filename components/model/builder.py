"""Builds the megatron-core GPTModel of a Ling 2.0 spec.

On CPU the layer spec is megatron's local one with ringflow's attention, norm and experts (layers.py). Weights are drawn
by `initialise` in name order from one seed, so that every data-parallel rank and every machine draws the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model import cpu_compat
from components.model.spec import LingSpec

cpu_compat.install()

from megatron.core import parallel_state  # noqa: E402  after the patches: decorators run at import
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.models.gpt.gpt_model import GPTModel  # noqa: E402
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from components.model.layers import GroupedExperts, LocalMoELayer, PackedAttention, PackedLayout, RMSNorm  # noqa: E402


class LingModel(GPTModel):
    """GPTModel over packed streams of documents; logits, or hidden states for a reward head, only where asked."""

    spec: LingSpec
    _positions: Tensor | None = None
    _with_head: bool = True

    def stream_logits(self, tokens: Tensor, lengths: Sequence[int], positions: Tensor | None = None) -> Tensor:
        """Next-token logits of documents laid one after another.

        Args:
            tokens: [tokens] int64, all documents.
            lengths: tokens of each document; they add up to len(tokens).
            positions: [n] int64, the stream positions wanted; all when None. The LM head runs on these only.

        Returns:
            [n, vocabulary] float32; the row of position t predicts the token after t of the same document.
        """
        return self._run(tokens, lengths, positions, head=True).float()

    def stream_hidden(self, tokens: Tensor, lengths: Sequence[int], positions: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm, [n, hidden]; arguments as in `stream_logits`."""
        return self._run(tokens, lengths, positions, head=False)

    def _run(self, tokens: Tensor, lengths: Sequence[int], positions: Tensor | None, head: bool) -> Tensor:
        self._positions, self._with_head = positions, head
        layout = PackedLayout.of(lengths, self.spec, tokens.device)
        return self(tokens.unsqueeze(0), None, None, packed_seq_params=layout)

    def _postprocess(self, hidden_states, *args, **kwargs):
        hidden = hidden_states.squeeze(1)
        if self._positions is not None:
            hidden = hidden.index_select(0, self._positions)
        return self.output_layer(hidden)[0] if self._with_head else hidden


def transformer_config(spec: LingSpec, dtype: torch.dtype = torch.float32, cpu: bool = True) -> TransformerConfig:
    """Megatron's configuration of a spec: dropless routing, no auxiliary loss (the expert bias balances the load)."""
    dense = spec.first_k_dense_replace
    return TransformerConfig(
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
        moe_shared_expert_intermediate_size=spec.moe_intermediate_size * spec.num_shared_experts or None,
        moe_token_dispatcher_type="allgather" if cpu else "alltoall",
        moe_grouped_gemm=False,
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
    )


def _layer_spec(spec: LingSpec, layer: int) -> ModuleSpec:
    layer_spec = get_gpt_layer_local_spec(
        num_experts=None if spec.is_dense(layer) else spec.num_experts, qk_layernorm=True, normalization="RMSNorm"
    )
    parts = layer_spec.submodules
    parts.input_layernorm = RMSNorm
    parts.pre_mlp_layernorm = RMSNorm
    attention = parts.self_attention.submodules
    attention.q_layernorm = RMSNorm
    attention.k_layernorm = RMSNorm
    attention.core_attention = PackedAttention
    if not spec.is_dense(layer):
        parts.mlp.module = LocalMoELayer
        parts.mlp.submodules.experts = ModuleSpec(module=GroupedExperts)
    return layer_spec


def ensure_parallel_state() -> None:
    """Process groups of one process when nobody connected this one to others. No socket is opened."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel()


def build_model(
    spec: LingSpec, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int | None = None
) -> LingModel:
    """A GPTModel of `spec` on `device`.

    Args:
        seed: draws the weights; None leaves them to a checkpoint (they are undefined until loaded).
    """
    with warnings.catch_warnings():
        # Megatron's own deprecations, once per layer; nothing a user of ringflow could act on.
        warnings.simplefilter("ignore")
        model = _build(spec, device, dtype)
    if seed is not None:
        initialise(model, spec, seed)
    return model


def _build(spec: LingSpec, device: str, dtype: torch.dtype) -> LingModel:
    ensure_parallel_state()
    config = transformer_config(spec, dtype, cpu=device == "cpu")
    layers = [_layer_spec(spec, layer) for layer in range(spec.num_hidden_layers)]
    model = LingModel(
        config=config,
        transformer_layer_spec=TransformerBlockSubmodules(layer_specs=layers, layer_norm=RMSNorm),
        vocab_size=spec.vocab_size,
        max_sequence_length=spec.max_position_embeddings,
        parallel_output=False,
        share_embeddings_and_output_weights=False,
        position_embedding_type="none",  # PackedAttention rotates: it knows where a document starts
    )
    model.spec = spec
    if dtype != torch.float32:
        # FP32 LM head in trainer and engine: worth about two reward points in the Ring 2.6 report.
        model.output_layer.float()
        model.output_layer.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))
    return model.to(device)


@torch.no_grad()
def initialise(model: LingModel, spec: LingSpec, seed: int) -> None:
    """Matrices N(0, initializer_range), norms 1, expert bias 0; the same on every rank and device."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name.rsplit(".", 2)[-2]:
            parameter.fill_(1.0)
        else:
            drawn = torch.empty(parameter.shape, dtype=torch.float32)
            parameter.copy_(drawn.normal_(0.0, spec.initializer_range, generator=generator))
    for bias in expert_biases(model):
        bias.zero_()


def routers(model: LingModel) -> list[torch.nn.Module]:
    """The routers of the sparse layers, first layer first."""
    return [layer.mlp.router for layer in model.decoder.layers if hasattr(layer.mlp, "router")]


def expert_biases(model: LingModel) -> list[Tensor]:
    """The routers' expert biases [experts], float32."""
    return [router.expert_bias for router in routers(model)]
