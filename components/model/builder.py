"""Builds the megatron-core GPTModel of a Ling 2.0 spec.

The layer spec is megatron's local one with ringflow's attention, norm and experts (layers.py), or, where it is asked
for, that of Transformer Engine (transformer_engine.py). Weights are drawn by `initialise` from one seed tensor by
tensor, so that every rank, layout and machine draws the same model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.failures import BadInput, InfrastructureError
from components.model import cpu_compat
from components.model.hf import load_hf_state
from components.model.layout import UNDIVIDED, Layout, Place
from components.model.shards import fuse_qkv, tensor_shapes
from components.model.spec import LingSpec

cpu_compat.install()

from megatron.core import parallel_state  # noqa: E402  after the patches: decorators run at import
from megatron.core.fp8_utils import get_fp8_context  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.models.gpt.gpt_model import GPTModel  # noqa: E402
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region  # noqa: E402
from megatron.core.transformer.moe.router_replay import RouterReplayAction  # noqa: E402
from megatron.core.transformer.multi_token_prediction import (  # noqa: E402
    MultiTokenPredictionBlockSubmodules,
    get_mtp_layer_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from components.model.again import compute_again  # noqa: E402
from components.model.head import use_tensor_cores  # noqa: E402
from components.model.layers import GroupedExperts, LocalMoELayer, PackedAttention, PackedLayout, RMSNorm  # noqa: E402

LOCAL: Mapping[str, Any] = {"moe_grouped_gemm": False}


class LingModel(GPTModel):
    """GPTModel over packed streams of documents; logits, or hidden states for a reward head, only where asked.

    Divided over ranks (layout), each gets the whole stream of its replica and computes its share: a context parallel
    rank a stretch of tokens, a tensor parallel rank a part of every matrix, a pipeline stage its layers.
    """

    spec: LingSpec
    layout: Layout = UNDIVIDED
    place: Place = UNDIVIDED.place(0)
    # Training may ask for hidden states and make logits of so many positions at a time (components.training.parallel).
    logit_rows: int | None = None
    _positions: Tensor | None = None
    _with_head: bool = True
    _ahead: int | None = None
    _next: Tensor | None = None

    def stream_logits(self, tokens: Tensor, lengths: Sequence[int], positions: Tensor | None = None) -> Tensor:
        """Next-token logits of documents laid one after another, on an undivided model.

        Args:
            tokens: [tokens] int64, all documents.
            lengths: tokens of each document; they add up to len(tokens).
            positions: [n] int64, the stream positions wanted; all when None. The LM head runs on these only.

        Returns:
            [n, vocabulary] float32; the row of position t predicts the token after t of the same document.
        """
        return self.run(tokens, lengths, positions).float()

    def run(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        positions: Tensor | None,
        head: bool = True,
        padding: int = 0,
        experts: Tensor | None = None,
        ahead: int | None = None,
    ) -> Tensor:
        """This rank's share of a forward pass; a collective over its replica (and the ranks with its experts).

        Args:
            tokens, lengths: as in `stream_logits`; their number is a multiple of tensor x context parallel ranks.
            positions: [n] those of `own_positions`.
            head: logits [n, vocabulary / tensor parallel] from the last stage, else hidden states after the final
                norm, [n, hidden].
            padding: how many tokens at the end fill the stream up; experts do not count them.
            experts: [tokens, sparse layers, topk], which experts each token goes to; None: the routers choose. The MTP
                layer's always does.
            ahead: the last so many of `positions` are the MTP layer's, whose row of position t predicts the token after
                the next, t + 2, from the hidden state of t and the token t + 1; None leaves that layer alone.

        Returns:
            As `head` says on the last pipeline stage; on others the activations to pass on.
        """
        self._positions, self._with_head, self._ahead = positions, head, ahead
        if ahead is not None:
            # What follows a document's last token is never read: no position of it has a token after the next.
            self._next = self._stretch(tokens.roll(-1)).unsqueeze(0)
        packed = PackedLayout.of(lengths, self.spec, tokens.device)
        share = len(tokens) // (self.layout.context * self.layout.tensor)
        first = (self.place.context * self.layout.tensor + self.place.tensor) * share
        for layer in transformer_layers(self):
            if not hasattr(layer.mlp, "router"):
                continue
            layer.mlp.padding = min(share, max(0, first + share - (len(tokens) - padding)))
            replay = layer.mlp.router.router_replay
            replay.clear_indices()
            replay.clear_router_replay_action()
            if experts is not None and layer.layer_number <= self.spec.num_hidden_layers:
                number = layer.layer_number - 1 - self.spec.first_k_dense_replace
                replay.set_target_indices(experts[first : first + share, number])
                replay.set_router_replay_action(RouterReplayAction.REPLAY_FORWARD)
        return self(self._stretch(tokens).unsqueeze(0), None, None, packed_seq_params=packed)

    def own_positions(self, positions: Tensor, tokens: int) -> tuple[Tensor, Tensor | None]:
        """(stream positions this context parallel rank computes, counted from its own first token; which of `positions`
        they are, None for all)."""
        if self.layout.context == 1:
            return positions, None
        stretch = tokens // self.layout.context
        first = self.place.context * stretch
        kept = torch.nonzero((positions >= first) & (positions < first + stretch)).squeeze(1)
        return positions[kept] - first, kept

    def _stretch(self, tokens: Tensor) -> Tensor:
        return tokens.chunk(self.layout.context)[self.place.context]

    def _postprocess(self, hidden_states, *args, packed_seq_params=None, **kwargs):
        if not self.post_process:
            return hidden_states
        if self._ahead is None:
            hidden = self._rows(hidden_states, self._positions)
        else:
            (layer,) = self.mtp.layers
            embedded = self.embedding(input_ids=self._next, position_ids=None)
            later = layer._proj_and_transformer_layer(hidden_states, embedded, packed_seq_params=packed_seq_params)
            here, there = self._positions.split([len(self._positions) - self._ahead, self._ahead])
            hidden = torch.cat([self._rows(hidden_states, here), self._rows(later, there)])
        return self.output_layer(hidden)[0] if self._with_head else hidden

    def _rows(self, hidden_states: Tensor, positions: Tensor | None) -> Tensor:
        if self.config.sequence_parallel:
            # All positions on every tensor parallel rank; what follows is equal on all of them or sums its gradient.
            hidden_states = gather_from_sequence_parallel_region(hidden_states, tensor_parallel_output_grad=False)
        hidden = hidden_states.squeeze(1)
        return hidden if positions is None else hidden.index_select(0, positions)


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


def _layer_spec(spec: LingSpec, layer: int, fused: bool = False) -> ModuleSpec:
    if fused:
        from components.model.transformer_engine import layer_spec as fused_layer_spec

        return fused_layer_spec(spec, layer)
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


def _mtp_spec(spec: LingSpec, norm: Any, fused: bool = False) -> MultiTokenPredictionBlockSubmodules | None:
    """The MTP layer (DeepSeek-V3, arXiv 2412.19437, 2.2), behind the final norm as in megatron-core and Ling 2.0."""
    if not spec.num_nextn_predict_layers:
        return None
    layer = get_mtp_layer_spec(_layer_spec(spec, spec.num_hidden_layers, fused), use_transformer_engine=fused)
    layer.submodules.enorm = layer.submodules.hnorm = layer.submodules.layer_norm = norm
    return MultiTokenPredictionBlockSubmodules(layer_specs=[layer])


def ensure_parallel_state(layout: Layout = UNDIVIDED) -> None:
    """Process groups of `layout`. A process that nobody connected to others is one of its own; no socket is opened.

    Raises:
        BadInput: more or fewer processes are connected than the layout has ranks.
    """
    if not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    if (connected := torch.distributed.get_world_size()) != layout.world:
        raise BadInput(f"{connected} learners are connected, the layout has {layout.world}", where="execution.learners")
    if parallel_state.model_parallel_is_initialized():
        if _initialised == (layout, torch.distributed.group.WORLD):
            return
        # Of another layout, or of connections that somebody (an engine in this process) has ended since.
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=1,
    )
    _remember(layout)


_initialised: tuple[Layout, torch.distributed.ProcessGroup] | None = None


def _remember(layout: Layout) -> None:
    global _initialised
    _initialised = layout, torch.distributed.group.WORLD
    place = layout.place(torch.distributed.get_rank())
    found = Place(
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_context_parallel_rank(),
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_expert_model_parallel_rank(),
    )
    if place != found:
        raise InfrastructureError(f"megatron-core numbers ranks otherwise: {found}, expected {place}")


def build_model(
    spec: LingSpec,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
    layout: Layout = UNDIVIDED,
    recompute: bool = False,
    fused: bool = False,
    fp8: bool = False,
) -> LingModel:
    """A GPTModel of `spec` on `device`, or this rank's part of it.

    Args:
        layout: how it is divided over the connected processes.
        recompute: layers keep their inputs only, and are computed again in the backward pass.
        seed: draws the weights; None leaves them to a checkpoint (they are undefined until loaded).
        fused: layers of Transformer Engine. fp8: whose products are in FP8; `dtype` is bfloat16 then.

    Raises:
        BadInput: there is no Transformer Engine, or no FP8 on this GPU.
    """
    with warnings.catch_warnings():
        # Megatron's own deprecations, once per layer; nothing a user of ringflow could act on.
        warnings.simplefilter("ignore")
        model = _build(spec, device, dtype, layout, fused or fp8, fp8)
    if recompute:
        for layer in transformer_layers(model):
            compute_again(layer, partial(get_fp8_context, model.config))
    if seed is not None:
        initialise(model, spec, seed)
    return model


def _build(spec: LingSpec, device: str, dtype: torch.dtype, layout: Layout, fused: bool, fp8: bool) -> LingModel:
    ensure_parallel_state(layout)
    settings, norm = LOCAL, RMSNorm
    if fused:
        from components.model import transformer_engine

        transformer_engine.require(fp8)
        settings = transformer_engine.SETTINGS | (transformer_engine.FP8_SETTINGS if fp8 else {})
        norm = transformer_engine.norm()
    config = transformer_config(spec, dtype, device == "cpu", layout, settings)
    place = layout.place(torch.distributed.get_rank())
    here = spec.num_hidden_layers // layout.pipeline
    layers = [_layer_spec(spec, layer, fused) for layer in range(place.pipeline * here, (place.pipeline + 1) * here)]
    model = LingModel(
        config=config,
        transformer_layer_spec=TransformerBlockSubmodules(layer_specs=layers, layer_norm=norm),
        vocab_size=spec.vocab_size,
        max_sequence_length=spec.max_position_embeddings,
        pre_process=place.pipeline == 0,
        post_process=place.pipeline == layout.pipeline - 1,
        parallel_output=True,
        share_embeddings_and_output_weights=False,
        position_embedding_type="none",  # PackedAttention rotates: it knows where a document starts
        mtp_block_spec=_mtp_spec(spec, norm, fused),
    )
    if fused:
        for layer in transformer_layers(model):
            if hasattr(layer.mlp, "experts"):
                transformer_engine.own_expert_marks(layer.mlp.experts)
    model.spec, model.layout, model.place = spec, layout, place
    if model.post_process and layout.tensor > 1:
        # The hidden states were gathered before positions were chosen: the head gets the same rows on every rank.
        model.output_layer.sequence_parallel, model.output_layer.allreduce_dgrad = False, True
    if model.post_process and dtype != torch.float32:
        # FP32 LM head in trainer and engine: worth about two reward points in the Ring 2.6 report.
        model.output_layer.float()
        model.output_layer.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))
        if device == "cuda":
            use_tensor_cores(model.output_layer)
    return model.to(device)


def initialise(model: LingModel, spec: LingSpec, seed: int) -> None:
    """Matrices N(0, initializer_range), norms 1, expert bias 0; the same model on every rank, layout and device."""
    load_hf_state(model, spec, _drawn(spec, seed))


def _drawn(spec: LingSpec, seed: int) -> Iterator[tuple[str, Tensor]]:
    """HF tensors drawn from one generator, one megatron matrix after another."""
    generator = torch.Generator().manual_seed(seed)
    shapes = tensor_shapes(spec)

    def matrix(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32).normal_(0.0, spec.initializer_range, generator=generator)

    def gated(prefixes: Sequence[str], width: int) -> Iterator[tuple[str, Tensor]]:
        fc1 = matrix(len(prefixes), 2 * width, spec.hidden_size)
        fc2 = matrix(len(prefixes), spec.hidden_size, width)
        for prefix, both, down in zip(prefixes, fc1, fc2, strict=True):
            yield f"{prefix}.gate_proj.weight", both[:width]
            yield f"{prefix}.up_proj.weight", both[width:]
            yield f"{prefix}.down_proj.weight", down

    def named(name: str) -> tuple[str, Tensor]:
        return name, matrix(*shapes[name])

    def of_layer(layer: int) -> Iterator[tuple[str, Tensor]]:
        prefix = f"model.layers.{layer}"
        yield named(f"{prefix}.attention.dense.weight")
        qkv = f"{prefix}.attention.query_key_value.weight"
        yield qkv, fuse_qkv(matrix(*shapes[qkv]), spec)
        if spec.is_dense(layer):
            yield from gated([f"{prefix}.mlp"], spec.intermediate_size)
            return
        yield named(f"{prefix}.mlp.gate.weight")
        experts = [f"{prefix}.mlp.experts.{expert}" for expert in range(spec.num_experts)]
        yield from gated(experts, spec.moe_intermediate_size)
        if spec.num_shared_experts:
            width = spec.moe_intermediate_size * spec.num_shared_experts
            yield from gated([f"{prefix}.mlp.shared_experts"], width)

    yield named("model.word_embeddings.weight")
    for layer in range(spec.num_hidden_layers):
        yield from of_layer(layer)
    yield named("lm_head.weight")
    if spec.num_nextn_predict_layers:  # last, so that the rest is what it is without
        yield named(f"{spec.mtp_prefix}eh_proj.weight")
        yield from of_layer(spec.num_hidden_layers)
    for name, shape in shapes.items():
        if "norm" in name.rsplit(".", 2)[-2]:
            yield name, torch.ones(shape)
        elif name.endswith("expert_bias"):
            yield name, torch.zeros(shape)


def transformer_layers(model: LingModel) -> list[torch.nn.Module]:
    """This rank's layers, first layer first, the MTP layer's last."""
    return [*model.decoder.layers, *(each.transformer_layer for each in mtp_layers(model))]


def mtp_layers(model: LingModel) -> list[torch.nn.Module]:
    """The layers that predict the token after the next: one, or none."""
    return list(model.mtp.layers) if model.mtp_process else []


def routers(model: LingModel) -> list[torch.nn.Module]:
    """The routers of the sparse layers, first layer first."""
    return [layer.mlp.router for layer in transformer_layers(model) if hasattr(layer.mlp, "router")]


def expert_biases(model: LingModel) -> list[Tensor]:
    """The routers' expert biases [experts], float32."""
    return [router.expert_bias for router in routers(model)]
