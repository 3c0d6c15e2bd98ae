"""Seconds of a step on a cluster: a model of volumes and peaks, documented here, held to three steps of one GPU.

A part of a step is its work over a peak times an efficiency. Nothing overlaps: communication, bubbles and waiting are
added up, so a tuned cluster is faster, and whatever this leaves out (stragglers, kernel launches, data, verifiers)
makes it slower. Products and memory were measured on one H200 (docs/gpu.md); the efficiency of links is a guess.

Work per token and layer: 2 operations a weight that is used, forward; twice that backward; once more with recompute;
attention of a causal document of length s costs 2 s heads head_dim more, forward. The LM head likewise at a rate of its
own, once more where logits are made in parts, on the last stage, which is therefore the slowest of a pipeline.

Bytes that one rank reads and writes besides: operators that are no products, over what layers save, over logits, the
gradient of every micro-batch into the float32 one, and the optimiser's.

Bytes that one rank sends, forward, per micro-batch (t tokens in all, a = t / (tensor x context) of its own, width w):
    tensor      2 all-gathers and 2 reduce-scatters a layer of [t / context, hidden]: 4 (T - 1)/T t/C hidden w, and one
                each at the embedding and before the head
    context     queries, keys, values and outputs for heads: (C - 1)/C a (2 q + 2 k) w a layer
    expert      dispatch and combine: 2 (E - 1)/E a topk hidden w a sparse layer
    pipeline    a hidden w a stage
Backward the same once more (but nothing before the head), and for tensor parallelism 2 further all-gathers a layer.
Gradients: 2 (n - 1)/n of their float32 bytes over the n ranks with the same ones (an all-reduce; reduce-scatter and
all-gather of a distributed optimiser send as much).
"""

from __future__ import annotations

from dataclasses import dataclass

from components.failures import BadInput
from components.model.accelerators import Cluster
from components.model.layout import Layout
from components.model.memory import (
    EngineLayout,
    Method,
    RankParameters,
    attention_scores,
    kv_bytes,
    layer_activations,
    mtp_activations,
    rank_parameters,
    weight_bytes,
)
from components.model.spec import LingSpec

# Of the peak, over attention, grouped and dense products of layers; grouped ones of a profiled bfloat16 step: 0.42.
MATMUL = 0.4
HEAD = 0.65  # the LM head's products, few and large: in TF32 in that step; 0.77 in plain float32 in another
# Of the memory's: AdamW's kernel 0.70, gradients added to the float32 one 0.51, log-softmax about 0.6 in that step.
BANDWIDTH = 0.6
LINK = 0.7  # of links and network
# Bytes that operators between a layer's products read and write for one byte that it saves, forward and backward:
# counted over a model of Ring-mini-2.0's proportions, 3.4 and 6.0 in float32, 4.6 and 8.1 in bfloat16 (test_cost.py).
FORWARD, BACKWARD = 4, 7
# Times that the loss (components.training.parallel) reads or writes all logits, forward and backward.
LOSS_FORWARD, LOSS_BACKWARD = 8, 4
# Bytes of one optimiser step for a parameter: AdamW reads four float32 values and writes three; the gradient is set to
# zero once and read once for the norm.
ADAMW, ZERO, NORM = 28, 4, 4
HOP_S = 10e-6  # latency of one collective among the devices of an engine


@dataclass(frozen=True)
class StepTime:
    """Seconds, and with them the bytes that one rank sends (`sent`), by cause. compute: products. memory: operators
    between them."""

    compute: float
    memory: float
    optimiser: float
    bubble: float
    tensor: float
    context: float
    expert: float
    pipeline: float
    gradients: float
    sent: dict[str, float]

    @property
    def moving(self) -> float:
        return self.tensor + self.context + self.expert + self.pipeline + self.gradients

    @property
    def working(self) -> float:
        return self.compute + self.memory + self.optimiser + self.bubble

    @property
    def total(self) -> float:
        return self.working + self.moving


def forward_flops(spec: LingSpec, length: float) -> float:
    """Operations of one token's forward pass in a document of `length` tokens."""
    active = spec.parameter_count()[1] - spec.vocab_size * spec.hidden_size  # looking up an embedding costs nothing
    return 2 * active + 2 * length * spec.num_attention_heads * spec.head_dim * spec.num_hidden_layers


def step_time(
    spec: LingSpec,
    layout: Layout,
    method: Method,
    cluster: Cluster,
    tokens: float,
    micro_batch: float,
    length: float,
    train: bool = True,
    updates: int = 1,
) -> StepTime:
    """One pass over `tokens`, of all replicas.

    Args:
        micro_batch: tokens of one micro-batch of a replica. length: of a document.
        train: forward and backward, else forward alone. updates: optimiser steps that share the tokens.

    The MTP layer of a spec that has one is trained: where it rests, give the spec without it.
    """
    if method.dtype not in cluster.accelerator.flops:
        raise BadInput(
            f"{cluster.accelerator.name} has no products in {method.dtype}",
            where="execution.learner_dtype",
            remedy="Set it to bfloat16",
        )
    stages = {0, min(1, layout.pipeline - 1), layout.pipeline - 1}  # the others are like the second
    own = max((rank_parameters(spec, layout, stage) for stage in stages), key=lambda own: own.total)
    speed = cluster.accelerator
    batches = max(updates, -(-tokens // (micro_batch * layout.data)))  # of a replica: the slowest one counts
    mine = micro_batch / (layout.tensor * layout.context)
    compute = batches * mine * _products(spec, layout, method, cluster, length, train)
    memory = batches * _traffic(spec, layout, method, own, mine, length, train) / (speed.bandwidth * BANDWIDTH)
    stepped = _optimiser_traffic(layout, method, own) if train else 0.0
    optimiser = updates * stepped / (speed.bandwidth * BANDWIDTH)
    bubble = (compute + memory) * (layout.pipeline - 1) * updates / batches

    ahead = spec.num_nextn_predict_layers
    width, hidden, here = method.width, spec.hidden_size, spec.num_hidden_layers / layout.pipeline
    heads = (2 * spec.num_attention_heads + 2 * max(spec.num_key_value_heads, layout.tensor * layout.context)) * (
        spec.head_dim
    )
    sparse = here * (1 - spec.first_k_dense_replace / spec.num_hidden_layers) + ahead
    here += ahead
    gathered = hidden * width * micro_batch / layout.context * _share(layout.tensor)
    ends = (3 if train else 2) / min(layout.pipeline, 2)
    # Forward its embedding, twice two hidden states to the projection and one from it, its share of the head; backward
    # the embedding's, the projection's and its input once more.
    ends += ahead * (5 + 6 * train)
    both = 2 + (1 if method.recompute else 0) if train else 1
    sent = {
        "tensor": batches * gathered * (4 * here * (both + (0.5 if train else 0)) + ends),
        "context": batches * both * mine * heads * width * here * _share(layout.context),
        "expert": batches
        * both
        * 2
        * mine
        * spec.num_experts_per_tok
        * hidden
        * width
        * sparse
        * _share(layout.expert),
        "pipeline": batches * (2 if train else 1) * mine * hidden * width * (layout.pipeline > 1),
        "gradients": 0.0,
    }
    stage = layout.world // layout.pipeline
    if train:
        dense, expert = stage // layout.tensor, stage // layout.expert
        sent["gradients"] = updates * 2 * 4 * (own.dense * _share(dense) + own.expert * _share(expert))
    spans = {
        "tensor": layout.tensor,
        "context": layout.tensor * layout.context,
        "expert": layout.expert,
        "pipeline": layout.world,
        "gradients": stage,
    }
    seconds = {name: amount / (cluster.speed(spans[name]) * LINK) for name, amount in sent.items()}
    return StepTime(compute=compute, memory=memory, optimiser=optimiser, bubble=bubble, sent=sent, **seconds)


def _products(spec: LingSpec, layout: Layout, method: Method, cluster: Cluster, length: float, train: bool) -> float:
    """Seconds of one token on the last pipeline stage, were it not for tensor and context parallel ranks."""
    flops = cluster.accelerator.flops
    head = 2 * spec.vocab_size * spec.hidden_size
    layers = (forward_flops(spec, length) - head) / layout.pipeline
    if spec.num_nextn_predict_layers:
        one = spec.model_copy(
            update={"num_hidden_layers": 1, "first_k_dense_replace": 0, "num_nextn_predict_layers": 0}
        )
        layers += forward_flops(one, length) - head + 4 * spec.hidden_size**2
        head *= 2
    again = (int(method.recompute), int(method.head_rows is not None)) if train else (0, 0)
    passes = 3 if train else 1
    of_head = flops["float32" if method.width == 4 else "tfloat32"] * HEAD
    # Attention and routers stay in bfloat16 where the rest is in FP8.
    kept = _not_in_fp8(spec, length) / layout.pipeline if method.dtype == "fp8" else 0.0
    of_layers = (layers - kept) / (flops[method.dtype] * MATMUL) + kept / (flops["bfloat16"] * MATMUL)
    return (passes + again[0]) * of_layers + (passes + again[1]) * head / of_head


def _not_in_fp8(spec: LingSpec, length: float) -> float:
    """Operations of one token's forward pass in layers."""
    layers = spec.num_hidden_layers + spec.num_nextn_predict_layers
    attention = 2 * length * spec.num_attention_heads * spec.head_dim * layers
    return attention + 2 * spec.num_experts * spec.hidden_size * (layers - spec.first_k_dense_replace)


def _traffic(
    spec: LingSpec, layout: Layout, method: Method, own: RankParameters, mine: float, length: float, train: bool
) -> float:
    """Bytes that operators between products read and write in one micro-batch of `mine` tokens of a rank's own."""
    dense = spec.first_k_dense_replace
    saved = dense * layer_activations(spec, True, method.width)
    saved += (spec.num_hidden_layers - dense) * layer_activations(spec, False, method.width)
    saved = saved / layout.pipeline + spec.num_hidden_layers / layout.pipeline * attention_scores(
        spec, method.width, length
    )
    if spec.num_nextn_predict_layers:
        saved += layer_activations(spec, False, method.width) + attention_scores(spec, method.width, length)
        saved += mtp_activations(spec, method.width)
    logits = 4.0 * spec.vocab_size * (1 + spec.num_nextn_predict_layers)
    if not train:
        return mine * (FORWARD * saved + LOSS_FORWARD * logits)
    passes = FORWARD * (2 if method.recompute else 1) + BACKWARD
    over = LOSS_FORWARD * (2 if method.head_rows is not None else 1) + LOSS_BACKWARD
    added = 8.0 * own.total + weight_bytes(own.total, own.head, method.width)
    return mine * (passes * saved + over * logits) + added


def _optimiser_traffic(layout: Layout, method: Method, own: RankParameters) -> float:
    """Bytes that one optimiser step reads and writes on a rank; a distributed one steps its stretch alone."""
    same = (layout.data * layout.context, layout.world // layout.pipeline // layout.expert)
    dense, expert = same if method.distributed else (1, 1)
    stepped = own.dense / dense + own.expert / expert
    rounded = 0.0 if method.width == 4 else 4 * stepped + 2 * (own.total - own.head)
    return (ADAMW + NORM) * stepped + ZERO * own.total + rounded


def _share(ranks: int) -> float:
    return (ranks - 1) / ranks


@dataclass(frozen=True)
class Decoding:
    """One engine, steady. sequences: decoded together. step: seconds of one token each."""

    sequences: int
    step: float

    @property
    def tokens_per_second(self) -> float:
        return self.sequences / self.step


def decoding(
    spec: LingSpec, engine: EngineLayout, cluster: Cluster, kv_cache: float, context: float, most: int
) -> Decoding:
    """Decoding bound by memory: every step reads the weights it uses and all keys and values, or by operations.

    Args:
        kv_cache: bytes on one device. context: mean tokens of a sequence in flight. most: sequences of an engine.
    Prefill of prompts is left out: prompts are short beside answers of a reasoner.
    """
    cached = kv_bytes(spec, engine)
    room = int(kv_cache / (cached * context))
    sequences = max(1, min(most, room))
    expert = 3 * spec.hidden_size * spec.moe_intermediate_size
    routed = (spec.num_hidden_layers - spec.first_k_dense_replace) * spec.num_experts * expert
    # A pipeline works on as many groups of sequences as it has stages, and each of them reads the weights.
    missed = (1 - spec.num_experts_per_tok / spec.num_experts) ** (sequences / engine.pipeline)
    weights = 2 * (spec.parameter_count()[0] - routed * missed) / engine.tensor
    read = weights + sequences * context * cached
    operations = sequences * forward_flops(spec, 2 * context) / engine.devices
    speed = cluster.accelerator
    step = max(read / (speed.bandwidth * BANDWIDTH), operations / (speed.flops["bfloat16"] * MATMUL))
    if engine.tensor > 1:
        moved = 2 * 2 * sequences * spec.hidden_size * 2 * spec.num_hidden_layers * _share(engine.tensor)
        step += 2 * spec.num_hidden_layers * HOP_S + moved / (cluster.speed(engine.tensor) * LINK) / engine.pipeline
    return Decoding(sequences, step)
