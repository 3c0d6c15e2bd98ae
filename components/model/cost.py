"""Seconds of a step on a cluster: a model of volumes and peaks, documented here and calibrated nowhere.

A part of a step is its work over a peak times an efficiency. Nothing overlaps: communication, bubbles and waiting are
added up, so a tuned cluster is faster, and whatever this leaves out (stragglers, kernel launches, data, verifiers)
makes it slower. The efficiencies are guesses in the usual range of published runs.

Work per token and layer: 2 operations a weight that is used, forward; twice that backward; once more with recompute;
attention of a causal document of length s costs 2 s heads head_dim more, forward.

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

from components.model.accelerators import Cluster
from components.model.layout import Layout
from components.model.memory import EngineLayout, Method, kv_bytes, rank_parameters
from components.model.spec import LingSpec

MATMUL = 0.4  # of the peak, over attention, grouped and dense products
LINK = 0.7  # of links and network
BANDWIDTH = 0.6  # of the memory's, in decoding
HOP_S = 10e-6  # latency of one collective among the devices of an engine


@dataclass(frozen=True)
class StepTime:
    """Seconds, and with them the bytes that one rank sends (`sent`), by cause."""

    compute: float
    bubble: float
    tensor: float
    context: float
    expert: float
    pipeline: float
    gradients: float
    sent: dict[str, float]

    @property
    def total(self) -> float:
        moving = self.tensor + self.context + self.expert + self.pipeline + self.gradients
        return self.compute + self.bubble + moving


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
    """
    stages = {0, min(1, layout.pipeline - 1), layout.pipeline - 1}  # the others are like the second
    own = max((rank_parameters(spec, layout, stage) for stage in stages), key=lambda own: own.total)
    batches = max(updates, -(-tokens // (micro_batch * layout.data)))  # of a replica: the slowest one counts
    passes = (4 if method.recompute else 3) if train else 1
    peak = cluster.accelerator.flops[method.dtype] * MATMUL
    compute = passes * forward_flops(spec, length) * batches * micro_batch / layout.replica / peak
    bubble = compute * (layout.pipeline - 1) * updates / batches

    width, hidden, here = method.width, spec.hidden_size, spec.num_hidden_layers / layout.pipeline
    mine = micro_batch / (layout.tensor * layout.context)
    heads = (2 * spec.num_attention_heads + 2 * max(spec.num_key_value_heads, layout.tensor * layout.context)) * (
        spec.head_dim
    )
    sparse = here * (1 - spec.first_k_dense_replace / spec.num_hidden_layers)
    gathered = hidden * width * micro_batch / layout.context * _share(layout.tensor)
    ends = (3 if train else 2) / min(layout.pipeline, 2)
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
    return StepTime(compute=compute, bubble=bubble, sent=sent, **seconds)


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
