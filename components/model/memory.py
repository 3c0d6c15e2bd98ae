"""Bytes on one device: what a learner rank and an engine hold. Exact for parameters, counted for activations.

Parameters of a rank follow components.model.shards; what a step keeps of them follows components.training.optimiser.
Activations are what the backward passes of layers.py and kernels.py save, tensor by tensor (tests compare with a real
model's saved tensors). Pure arithmetic, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.model.layout import Layout
from components.model.spec import LingSpec

GB = 1e9
# Context, NCCL channels and workspaces of CUDA libraries, and what fragmentation wastes: our guess, not measured.
CONTEXT = 4e9
FRAGMENTATION = 0.05
UTILISATION = 0.9  # of a device's memory that vLLM takes by default


@dataclass(frozen=True)
class Method:
    """How training keeps its state. Bytes are per parameter of a rank.

    master: moments and, where weights are not float32, their float32 copy; divided over data parallel ranks when
    `distributed`. recompute: whole layers, so that only their inputs are kept. head_rows: positions whose logits exist
    together; None for all of a micro-batch. engine_tensor, engine_pipeline: the most devices that an engine's matrices
    and its layers are divided over. nodes_store: every node sends its own part of a checkpoint to the store.
    """

    name: str
    dtype: str
    weight: int
    gradient: int
    master: int
    distributed: bool
    recompute: bool
    head_rows: int | None
    engine_tensor: int
    engine_pipeline: int
    nodes_store: bool

    @property
    def width(self) -> int:
        """Bytes of an activation."""
        return 4 if self.dtype == "float32" else 2


# What components.training does: float32 weights that are the master copy, no recompute; moments are whole unless
# execution.distributed_optimiser divides them; an engine's GPUs are those of one node (components.rollout.group).
TODAY = Method("today", "float32", 4, 4, 8, False, False, None, 8, 1, False)
# What megatron-core on GPUs can do and ringflow does not yet: docs/scale.md lists the work.
EXTENDED = Method("extended", "bfloat16", 2, 4, 12, True, True, 4096, 8, 16, True)
METHODS = {method.name: method for method in (TODAY, EXTENDED)}


@dataclass(frozen=True)
class RankParameters:
    """Parameters of one rank: `dense` is repeated over data and context parallel ranks, `expert` over the ranks of the
    stage with the same experts."""

    dense: int
    expert: int

    @property
    def total(self) -> int:
        return self.dense + self.expert


def rank_parameters(spec: LingSpec, layout: Layout, stage: int) -> RankParameters:
    """Trained parameters of a rank of pipeline stage `stage`; the routers' expert biases are buffers and not in it."""
    hidden, tensor = spec.hidden_size, layout.tensor
    queries, keys = spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    here = spec.num_hidden_layers // layout.pipeline
    dense_layers = _dense_layers(spec, stage, here)
    sparse_layers = here - dense_layers
    matrices = here * (hidden * (queries + 2 * keys) + queries * hidden)
    matrices += dense_layers * 3 * hidden * spec.intermediate_size
    matrices += sparse_layers * 3 * hidden * spec.moe_intermediate_size * spec.num_shared_experts
    ends = (stage == 0) + (stage == layout.pipeline - 1)
    matrices += ends * spec.vocab_size * hidden
    whole = here * (2 * hidden + 2 * spec.head_dim) + sparse_layers * spec.num_experts * hidden
    whole += hidden if stage == layout.pipeline - 1 else 0
    expert = sparse_layers * (spec.num_experts // layout.expert) * 3 * hidden * spec.moe_intermediate_size
    return RankParameters(matrices // tensor + whole, expert)


def _dense_layers(spec: LingSpec, stage: int, here: int) -> int:
    """Leading dense layers among the `here` layers of a stage."""
    return min(here, max(0, spec.first_k_dense_replace - stage * here))


@dataclass(frozen=True)
class Memory:
    """Bytes of one device by part. moments: with the float32 copy of weights, if there is one."""

    weights: float = 0.0
    gradients: float = 0.0
    moments: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    kv_cache: float = 0.0
    buffers: float = 0.0

    @property
    def total(self) -> float:
        used = self.weights + self.gradients + self.moments + self.activations
        return used + self.logits + self.kv_cache + self.buffers


def layer_activations(spec: LingSpec, dense: bool, width: int) -> float:
    """Bytes that one layer saves for its backward pass, per token; divided evenly over tensor and context ranks."""
    queries, keys = spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    # Both norms' results before scaling, inputs of QKV and of the FFN; input of the output projection, normed queries,
    # padded queries and outputs; normed and padded keys, padded values.
    values = 4 * spec.hidden_size + 4 * queries + 3 * keys
    small = 4 * (2 * spec.num_attention_heads + spec.num_key_value_heads + 2)  # scales of norms, log-sums of softmax
    if dense:
        return width * (values + 5 * spec.intermediate_size) + small
    values += 5 * spec.moe_intermediate_size * spec.num_shared_experts
    values += spec.num_experts_per_tok * (spec.hidden_size + 4 * spec.moe_intermediate_size)
    router = 6 * spec.num_experts + 56 * spec.num_experts_per_tok  # scores and two masks; indices are int64
    return width * values + small + router


def learner_memory(
    spec: LingSpec, layout: Layout, method: Method, stage: int, micro_batch: int, micro_batches: int
) -> Memory:
    """Peak of one training step on a rank of a stage.

    Args:
        micro_batch: tokens of one. micro_batches: of one step and replica; a pipeline keeps several at once.
    """
    own = rank_parameters(spec, layout, stage)
    same_dense = layout.data * layout.context if method.distributed else 1
    same_expert = layout.world // layout.pipeline // layout.expert if method.distributed else 1
    here = spec.num_hidden_layers // layout.pipeline
    tokens = micro_batch / (layout.tensor * layout.context)
    dense_layers = _dense_layers(spec, stage, here)
    dense, sparse = (layer_activations(spec, dense, method.width) for dense in (True, False))
    layers = dense_layers * dense + (here - dense_layers) * sparse
    widest = max(dense if dense_layers else 0.0, sparse if here > dense_layers else 0.0)
    waiting = min(layout.pipeline - stage, micro_batches)
    kept = here * spec.hidden_size * method.width if method.recompute else layers
    activations = tokens * (waiting * kept + (widest if method.recompute else 0))
    logits = 0.0
    if stage == layout.pipeline - 1:
        # Logits, their exponentials, log-probs or products, and the gradient: float32, columns over tensor ranks.
        rows = micro_batch / layout.context
        rows = rows if method.head_rows is None else min(rows, method.head_rows)
        logits = 4 * 4 * rows * spec.vocab_size / layout.tensor
    largest = 4.0 * spec.vocab_size * spec.hidden_size  # weight exchange puts one tensor together at a time
    static = own.total * method.weight + own.total * method.gradient
    return Memory(
        weights=own.total * method.weight,
        gradients=own.total * method.gradient,
        moments=method.master * (own.dense / same_dense + own.expert / same_expert),
        activations=activations,
        logits=logits,
        buffers=CONTEXT + largest + FRAGMENTATION * (static + activations + logits),
    )


@dataclass(frozen=True)
class EngineLayout:
    """Devices of one engine: tensor x pipeline parallel ranks. Key-value heads are repeated beyond their number."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def devices(self) -> int:
        return self.tensor * self.pipeline


def kv_bytes(spec: LingSpec, engine: EngineLayout) -> float:
    """Bytes of keys and values of one token on one device, bfloat16."""
    heads = max(1, spec.num_key_value_heads // engine.tensor)
    return 2 * 2 * heads * spec.head_dim * spec.num_hidden_layers / engine.pipeline


def engine_memory(
    spec: LingSpec, engine: EngineLayout, accelerator_memory: float, context: int, sequences: int
) -> Memory:
    """An engine in bfloat16 with the cache it has room for, at most what `sequences` of `context` tokens need.

    A prompt is prefilled in one piece (chunked prefill is off in components.rollout.engine), so buffers grow with it.
    """
    weights = 2.0 * spec.parameter_count()[0] / engine.devices
    prefill = context * 2 * (6 * spec.hidden_size + 4 * spec.intermediate_size / engine.tensor)
    sampling = sequences * spec.vocab_size * 4 * 3
    buffers = CONTEXT + prefill + sampling + FRAGMENTATION * weights
    wanted = kv_bytes(spec, engine) * context * sequences
    room = max(0.0, UTILISATION * accelerator_memory - weights - buffers)
    least = kv_bytes(spec, engine) * context
    return Memory(weights=weights, kv_cache=max(least, min(wanted, room)), buffers=buffers)
