"""Builds the megatron-core GPTModel of a Ling 2.0 spec, or a rank's part of it, and names its parts.

What megatron is told of a spec is in components.model.megatron_config, the process groups it stands on in
components.model.process_groups, the weights it begins with in components.model.initial.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from components.model import cpu_compat
from components.model.initial import initialise
from components.model.layout import UNDIVIDED, Layout, Place
from components.model.spec import LingSpec

cpu_compat.install()

from megatron.core.fp8_utils import get_fp8_context  # noqa: E402  after the patches: decorators run at import
from megatron.core.models.gpt.gpt_model import GPTModel  # noqa: E402
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region  # noqa: E402
from megatron.core.transformer.moe.router_replay import RouterReplayAction  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules  # noqa: E402

from components.model.again import compute_again  # noqa: E402
from components.model.head import use_tensor_cores  # noqa: E402
from components.model.layers import PackedLayout, RMSNorm  # noqa: E402
from components.model.megatron_config import LOCAL, layer_spec, mtp_spec, transformer_config  # noqa: E402
from components.model.process_groups import ensure_parallel_state  # noqa: E402


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
    layers = [layer_spec(spec, layer, fused) for layer in range(place.pipeline * here, (place.pipeline + 1) * here)]
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
        mtp_block_spec=mtp_spec(spec, norm, fused),
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
