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
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn


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
        return F.rms_norm(hidden.float(), self.weight.shape, self.weight.float(), self.eps).to(hidden.dtype)


@dataclass
class PackedLayout(PackedSeqParams):
    """Where documents stand in one packed stream of tokens: megatron's `thd` format plus what the CPU attention needs.

    buckets: (gather, scatter) index pairs. `gather` [documents, longest] names for each padded place the token it
    holds (padding repeats the document's last token); `scatter` [tokens of the bucket] names the places to read back.
    order: [tokens] puts the buckets' tokens, one after another, back into stream order.
    """

    buckets: tuple[tuple[Tensor, Tensor], ...] = ()
    order: Tensor | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], device: str = "cpu") -> PackedLayout:
        """The layout of documents of `lengths` tokens, in stream order."""
        lengths_array = np.asarray(lengths, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths_array)])
        cumulative = torch.as_tensor(starts, dtype=torch.int32, device=device)
        longest = int(lengths_array.max())
        buckets, stream = [], []
        for members in _buckets(lengths_array):
            sizes = lengths_array[members]
            width = int(sizes.max())
            inside = np.minimum(np.arange(width)[None, :], sizes[:, None] - 1)
            gather = starts[members][:, None] + inside
            real = np.arange(width)[None, :] < sizes[:, None]
            buckets.append(
                (
                    torch.as_tensor(gather, device=device),
                    torch.as_tensor(np.flatnonzero(real.ravel()), device=device),
                )
            )
            stream.append(gather[real])
        order = np.argsort(np.concatenate(stream), kind="stable")
        return cls(
            qkv_format="thd",
            cu_seqlens_q=cumulative,
            cu_seqlens_kv=cumulative,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
            buckets=tuple(buckets),
            order=torch.as_tensor(order, device=device),
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
    """Causal attention inside each document, with grouped queries, no mask and no wasted pairs.

    Documents are gathered into padded batches of similar length: padding stands after a document, so causality alone
    hides it. Stands in for megatron's DotProductAttention, which needs the CUDA random state tracker.
    """

    def __init__(self, config, layer_number: int, attn_mask_type, attention_type: str, softmax_scale=None, **_) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale

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
        """query [tokens, heads, dim], key and value [tokens, KV heads, dim] -> [tokens, heads * dim]."""
        _, heads, dim = query.shape
        gqa = key.shape[1] != heads
        outputs = []
        for gather, scatter in packed_seq_params.buckets:
            documents, width = gather.shape
            index = gather.view(-1)
            padded = (
                tensor.index_select(0, index).view(documents, width, -1, dim).transpose(1, 2)
                for tensor in (query, key, value)
            )
            out = F.scaled_dot_product_attention(*padded, is_causal=True, scale=self.scale, enable_gqa=gqa)
            outputs.append(out.transpose(1, 2).reshape(documents * width, heads * dim).index_select(0, scatter))
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return joined.index_select(0, packed_seq_params.order)


class GroupedExperts(MegatronModule):
    """All local experts as two stacked matrices, one grouped matrix product each.

    fc1: [experts, 2 * ffn, hidden], gate rows first. fc2: [experts, hidden, ffn].
    """

    def __init__(self, num_local_experts: int, config, pg_collection=None, submodules=None) -> None:
        super().__init__(config=config)
        ffn, hidden = config.moe_ffn_hidden_size, config.hidden_size
        self.fc1 = nn.Parameter(torch.empty(num_local_experts, 2 * ffn, hidden, dtype=config.params_dtype))
        self.fc2 = nn.Parameter(torch.empty(num_local_experts, hidden, ffn, dtype=config.params_dtype))

    def forward(self, hidden: Tensor, tokens_per_expert: Tensor, probs: Tensor) -> tuple[Tensor, None]:
        """hidden [tokens, hidden] sorted by expert, probs [tokens] -> ([tokens, hidden], no bias)."""
        ends = tokens_per_expert.cumsum(0).to(device=hidden.device, dtype=torch.int32)
        gate, up = torch._grouped_mm(hidden, self.fc1.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        inner = (F.silu(gate) * up * probs.unsqueeze(-1)).to(hidden.dtype)
        return torch._grouped_mm(inner, self.fc2.transpose(1, 2), offs=ends), None
