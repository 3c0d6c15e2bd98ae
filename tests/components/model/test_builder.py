from __future__ import annotations

import numpy as np
import torch

from components.model.builder import build_model, expert_biases, routers
from components.model.initial import initialise
from components.model.layers import PackedLayout
from components.model.spec import PRESETS

SPEC = PRESETS["nano"]


def reference_logits(state: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Ling 2.0 written out from the report, one document, no library: what the megatron model must compute."""

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + SPEC.rms_norm_eps) * state[name]

    def ffn(x, prefix):
        gate = torch.nn.functional.silu(x @ state[f"{prefix}.gate_proj.weight"].T)
        return (gate * (x @ state[f"{prefix}.up_proj.weight"].T)) @ state[f"{prefix}.down_proj.weight"].T

    def rope(x):
        half = SPEC.rotary_dim // 2
        angles = torch.arange(len(x))[:, None] / SPEC.rope_theta ** (torch.arange(half) / half)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        a, b = x[..., :half], x[..., half : 2 * half]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], dim=-1)

    hidden = state["model.word_embeddings.weight"][tokens]
    heads, keys, dim = SPEC.num_attention_heads, SPEC.num_key_value_heads, SPEC.head_dim
    for layer in range(SPEC.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        x = norm(hidden, f"{prefix}.input_layernorm.weight")
        q, k, v = (x @ state[f"{prefix}.attention.query_key_value.weight"].T).split(
            [heads * dim, keys * dim, keys * dim], dim=-1
        )
        q = rope(norm(q.view(-1, heads, dim), f"{prefix}.attention.query_layernorm.weight"))
        k = rope(norm(k.view(-1, keys, dim), f"{prefix}.attention.key_layernorm.weight"))
        k, v = (t.repeat_interleave(heads // keys, dim=1) for t in (k, v.view(-1, keys, dim)))
        scores = torch.einsum("qhd,khd->hqk", q, k) / dim**0.5
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), float("-inf"))
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(len(x), -1)
        hidden = hidden + mixed @ state[f"{prefix}.attention.dense.weight"].T
        x = norm(hidden, f"{prefix}.post_attention_layernorm.weight")
        if SPEC.is_dense(layer):
            hidden = hidden + ffn(x, f"{prefix}.mlp")
            continue
        scores = torch.sigmoid(x @ state[f"{prefix}.mlp.gate.weight"].T)
        out = ffn(x, f"{prefix}.mlp.shared_experts")
        for position, row in enumerate(scores):
            biased = row + state[f"{prefix}.mlp.gate.expert_bias"]
            groups = biased.view(SPEC.n_group, -1).topk(2).values.sum(-1).topk(SPEC.topk_group).indices
            allowed = torch.zeros(SPEC.n_group, SPEC.num_experts // SPEC.n_group).index_fill(0, groups, 1).view(-1)
            chosen = biased.masked_fill(allowed == 0, float("-inf")).topk(SPEC.num_experts_per_tok).indices
            weights = row[chosen] / row[chosen].sum() * SPEC.routed_scaling_factor
            for expert, weight in zip(chosen.tolist(), weights, strict=True):
                out[position] += weight * ffn(x[position], f"{prefix}.mlp.experts.{expert}")
        hidden = hidden + out
    return norm(hidden, "model.norm.weight") @ state["lm_head.weight"].T


@torch.no_grad()
def test_the_model_computes_ling_2_whatever_its_neighbours_in_the_stream():
    from components.model.hf import hf_state

    model = build_model(SPEC, seed=1)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    for bias in expert_biases(model):
        bias.normal_(0, 0.1)
    state = {name: tensor.clone() for name, tensor in hf_state(model, SPEC)}
    lengths = [5, 33, 1, 20, 18]
    documents = [torch.randint(0, SPEC.vocab_size, (length,)) for length in lengths]
    packed = model.stream_logits(torch.cat(documents), lengths).split(lengths)
    for document, logits in zip(documents, packed, strict=True):
        assert logits.shape == (len(document), SPEC.vocab_size)
        torch.testing.assert_close(logits, reference_logits(state, document), atol=2e-5, rtol=1e-4)


def test_layout_reads_every_token_back_in_order():
    lengths = [7, 100, 3, 64, 90, 1]
    layout = PackedLayout.of(lengths, SPEC)
    stream = torch.arange(sum(lengths))
    assert torch.equal(stream[layout.gather][layout.places], stream)
    assert sum(documents for documents, _ in layout.buckets) == len(lengths)
    assert sum(documents * width for documents, width in layout.buckets) == len(layout.gather) < 1.5 * sum(lengths)
    assert layout.cu_seqlens_q.tolist() == np.cumsum([0, *lengths]).tolist()


def test_one_seed_draws_one_model_and_the_router_counts_only_training_tokens():
    first, second = build_model(PRESETS["smoke"], seed=5), build_model(PRESETS["smoke"], seed=5)
    state = first.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in second.state_dict().items() if torch.is_tensor(v))
    initialise(second, PRESETS["smoke"], 6)
    assert not torch.equal(first.embedding.word_embeddings.weight, second.embedding.word_embeddings.weight)
    tokens = torch.arange(10)
    with torch.no_grad():
        first.stream_logits(tokens, [10])
    assert sum(float(router.local_tokens_per_expert.sum()) for router in routers(first)) == 0
    first.stream_logits(tokens, [10])
    assert [float(router.local_tokens_per_expert.sum()) for router in routers(first)] == [40.0]


def test_process_groups_that_somebody_ended_are_made_anew():
    """As an engine in the same process does it. The MTP layer asks the groups for this process's rank."""
    spec = SPEC.model_copy(update={"num_nextn_predict_layers": 1})
    before = build_model(spec, seed=1)
    torch.distributed.destroy_process_group()
    after = build_model(spec, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
