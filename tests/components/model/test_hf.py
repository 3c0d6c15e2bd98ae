from __future__ import annotations

import json

import pytest
import torch

from components.failures import BadInput
from components.model.builder import build_model, expert_biases
from components.model.hf import hf_state, load_hf_state, read_hf_directory, tensor_shapes, write_hf_directory
from components.model.hf_config import register
from components.model.importer import import_checkpoint
from components.model.shards import fuse_qkv
from components.model.spec import PRESETS
from components.model.tokenizer import load_tokenizer

SPEC = PRESETS["smoke"]


@pytest.fixture(scope="module")
def model():
    built = build_model(SPEC, seed=3)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
        for bias in expert_biases(built):
            bias.normal_()
    return built


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("hf")
    write_hf_directory(path, SPEC, hf_state(model, SPEC), load_tokenizer("nano"), shard_bytes=100_000)
    return path


def test_round_trip_is_bit_exact_over_shards(model, directory):
    assert len(list(directory.glob("*.safetensors"))) > 1
    assert not list(directory.glob(".shard*"))
    spec, tensors = read_hf_directory(directory)
    assert spec == SPEC
    again = build_model(spec)
    load_hf_state(again, spec, tensors)
    ours, theirs = dict(hf_state(model, SPEC)), dict(hf_state(again, SPEC))
    assert ours.keys() == theirs.keys() == tensor_shapes(SPEC).keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    internal = {name: value for name, value in model.state_dict().items() if torch.is_tensor(value)}
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in internal.items())


def test_fused_attention_lists_all_queries_then_keys_then_values():
    spec = PRESETS["nano"]
    rows = (spec.num_attention_heads + 2 * spec.num_key_value_heads) * spec.head_dim
    marked = torch.arange(rows, dtype=torch.float32).unsqueeze(1).expand(rows, 2).contiguous()
    fused = fuse_qkv(marked, spec)[:, 0].view(-1, spec.head_dim)[:, 0] / spec.head_dim
    # Megatron rows: q0 q1 k0 v0 | q2 q3 k1 v1.
    assert fused.tolist() == [0, 1, 4, 5, 2, 6, 3, 7]
    model = build_model(spec)
    rows_of_megatron = model.decoder.layers[0].self_attention.linear_qkv.weight
    rows_of_megatron.data.copy_(marked[:, :1].expand_as(rows_of_megatron))
    name = "model.layers.0.attention.query_key_value.weight"
    assert torch.equal(dict(hf_state(model, spec))[name][:, :2], fuse_qkv(marked, spec))


def test_transformers_reads_the_config(directory):
    from transformers import AutoConfig

    register()
    config = AutoConfig.from_pretrained(directory)
    assert config.score_function == "sigmoid"
    assert config.use_rmsnorm
    assert config.rope_parameters["partial_rotary_factor"] == SPEC.partial_rotary_factor
    assert config.rope_parameters["rope_theta"] == SPEC.rope_theta


def test_import_checks_and_copies(directory, model, tmp_path):
    counted = import_checkpoint(str(directory), SPEC, "nano", tmp_path / "model", tmp_path)
    assert counted["tensors"] == len(tensor_shapes(SPEC))
    assert counted["parameters"] == SPEC.parameter_count()[0]
    copied = dict(read_hf_directory(tmp_path / "model")[1])
    assert all(torch.equal(value, copied[name]) for name, value in hf_state(model, SPEC))


def test_import_refuses_another_architecture(directory, tmp_path):
    with pytest.raises(BadInput, match="num_hidden_layers"):
        import_checkpoint(str(directory), PRESETS["nano"], "nano", tmp_path / "model", tmp_path)


def test_missing_odd_and_misshapen_tensors_are_named(model):
    tensors = dict(hf_state(model, SPEC))
    without = {name: value for name, value in tensors.items() if name != "lm_head.weight"}
    with pytest.raises(BadInput, match=r"missing, the first is lm_head\.weight"):
        load_hf_state(build_model(SPEC), SPEC, without)
    with pytest.raises(BadInput, match="not part of"):
        load_hf_state(build_model(SPEC), SPEC, {**tensors, "model.odd": torch.ones(1)})
    with pytest.raises(BadInput, match=r"model\.norm\.weight has shape"):
        load_hf_state(build_model(SPEC), SPEC, {**tensors, "model.norm.weight": torch.ones(3)})


def test_damage_is_named(directory, tmp_path):
    with pytest.raises(BadInput, match=r"config\.json"):
        read_hf_directory(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(BadInput, match="LlamaForCausalLM"):
        read_hf_directory(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "topk_group": 1}))
    with pytest.raises(BadInput, match="twice topk_group"):
        read_hf_directory(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"not a shard")
    with pytest.raises(BadInput, match=r"model\.safetensors"):
        list(read_hf_directory(tmp_path)[1])
