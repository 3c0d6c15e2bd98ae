"""Bytes on one device: what a learner rank and an engine hold. Exact for parameters, counted for activations.

Parameters of a rank follow components.model.shards; what a step keeps of them follows components.training.optimiser.
Activations are what the backward passes of layers.py and kernels.py save, tensor by tensor (tests compare with a real
model's saved tensors, and with peaks measured on a GPU). Pure arithmetic, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from components.model.layout import Layout
from components.model.spec import LingSpec
from components.recipe.execution import ENGINE_MEMORY, ExecutionConfig

GB = 1e9
# Context, NCCL channels and workspaces of CUDA libraries, and what fragmentation wastes: our guess, not measured.
CONTEXT = 4e9
FRAGMENTATION = 0.05


@dataclass(frozen=True)
class Method:
    """How learners train and engines are divided.

    dtype: of weights and activations; gradients and the LM head are float32; `fp8` is bfloat16 with products in FP8.
    fused: Transformer Engine's layers. distributed: moments, and where weights are not float32 their float32 copy, are
    divided over the ranks with the same parameters. recompute: whole layers, so that only their inputs are kept.
    head_rows: positions whose logits exist together; None for all of a micro-batch. micro_batch: tokens, if no row is
    longer. engine_memory: share of a GPU that an engine fills; None for the default.
    engine_tensor, engine_pipeline: the most devices that an engine's matrices and its layers are divided over.
    """

    name: str
    dtype: str = "float32"
    distributed: bool = False
    recompute: bool = False
    head_rows: int | None = None
    micro_batch: int = 2048
    engine_memory: float | None = None
    engine_tensor: int = 8
    engine_pipeline: int = 1
    fused: bool = False

    @property
    def width(self) -> int:
        """Bytes of a weight and of an activation."""
        return 4 if self.dtype == "float32" else 2

    def engine_share(self, colocated: bool) -> float:
        return self.engine_memory or ENGINE_MEMORY[colocated]


def today(execution: ExecutionConfig) -> Method:
    """What components.training does with these settings; an engine's GPUs are those of one node
    (components.rollout.group)."""
    return Method(
        "today",
        execution.learner_dtype,
        execution.distributed_optimiser,
        execution.recompute,
        execution.logit_rows,
        execution.micro_batch_tokens,
        execution.engine_memory,
        fused=execution.fused,
    )


def extended(execution: ExecutionConfig) -> Method:
    """The same with what is not written: engines over several nodes."""
    return replace(today(execution), name="extended", engine_pipeline=16)


METHODS = {"today": today, "extended": extended}


@dataclass(frozen=True)
class RankParameters:
    """Parameters of one rank: `dense` is repeated over data and context parallel ranks, `expert` over the ranks of the
    stage with the same experts. head: of `dense`, those of the LM head."""

    dense: int
    expert: int
    head: int = 0

    @property
    def total(self) -> int:
        return self.dense + self.expert


def rank_parameters(spec: LingSpec, layout: Layout, stage: int) -> RankParameters:
    """Trained parameters of a rank of pipeline stage `stage`, an MTP layer's among them; the routers' expert biases are
    buffers and not in it."""
    hidden, tensor = spec.hidden_size, layout.tensor
    queries, keys = spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    here = spec.num_hidden_layers // layout.pipeline
    dense_layers = _dense_layers(spec, stage, here)
    ahead = spec.num_nextn_predict_layers  # with one, layers are not divided over stages (Layout.check)
    here += ahead
    sparse_layers = here - dense_layers
    matrices = ahead * 2 * hidden * hidden
    matrices += here * (hidden * (queries + 2 * keys) + queries * hidden)
    matrices += dense_layers * 3 * hidden * spec.intermediate_size
    matrices += sparse_layers * 3 * hidden * spec.moe_intermediate_size * spec.num_shared_experts
    ends = (stage == 0) + (stage == layout.pipeline - 1)
    matrices += ends * spec.vocab_size * hidden
    whole = here * (2 * hidden + 2 * spec.head_dim) + sparse_layers * spec.num_experts * hidden
    whole += hidden if stage == layout.pipeline - 1 else 0
    whole += ahead * 3 * hidden
    expert = sparse_layers * (spec.num_experts // layout.expert) * 3 * hidden * spec.moe_intermediate_size
    head = spec.vocab_size * hidden // tensor if stage == layout.pipeline - 1 else 0
    return RankParameters(matrices // tensor + whole, expert, head)


def weight_bytes(parameters: float, head: float, width: int) -> float:
    """Of weights whose LM head is float32."""
    return width * (parameters - head) + 4.0 * head


def _dense_layers(spec: LingSpec, stage: int, here: int) -> int:
    """Leading dense layers among the `here` layers of a stage."""
    return min(here, max(0, spec.first_k_dense_replace - stage * here))


@dataclass(frozen=True)
class Memory:
    """Bytes of one device by part. moments: with the float32 copy of weights, if there is one. working: the larger of
    what the loss and what the backward pass of one layer need for a moment."""

    weights: float = 0.0
    gradients: float = 0.0
    moments: float = 0.0
    activations: float = 0.0
    working: float = 0.0
    kv_cache: float = 0.0
    buffers: float = 0.0

    @property
    def total(self) -> float:
        used = self.weights + self.gradients + self.moments + self.activations
        return used + self.working + self.kv_cache + self.buffers


def layer_activations(spec: LingSpec, dense: bool, width: int, fused: bool = False) -> float:
    """Bytes that one layer saves for its backward pass, per token; divided evenly over tensor and context ranks.

    fused: what megatron-core saves of Transformer Engine's experts is added (both factors, their product, and that with
    the router's weight); what its norms and attention do without is not taken off, so this is an upper bound.
    """
    queries, keys = spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    # Results of the norms before scaling (layers', queries', keys'), float32; scales of norms, log-sums of softmax.
    always = 4 * (2 * spec.hidden_size + queries + keys)
    always += 4 * (2 * spec.num_attention_heads + spec.num_key_value_heads + 2)
    # Inputs of QKV and of the FFN; input of the output projection, padded queries and outputs; padded keys and values.
    values = 2 * spec.hidden_size + 3 * queries + 2 * keys
    if dense:
        return width * (values + 5 * spec.intermediate_size) + always
    values += 5 * spec.moe_intermediate_size * spec.num_shared_experts
    values += spec.num_experts_per_tok * (spec.hidden_size + (6 if fused else 4) * spec.moe_intermediate_size)
    router = 6 * spec.num_experts + 56 * spec.num_experts_per_tok  # scores and two masks; indices are int64
    return width * values + always + router


def mtp_activations(spec: LingSpec, width: int) -> float:
    """Bytes per token that the MTP layer saves besides what a sparse layer does; 0 without one."""
    # Results of its three norms before scaling, float32, and their scales; input of the projection.
    return spec.num_nextn_predict_layers * (3 * 4 * (spec.hidden_size + 1) + 2 * width * spec.hidden_size)


def attention_scores(spec: LingSpec, width: int, length: float) -> float:
    """Bytes per token and layer that attention on a GPU saves beyond `layer_activations`, in documents of `length`.

    torch's fused kernels take grouped queries in 16 bits only; float32 goes through its plain one, which keeps every
    pair's probability and copies of keys and values for every query head, but neither outputs nor log-sums.
    """
    if width == 2 or spec.num_key_value_heads == spec.num_attention_heads:
        return 0.0
    heads, keys = spec.num_attention_heads, spec.num_key_value_heads
    return 4.0 * (heads * (length - 1) + (2 * (heads - keys) - heads) * spec.head_dim)


def learner_memory(
    spec: LingSpec,
    layout: Layout,
    method: Method,
    stage: int,
    micro_batch: int,
    micro_batches: int,
    length: float | None = None,
) -> Memory:
    """Peak of one training step on a rank of a stage.

    Args:
        micro_batch: tokens of one. micro_batches: of one step and replica; a pipeline keeps several at once.
        length: of a document, the whole micro-batch by default.
    """
    own = rank_parameters(spec, layout, stage)
    same_dense = layout.data * layout.context if method.distributed else 1
    same_expert = layout.world // layout.pipeline // layout.expert if method.distributed else 1
    ahead = spec.num_nextn_predict_layers
    here = spec.num_hidden_layers // layout.pipeline + ahead
    tokens = micro_batch / (layout.tensor * layout.context)
    dense_layers = _dense_layers(spec, stage, here - ahead)
    scores = attention_scores(spec, method.width, micro_batch if length is None else length)
    dense, sparse = (layer_activations(spec, dense, method.width, method.fused) + scores for dense in (True, False))
    layers = dense_layers * dense + (here - dense_layers) * sparse
    widest = max(dense if dense_layers else 0.0, sparse if here > dense_layers else 0.0)
    waiting = min(layout.pipeline - stage, micro_batches)
    kept = here * spec.hidden_size * method.width if method.recompute else layers
    activations = tokens * waiting * kept + tokens * mtp_activations(spec, method.width)
    # A layer's backward pass: its activations where they are recomputed, its weights' gradients before they are added.
    # Of the scores there are two more then: their gradient before and after the softmax.
    working = tokens * (widest * method.recompute + 2 * scores) + method.width * (own.total - own.head) / here
    if stage == layout.pipeline - 1:
        # Results of the last norm before scaling and of the positions that count, float32; the MTP layer's once more.
        activations += micro_batch / layout.context * 4.0 * (2 + ahead) * spec.hidden_size
        # Logits, their exponentials, log-probs or products, and the gradient: float32, columns over tensor ranks.
        everyone = micro_batch / layout.context * (1 + ahead)
        rows = everyone if method.head_rows is None else min(everyone, method.head_rows)
        # Of several parts, the head's gradient from those that are done waits for the others.
        working = max(working, 16.0 * rows * spec.vocab_size / layout.tensor + 4.0 * own.head * (rows < everyone))
    if method.dtype == "fp8":
        # Weights of products in e4m3, for the forward and for the backward pass, from one to the other: of every layer,
        # or of the one that is computed again. Activations are counted as bfloat16, though products keep theirs in FP8.
        table = spec.vocab_size * spec.hidden_size / layout.tensor if stage == 0 else 0.0
        working += 2.0 * (own.total - own.head - table) / (here if method.recompute else 1)
    largest = 4.0 * spec.vocab_size * spec.hidden_size  # weight exchange puts one tensor together at a time
    weights, gradients = weight_bytes(own.total, own.head, method.width), 4.0 * own.total
    copies = 0 if method.width == 4 else 4
    master = (8 + copies) * own.dense - copies * own.head  # float32 parameters are their own master copies
    return Memory(
        weights=weights,
        gradients=gradients,
        moments=master / same_dense + (8 + copies) * own.expert / same_expert,
        activations=activations,
        working=working,
        buffers=CONTEXT + largest + FRAGMENTATION * (weights + gradients + activations + working),
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


def engine_memory(spec: LingSpec, engine: EngineLayout, memory: float, context: int, sequences: int) -> Memory:
    """An engine in bfloat16 with the cache it has room for, at most what `sequences` of `context` tokens need.

    memory: of a device, as much as the engine may fill.

    A prompt is prefilled in one piece (chunked prefill is off in components.rollout.engine), so buffers grow with it.
    """
    weights = 2.0 * spec.parameter_count()[0] / engine.devices
    prefill = context * 2 * (6 * spec.hidden_size + 4 * spec.intermediate_size / engine.tensor)
    sampling = sequences * spec.vocab_size * 4 * 3
    buffers = CONTEXT + prefill + sampling + FRAGMENTATION * weights
    wanted = kv_bytes(spec, engine) * context * sequences
    room = max(0.0, memory - weights - buffers)
    least = kv_bytes(spec, engine) * context
    return Memory(weights=weights, kv_cache=max(least, min(wanted, room)), buffers=buffers)
