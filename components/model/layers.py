"""The layers ringflow puts into megatron-core's layer spec so that it runs on CPU and on packed rows.

A packed row holds several documents. `PackedAttention` attends inside a document only, and `PackedRotaryEmbedding`
numbers positions from the document's start, so a document's log-probs do not depend on its neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
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


class PackedRotaryEmbedding(RotaryEmbedding):
    """RoPE angles for explicit positions: `positions` [batch, length] is set before every forward pass."""

    positions: Tensor | None = None

    def forward(self, max_seq_len: int, offset: int = 0, packed_seq: bool = False, cp_group=None) -> Tensor:
        """Angles [length, batch, 1, rotary dimension]."""
        angles = self.positions.t().unsqueeze(-1).to(self.inv_freq.dtype) * self.inv_freq
        return torch.cat((angles, angles), dim=-1).unsqueeze(2)


class PackedAttention(MegatronModule):
    """Scaled dot-product attention with grouped queries under an explicit mask.

    Stands in for megatron's DotProductAttention, which needs the CUDA random state tracker.
    """

    def __init__(self, config, layer_number: int, attn_mask_type, attention_type: str, softmax_scale=None, **_) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        attn_mask_type=None,
        attention_bias=None,
        packed_seq_params=None,
    ) -> Tensor:
        """query [length, batch, heads, dim], key and value [length, batch, KV heads, dim], mask [batch, 1, length,
        length] (True attends) -> [length, batch, heads * dim]."""
        length, batch, heads, _ = query.shape
        out = F.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            attn_mask=attention_mask,
            scale=self.scale,
            enable_gqa=key.shape[2] != heads,
        )
        return out.permute(2, 0, 1, 3).reshape(length, batch, -1)


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
