"""The layers ringflow puts into megatron-core's layer spec so that it runs on CPU and on packed rows.

Tokens come as one packed stream of documents (megatron's `thd` format, no padding). Attention stays inside a document
and positions count from its start, so a document's log-probs do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import all_to_all
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.moe_layer import MoELayer
from torch import Tensor, nn

from components.model import kernels
from components.model.rotary import rotary_angles
from components.model.spec import LingSpec


class RMSNorm(nn.Module):
    """Root mean square normalisation (arXiv 1910.07467), computed in float32.

    Megatron's torch fallback refuses sequence parallelism because it does not mark its weight; this one does.
    """

    def __init__(self, config, hidden_size: int, eps: float = 1e-6, **_) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, hidden: Tensor) -> Tensor:
        return kernels.RMSNormFunction.apply(hidden, self.weight, self.eps)


@dataclass
class PackedLayout(PackedSeqParams):
    """Where documents stand in one packed stream of tokens: megatron's `thd` format plus what the CPU attention needs.

    gather: [places] the token each padded place holds; padding repeats the document's last token.
    places: [tokens] the padded place of each token.
    buckets: (documents, longest) of each bucket; the padded places are the buckets, one after another.
    cos, sin: [tokens, 1, rotary dimension / 2], of the rotary angles; positions count from a document's start.
    """

    gather: Tensor | None = None
    places: Tensor | None = None
    buckets: tuple[tuple[int, int], ...] = ()
    cos: Tensor | None = None
    sin: Tensor | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], spec: LingSpec, device: torch.device | str = "cpu") -> PackedLayout:
        """The layout of documents of `lengths` tokens, in stream order."""
        lengths_array = np.asarray(lengths, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths_array)])
        cumulative = torch.as_tensor(starts, dtype=torch.int32, device=device)
        longest = int(lengths_array.max())
        buckets, gathers = [], []
        places, taken = np.empty(starts[-1], dtype=np.int64), 0
        for members in _buckets(lengths_array):
            sizes, width = lengths_array[members], int(lengths_array[members].max())
            column = np.arange(width)[None, :]
            gather = (starts[members][:, None] + np.minimum(column, sizes[:, None] - 1)).ravel()
            real = np.flatnonzero((column < sizes[:, None]).ravel())
            places[gather[real]] = taken + real
            taken += len(gather)
            gathers.append(gather)
            buckets.append((len(members), width))
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths_array)
        cos, sin = rotary_angles(spec, torch.as_tensor(positions, device=device))
        return cls(
            qkv_format="thd",
            cu_seqlens_q=cumulative,
            cu_seqlens_kv=cumulative,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
            gather=torch.as_tensor(np.concatenate(gathers), device=device),
            places=torch.as_tensor(places, device=device),
            buckets=tuple(buckets),
            cos=cos,
            sin=sin,
        )


def _buckets(lengths: np.ndarray) -> list[np.ndarray]:
    """Documents of similar length together, so that padding stays below half of a bucket."""
    order = np.argsort(-lengths, kind="stable")
    groups: list[list[int]] = []
    for document in order:
        if not groups or lengths[document] * 3 < lengths[groups[-1][0]] * 2:
            groups.append([])
        groups[-1].append(int(document))
    return [np.asarray(group) for group in groups]


class PackedAttention(MegatronModule):
    """Rotary embedding and causal attention inside each document, with grouped queries, no mask, no wasted pairs.

    Documents are gathered into padded batches of similar length: padding stands after a document, so causality alone
    hides it. Stands in for megatron's DotProductAttention, which needs the CUDA random state tracker and asserts that
    context_parallel_size is 1 (only Transformer Engine's attention has it). Here context parallel ranks exchange tokens
    for heads before and after (DeepSpeed-Ulysses, arXiv 2309.14509): each computes whole documents with some heads.
    """

    def __init__(
        self,
        config,
        layer_number: int,
        attn_mask_type,
        attention_type: str,
        softmax_scale=None,
        pg_collection=None,
        **_,
    ) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale
        self.context = pg_collection.cp if config.context_parallel_size > 1 else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask=None,
        attn_mask_type=None,
        attention_bias=None,
        packed_seq_params: PackedLayout | None = None,
    ) -> Tensor:
        """query [tokens here, heads, dim], key and value [tokens here, KV heads, dim] -> [tokens here, heads * dim]."""
        if self.context is None:
            return self._attend(query, key, value, packed_seq_params)
        ranks = self.context.size()
        # Fewer key-value heads than ranks: each is given to the ranks that hold its queries.
        copies = max(1, ranks // key.shape[1])
        key, value = (t.repeat_interleave(copies, dim=1) for t in (key, value))
        whole = [_heads_for_tokens(t, self.context) for t in (query, key, value)]
        out = self._attend(*whole, packed_seq_params)
        return _tokens_for_heads(out.view(len(out), -1, query.shape[-1]), self.context).flatten(1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout) -> Tensor:
        _, heads, dim = query.shape
        gqa = key.shape[1] != heads
        query = kernels.RotaryFunction.apply(query, layout.cos, layout.sin)
        key = kernels.RotaryFunction.apply(key, layout.cos, layout.sin)
        padded = [kernels.PadFunction.apply(tensor, layout.gather, layout.places) for tensor in (query, key, value)]
        sizes = [documents * width for documents, width in layout.buckets]
        outputs = []
        for (documents, width), *parts in zip(layout.buckets, *(tensor.split(sizes) for tensor in padded), strict=True):
            views = (part.view(documents, width, -1, dim).transpose(1, 2) for part in parts)
            out = F.scaled_dot_product_attention(*views, is_causal=True, scale=self.scale, enable_gqa=gqa)
            outputs.append(out.transpose(1, 2).reshape(documents * width, heads * dim))
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return kernels.UnpadFunction.apply(joined, layout.places)


def _heads_for_tokens(x: Tensor, group) -> Tensor:
    """[tokens / ranks, heads, dim] -> [tokens, heads / ranks, dim]."""
    tokens, heads, dim = x.shape
    ranks = group.size()
    sent = x.reshape(tokens, ranks, heads // ranks, dim).transpose(0, 1).reshape(ranks * tokens, -1)
    return all_to_all(group, sent).view(ranks * tokens, heads // ranks, dim)


def _tokens_for_heads(x: Tensor, group) -> Tensor:
    """[tokens, heads / ranks, dim] -> [tokens / ranks, heads, dim]; the inverse of `_heads_for_tokens`."""
    tokens, heads, dim = x.shape
    ranks = group.size()
    received = all_to_all(group, x.reshape(tokens, heads * dim)).view(ranks, tokens // ranks, heads, dim)
    return received.transpose(0, 1).reshape(tokens // ranks, ranks * heads, dim)


class GroupedExperts(MegatronModule):
    """A rank's experts in two stacks: fc1 [experts, 2 * ffn, hidden], gate rows first; fc2 [experts, hidden, ffn]."""

    def __init__(self, num_local_experts: int, config, pg_collection=None, submodules=None) -> None:
        super().__init__(config=config)
        ffn, hidden = config.moe_ffn_hidden_size, config.hidden_size
        self.fc1 = nn.Parameter(torch.empty(num_local_experts, 2 * ffn, hidden, dtype=config.params_dtype))
        self.fc2 = nn.Parameter(torch.empty(num_local_experts, hidden, ffn, dtype=config.params_dtype))
        for parameter in (self.fc1, self.fc2):
            parameter.allreduce = (
                False  # megatron's mark of expert parameters: reduced over ranks with the same experts
            )

    def forward(self, grouped: Tensor, tokens_per_expert: Tensor, probs: Tensor) -> tuple[Tensor, None]:
        """Rows grouped by expert [rows, hidden], as megatron's dispatchers hand them; probs: of the rows, [rows]."""
        ends = tokens_per_expert.cumsum(0).to(device=grouped.device, dtype=torch.int32)
        return kernels.GroupedFfnFunction.apply(grouped, probs, self.fc1, self.fc2, ends), None


class PaddedMoELayer(MoELayer):
    """Megatron's MoE layer over a stream that may be filled up.

    padding: tokens at the end of this rank's share that fill the stream up; they are routed like others, since ranks
    that share experts exchange equal numbers of rows, but no expert's load counts them.
    """

    padding: int = 0

    def route(self, hidden_states: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        probs, chosen = super().route(hidden_states)
        if self.padding and torch.is_grad_enabled():
            # The mask megatron-core 0.16.1 takes for this does not broadcast ([tokens, experts] & [tokens]).
            self.router.local_tokens_per_expert -= chosen[-self.padding :].sum(0)
        return probs, chosen


class LocalMoELayer(PaddedMoELayer):
    """With all experts on this rank without a dispatcher, by one fused expert kernel."""

    def forward(self, hidden_states: Tensor, intermediate_tensors=None, padding_mask=None) -> tuple[Tensor, None]:
        """[length, 1, hidden] -> the same shape, no bias."""
        if self.num_local_experts < self.config.num_moe_experts:
            return super().forward(hidden_states)
        shared = self.shared_experts_compute(hidden_states)
        probs, chosen = self.route(hidden_states)
        experts = self.experts
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        out = kernels.ExpertsFunction.apply(flat, probs, chosen, experts.fc1, experts.fc2, self.config.moe_router_topk)
        out = out.view(hidden_states.shape)
        return (out if shared is None else out + shared), None
