"""Which blocks of the Hugging Face tensors one rank of a divided model holds: the one place that knows where each
weight lives in the megatron-core model.

The MTP layer, if there is one, is the one after the last: inclusionAI's `--mtp-as-extra-layer`.
Checkpoints, weight exchange and export all speak of HF names and of blocks inside them, so they do not depend on the
layout that wrote them. Four differences to megatron: HF fuses attention as [all Q | all K | all V] where megatron
interleaves per key-value group (Ling-V2 tools/convert_dcp_to_safetensors.py `transform_qkv_weight`); HF keeps gate and
up projections apart; HF keeps one tensor per expert where GroupedExperts stacks them; tensor parallel ranks hold rows
or columns. Each of them is a strided view of the parameter: nothing is copied to describe it. Of Transformer
Engine's layers a norm may lie in the linear after it, and every expert is a parameter of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from components.model.layout import Layout, Place
from components.model.spec import LingSpec

if TYPE_CHECKING:
    from components.model.builder import LingModel


# Of the MTP layer, as inclusionAI's checkpoints and megatron-core name them.
MTP_NORMS = ("enorm", "hnorm", "final_layernorm")


@dataclass(frozen=True)
class Piece:
    """A block of one HF tensor on this rank.

    name, shape: of the whole tensor. starts, sizes: of the block in it.
    view: the megatron storage, strided; reshaped to `sizes` it is the block.
    holder, holders: this rank's number among the ranks that hold the same block, and how many do.
    """

    name: str
    shape: tuple[int, ...]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    view: Tensor
    holder: int = 0
    holders: int = 1

    @property
    def place(self) -> tuple[slice, ...]:
        """Where the block lies in the whole tensor."""
        return tuple(slice(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True))

    def read(self) -> Tensor:
        """The block; a view where strides allow it."""
        return self.view.reshape(self.sizes)

    def write(self, whole: Tensor) -> None:
        """Takes the block out of a whole HF tensor."""
        self.write_block(whole[self.place])

    def write_block(self, block: Tensor) -> None:
        self.view.copy_(block.reshape(self.view.shape))


Values = Callable[[Tensor], Tensor | None]


def pieces(model: LingModel, spec: LingSpec, values: Values = lambda tensor: tensor.detach()) -> Iterator[Piece]:
    """Every block this rank holds, layers in order.

    Args:
        values: a parameter or buffer of the model -> the tensor of its shape to describe in its stead (an optimiser
            moment, say), or None to leave it out.
    """
    layout, place = model.layout, model.place
    shapes = tensor_shapes(spec)
    dense = layout.data * layout.context  # ranks with the same dense block

    def block(name: str, view: Tensor, holders: tuple[int, int], dim: int = 0, start: int = 0, size: int | None = None):
        shape = shapes[name]
        starts, sizes = [0] * len(shape), list(shape)
        starts[dim], sizes[dim] = start, shape[dim] if size is None else size
        return Piece(name, shape, tuple(starts), tuple(sizes), view, *holders)

    def whole(name: str, tensor: Tensor) -> Iterator[Piece]:
        if (value := values(tensor)) is not None:
            yield block(name, value, (replica * layout.tensor + place.tensor, dense * layout.tensor))

    def split(name: str, tensor: Tensor, dim: int) -> Iterator[Piece]:
        if (value := values(tensor)) is not None:
            size = value.shape[dim]
            yield block(name, value, (replica, dense), dim, place.tensor * size, size)

    def gated(prefix: str, fc1: Tensor, fc2: Tensor, index: int, holders: tuple[int, int]) -> Iterator[Piece]:
        """fc1: [2 * rows here, hidden], gate first; fc2: [hidden, columns here]; block `index` of the whole."""
        rows = fc1.shape[0] // 2
        yield block(f"{prefix}.gate_proj.weight", fc1[:rows], holders, 0, index * rows, rows)
        yield block(f"{prefix}.up_proj.weight", fc1[rows:], holders, 0, index * rows, rows)
        yield block(f"{prefix}.down_proj.weight", fc2, holders, 1, index * rows, rows)

    def ffn(prefix: str, fc1: Tensor, fc2: Tensor) -> Iterator[Piece]:
        first, second = values(fc1), values(fc2)
        if first is not None and second is not None:
            yield from gated(prefix, first, second, place.tensor, (replica, dense))

    def fused(name: str, tensor: Tensor) -> Iterator[Piece]:
        if (value := values(tensor)) is None:
            return
        dim, per_group = spec.head_dim, spec.num_attention_heads // spec.num_key_value_heads
        groups = spec.num_key_value_heads // layout.tensor
        rows = value.view(groups, per_group + 2, dim, value.shape[-1])
        queries, keys = spec.num_attention_heads * dim, spec.num_key_value_heads * dim
        for heads, first, size in (
            (rows[:, :per_group], 0, groups * per_group * dim),
            (rows[:, per_group : per_group + 1], queries, groups * dim),
            (rows[:, per_group + 1 :], queries + keys, groups * dim),
        ):
            yield block(name, heads, (replica, dense), 0, first + place.tensor * size, size)

    def layer_pieces(layer: Any) -> Iterator[Piece]:
        index = layer.layer_number - 1
        prefix, attention, mlp = f"model.layers.{index}", layer.self_attention, layer.mlp
        yield from whole(f"{prefix}.input_layernorm.weight", norm_before(attention.linear_qkv, layer.input_layernorm))
        yield from fused(f"{prefix}.attention.query_key_value.weight", attention.linear_qkv.weight)
        yield from whole(f"{prefix}.attention.query_layernorm.weight", attention.q_layernorm.weight)
        yield from whole(f"{prefix}.attention.key_layernorm.weight", attention.k_layernorm.weight)
        yield from split(f"{prefix}.attention.dense.weight", attention.linear_proj.weight, 1)
        second_norm = norm_before(getattr(mlp, "linear_fc1", None), layer.pre_mlp_layernorm)
        yield from whole(f"{prefix}.post_attention_layernorm.weight", second_norm)
        if spec.is_dense(index):
            yield from ffn(f"{prefix}.mlp", mlp.linear_fc1.weight, mlp.linear_fc2.weight)
            return
        yield from whole(f"{prefix}.mlp.gate.weight", mlp.router.weight)
        yield from whole(f"{prefix}.mlp.gate.expert_bias", mlp.router.expert_bias)
        held = list(expert_matrices(mlp.experts, values))
        same = (_in_stage(layout, place) // layout.expert, layout.world // layout.pipeline // layout.expert)
        for here, (first, second) in enumerate(held):
            if first is not None and second is not None:
                expert = place.expert * len(held) + here
                yield from gated(f"{prefix}.mlp.experts.{expert}", first, second, 0, same)
        if spec.num_shared_experts:
            shared = mlp.shared_experts
            yield from ffn(f"{prefix}.mlp.shared_experts", shared.linear_fc1.weight, shared.linear_fc2.weight)

    replica = place.data * layout.context + place.context
    if model.pre_process:
        yield from split("model.word_embeddings.weight", model.embedding.word_embeddings.weight, 0)
    for layer in model.decoder.layers:
        yield from layer_pieces(layer)
    if model.post_process:
        yield from whole("model.norm.weight", model.decoder.final_layernorm.weight)
        yield from split("lm_head.weight", model.output_layer.weight, 0)
    if model.mtp_process:
        (ahead,) = model.mtp.layers
        for norm in MTP_NORMS:
            yield from whole(f"{spec.mtp_prefix}{norm}.weight", getattr(ahead, norm).weight)
        yield from split(f"{spec.mtp_prefix}eh_proj.weight", ahead.eh_proj.weight, 0)
        yield from layer_pieces(ahead.transformer_layer)


def norm_before(linear: Any, norm: Any) -> Tensor:
    """The weight of the norm before a linear: Transformer Engine keeps it in the linear."""
    inside = getattr(linear, "layer_norm_weight", None)
    return norm.weight if inside is None else inside


def expert_matrices(experts: Any, values: Values) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """(fc1 [2 * ffn, hidden], fc2 [hidden, ffn]) of every expert of this rank, as `values` gives them: from two stacks,
    or, of Transformer Engine, from matrices named by number."""
    if hasattr(experts, "fc1"):
        first, second = values(experts.fc1), values(experts.fc2)
        if first is not None and second is not None:
            yield from zip(first, second, strict=True)
        return
    for number in range(experts.num_local_experts):
        yield tuple(values(getattr(linear, f"weight{number}")) for linear in (experts.linear_fc1, experts.linear_fc2))


def owned(found: Iterator[Piece]) -> list[Piece]:
    """The pieces this rank writes or sends: over all ranks every block once, spread evenly over its holders."""
    return [piece for number, piece in enumerate(found) if number % piece.holders == piece.holder]


def served(found: Iterator[Piece], spec: LingSpec) -> Iterator[Piece]:
    """The pieces that engines have a place for: all but the MTP layer's."""
    return (piece for piece in found if not piece.name.startswith(spec.mtp_prefix))


def joined(found: Iterator[Piece]) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor) of what one rank holds of an undivided model; blocks of one tensor are put together."""
    for name, group in groupby(found, key=lambda piece: piece.name):
        blocks = [piece.read() for piece in group]
        yield name, blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def assemble(shape: Sequence[int], blocks: Sequence[tuple[tuple[int, ...], Tensor]]) -> Tensor:
    """A whole tensor from (starts, block) pairs that cover it; the block itself when there is only one."""
    if len(blocks) == 1 and tuple(blocks[0][1].shape) == tuple(shape):
        return blocks[0][1]
    out = torch.empty(tuple(shape), dtype=blocks[0][1].dtype, device=blocks[0][1].device)
    for starts, block in blocks:
        out[tuple(slice(start, start + size) for start, size in zip(starts, block.shape, strict=True))] = block
    return out


def tensor_shapes(spec: LingSpec) -> Mapping[str, tuple[int, ...]]:
    """Every HF tensor of a spec with its shape, in the order of the layers."""
    hidden, heads, keys, dim = spec.hidden_size, spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim

    def ffn(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{prefix}.gate_proj.weight": (width, hidden),
            f"{prefix}.up_proj.weight": (width, hidden),
            f"{prefix}.down_proj.weight": (hidden, width),
        }

    def of_layer(layer: int) -> dict[str, tuple[int, ...]]:
        prefix = f"model.layers.{layer}"
        shapes = {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.attention.query_key_value.weight": ((heads + 2 * keys) * dim, hidden),
            f"{prefix}.attention.query_layernorm.weight": (dim,),
            f"{prefix}.attention.key_layernorm.weight": (dim,),
            f"{prefix}.attention.dense.weight": (hidden, heads * dim),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
        }
        if spec.is_dense(layer):
            return shapes | ffn(f"{prefix}.mlp", spec.intermediate_size)
        shapes |= {
            f"{prefix}.mlp.gate.weight": (spec.num_experts, hidden),
            f"{prefix}.mlp.gate.expert_bias": (spec.num_experts,),
        }
        for expert in range(spec.num_experts):
            shapes |= ffn(f"{prefix}.mlp.experts.{expert}", spec.moe_intermediate_size)
        if spec.num_shared_experts:
            shapes |= ffn(f"{prefix}.mlp.shared_experts", spec.moe_intermediate_size * spec.num_shared_experts)
        return shapes

    shapes = {"model.word_embeddings.weight": (spec.vocab_size, hidden)}
    for layer in range(spec.num_hidden_layers):
        shapes |= of_layer(layer)
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (spec.vocab_size, hidden)}
    if spec.num_nextn_predict_layers:
        shapes |= {f"{spec.mtp_prefix}{norm}.weight": (hidden,) for norm in MTP_NORMS}
        shapes |= {f"{spec.mtp_prefix}eh_proj.weight": (hidden, 2 * hidden)} | of_layer(spec.num_hidden_layers)
    return shapes


def fuse_qkv(weight: Tensor, spec: LingSpec) -> Tensor:
    """Megatron's interleaved rows (q..q k v per group) -> HF's [Q | K | V]. weight: [rows, hidden], undivided."""
    groups, dim = spec.num_key_value_heads, spec.head_dim
    per_group = spec.num_attention_heads // groups
    split = weight.reshape(groups, per_group + 2, dim, -1)
    parts = (split[:, :per_group], split[:, per_group : per_group + 1], split[:, per_group + 1 :])
    return torch.cat([part.reshape(-1, weight.shape[-1]) for part in parts])


def _in_stage(layout: Layout, place: Place) -> int:
    """Number of the rank inside its pipeline stage."""
    return (place.data * layout.context + place.context) * layout.tensor + place.tensor
