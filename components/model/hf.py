"""Hugging Face BailingMoeV2 weights to and from the megatron-core model, bit for bit.

Three differences: HF fuses attention as [all Q | all K | all V] where megatron interleaves per key-value group
(Ling-V2 tools/convert_dcp_to_safetensors.py `transform_qkv_weight`); HF keeps gate and up projections apart; HF keeps
one tensor per expert where GroupedExperts stacks them. Names are those of FACTS and of inclusionAI's checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from components.failures import BadInput
from components.model.hf_config import (
    CONFIGURATION_FILE,
    CONFIGURATION_SOURCE,
    config_json,
    spec_from_config,
)
from components.model.spec import LingSpec

if TYPE_CHECKING:
    from components.model.builder import LingModel

SHARD_BYTES = 5 * 1024**3
INDEX = "model.safetensors.index.json"


def fuse_qkv(weight: Tensor, spec: LingSpec) -> Tensor:
    """Megatron's interleaved rows (q..q k v per group) -> HF's [Q | K | V]. weight: [rows, hidden]."""
    groups, dim = spec.num_key_value_heads, spec.head_dim
    per_group = spec.num_attention_heads // groups
    split = weight.reshape(groups, per_group + 2, dim, -1)
    parts = (split[:, :per_group], split[:, per_group : per_group + 1], split[:, per_group + 1 :])
    return torch.cat([part.reshape(-1, weight.shape[-1]) for part in parts])


def interleave_qkv(weight: Tensor, spec: LingSpec) -> Tensor:
    """HF's [Q | K | V] -> megatron's interleaved rows; the inverse of `fuse_qkv`."""
    groups, dim = spec.num_key_value_heads, spec.head_dim
    per_group = spec.num_attention_heads // groups
    queries, keys, values = weight.split([spec.num_attention_heads * dim, groups * dim, groups * dim])
    hidden = weight.shape[-1]
    stacked = torch.cat(
        [
            queries.reshape(groups, per_group, dim, hidden),
            keys.reshape(groups, 1, dim, hidden),
            values.reshape(groups, 1, dim, hidden),
        ],
        dim=1,
    )
    return stacked.reshape(-1, hidden)


def tensor_shapes(spec: LingSpec) -> dict[str, tuple[int, ...]]:
    """Every HF tensor of a spec with its shape, in the order of the layers."""
    hidden, heads, keys, dim = spec.hidden_size, spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim

    def ffn(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{prefix}.gate_proj.weight": (width, hidden),
            f"{prefix}.up_proj.weight": (width, hidden),
            f"{prefix}.down_proj.weight": (hidden, width),
        }

    shapes: dict[str, tuple[int, ...]] = {"model.word_embeddings.weight": (spec.vocab_size, hidden)}
    for layer in range(spec.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.attention.query_key_value.weight": ((heads + 2 * keys) * dim, hidden),
            f"{prefix}.attention.query_layernorm.weight": (dim,),
            f"{prefix}.attention.key_layernorm.weight": (dim,),
            f"{prefix}.attention.dense.weight": (hidden, heads * dim),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
        }
        if spec.is_dense(layer):
            shapes |= ffn(f"{prefix}.mlp", spec.intermediate_size)
            continue
        shapes |= {
            f"{prefix}.mlp.gate.weight": (spec.num_experts, hidden),
            f"{prefix}.mlp.gate.expert_bias": (spec.num_experts,),
        }
        for expert in range(spec.num_experts):
            shapes |= ffn(f"{prefix}.mlp.experts.{expert}", spec.moe_intermediate_size)
        if spec.num_shared_experts:
            shapes |= ffn(f"{prefix}.mlp.shared_experts", spec.moe_intermediate_size * spec.num_shared_experts)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (spec.vocab_size, hidden)}


def _bindings(model: LingModel, spec: LingSpec) -> Iterator[tuple[str, Callable[[], Tensor], Callable[[Tensor], Any]]]:
    """(HF name, read, write) of every tensor: the one place that knows where each weight lives in the model."""

    def plain(name: str, target: Tensor):
        return name, lambda: target.detach(), lambda value: target.data.copy_(value)

    def ffn(prefix: str, fc1: Tensor, fc2: Tensor):
        width = fc1.shape[0] // 2
        yield plain(f"{prefix}.gate_proj.weight", fc1.detach()[:width])
        yield plain(f"{prefix}.up_proj.weight", fc1.detach()[width:])
        yield plain(f"{prefix}.down_proj.weight", fc2)

    yield plain("model.word_embeddings.weight", model.embedding.word_embeddings.weight)
    for index, layer in enumerate(model.decoder.layers):
        prefix, attention, mlp = f"model.layers.{index}", layer.self_attention, layer.mlp
        qkv = attention.linear_qkv.weight
        yield plain(f"{prefix}.input_layernorm.weight", layer.input_layernorm.weight)
        yield (
            f"{prefix}.attention.query_key_value.weight",
            lambda qkv=qkv: fuse_qkv(qkv.detach(), spec),
            lambda value, qkv=qkv: qkv.data.copy_(interleave_qkv(value, spec)),
        )
        yield plain(f"{prefix}.attention.query_layernorm.weight", attention.q_layernorm.weight)
        yield plain(f"{prefix}.attention.key_layernorm.weight", attention.k_layernorm.weight)
        yield plain(f"{prefix}.attention.dense.weight", attention.linear_proj.weight)
        yield plain(f"{prefix}.post_attention_layernorm.weight", layer.pre_mlp_layernorm.weight)
        if spec.is_dense(index):
            yield from ffn(f"{prefix}.mlp", mlp.linear_fc1.weight, mlp.linear_fc2.weight)
            continue
        yield plain(f"{prefix}.mlp.gate.weight", mlp.router.weight)
        yield plain(f"{prefix}.mlp.gate.expert_bias", mlp.router.expert_bias)
        for expert in range(spec.num_experts):
            yield from ffn(
                f"{prefix}.mlp.experts.{expert}", mlp.experts.fc1.detach()[expert], mlp.experts.fc2.detach()[expert]
            )
        if spec.num_shared_experts:
            shared = mlp.shared_experts
            yield from ffn(f"{prefix}.mlp.shared_experts", shared.linear_fc1.weight, shared.linear_fc2.weight)
    yield plain("model.norm.weight", model.decoder.final_layernorm.weight)
    yield plain("lm_head.weight", model.output_layer.weight)


def hf_state(model: LingModel, spec: LingSpec) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its HF name, in the model's dtype. Tensors may be views: copy what must outlive a step."""
    for name, read, _ in _bindings(model, spec):
        yield name, read()


@torch.no_grad()
def load_hf_state(
    model: LingModel, spec: LingSpec, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], where: str = ""
) -> None:
    """Copies HF tensors into the model.

    Raises:
        BadInput: a tensor is missing, unknown or of another shape; the model may be partly written then.
    """
    shapes = tensor_shapes(spec)
    writers = {name: write for name, _, write in _bindings(model, spec)}
    for name, value in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if name not in writers:
            raise BadInput(
                f"tensor {name} is not part of {spec.name} (given twice, or another architecture)",
                where=where,
                remedy="Check num_hidden_layers, num_experts and first_k_dense_replace in config.json",
            )
        if tuple(value.shape) != shapes[name]:
            raise BadInput(
                f"tensor {name} has shape {tuple(value.shape)}, {spec.name} needs {shapes[name]}", where=where
            )
        writers.pop(name)(value)
    if writers:
        raise BadInput(
            f"{len(writers)} tensors are missing, the first is {next(iter(writers))}",
            where=where,
            remedy="The checkpoint is incomplete: download it again",
        )


def write_hf_directory(
    directory: Path,
    spec: LingSpec,
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer: Any,
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a directory that transformers and vLLM load: config, safetensors shards, tokenizer, template, generation.

    The router weight and expert bias stay float32 whatever `dtype` is, as inclusionAI's releases keep them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = getattr(torch, dtype)
    shard: dict[str, Tensor] = {}
    placed: list[list[str]] = []
    used = total = 0
    for name, tensor in tensors:
        keep = torch.float32 if ".mlp.gate." in name else target
        stored = tensor.detach().to("cpu", keep, copy=True).contiguous()
        size = stored.numel() * stored.element_size()
        if shard and used + size > shard_bytes:
            placed.append(_save_shard(directory, len(placed), shard))
            shard, used = {}, 0
        shard[name] = stored
        used, total = used + size, total + size
    placed.append(_save_shard(directory, len(placed), shard))
    weight_map = {}
    for index, members in enumerate(placed):
        many = f"model-{index + 1:05d}-of-{len(placed):05d}.safetensors"
        final = "model.safetensors" if len(placed) == 1 else many
        _partial(directory, index).rename(directory / final)
        weight_map |= dict.fromkeys(members, final)
    _write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _write_json(directory / "config.json", config_json(spec, tokenizer, dtype))
    _write_json(
        directory / "generation_config.json",
        {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "do_sample": True,
            "temperature": 1.0,
            "top_p": 1.0,
        },
    )
    (directory / CONFIGURATION_FILE).write_text(CONFIGURATION_SOURCE)
    tokenizer.save_pretrained(str(directory))


def _partial(directory: Path, index: int) -> Path:
    return directory / f".shard-{index}.partial"


def _save_shard(directory: Path, index: int, shard: dict[str, Tensor]) -> list[str]:
    """Writes one shard under a passing name, since its final one holds the number of shards; returns its tensors."""
    from safetensors.torch import save_file

    save_file(shard, str(_partial(directory, index)), metadata={"format": "pt"})
    return list(shard)


def read_hf_directory(directory: Path) -> tuple[LingSpec, Iterator[tuple[str, Tensor]]]:
    """(architecture, tensors) of a BailingMoeV2 directory; tensors are read one at a time, any dtype.

    Raises:
        BadInput: config.json is missing or of another model; a shard is missing, damaged or lacks a listed tensor.
    """
    directory = Path(directory)
    spec = spec_from_config(directory / "config.json")
    index = directory / INDEX
    if index.is_file():
        try:
            weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
        except (json.JSONDecodeError, KeyError) as error:
            raise BadInput(f"not a safetensors index: {error}", where=str(index)) from error
        files = sorted(set(weight_map.values()))
    else:
        files = sorted(path.name for path in directory.glob("*.safetensors") if path.name != "head.safetensors")
    if not files:
        raise BadInput("no *.safetensors", where=str(directory), remedy="Only safetensors checkpoints are read")
    for name in files:
        if not (directory / name).is_file():
            raise BadInput("the shard is listed in the index but absent", where=str(directory / name))
    return spec, _read_shards(directory, files, spec)


def _read_shards(directory: Path, files: list[str], spec: LingSpec) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    extra = f"model.layers.{spec.num_hidden_layers}."
    for name in files:
        try:
            with safe_open(str(directory / name), framework="pt") as shard:
                for key in shard.keys():  # noqa: SIM118  safe_open is not iterable
                    # The multi-token-prediction layer stands after the last layer; it is not trained or served here.
                    if not key.startswith(extra):
                        yield key, shard.get_tensor(key)
        except SafetensorError as error:
            raise BadInput(f"damaged safetensors file: {error}", where=str(directory / name)) from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
