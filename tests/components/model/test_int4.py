from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.failures import BadInput
from components.model.hf import read_hf_directory, tensor_shapes
from components.model.hf_config import has_quantised_experts, quantisation
from components.model.int4 import DIVISORS, GROUP, HIGHEST, LOWEST, dequantise, pack, quantise, quantised, unpack
from components.model.spec import PRESETS
from components.release.export import export, loadable
from components.release.server_command import ServeOptions, serve_command
from tests.components.release.random_model import write_random_model

SHAPES = [(64, 32), (96, 128), (1, 256)]
GATE = "model.layers.1.mlp.gate.weight"


def weight_of(shape, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture(scope="module", params=["int4", "int4-dense"])
def release(checkpoint, tmp_path_factory, request):
    directory = tmp_path_factory.mktemp("int4") / "model"
    export(checkpoint, directory, "ring-test", request.param, shard_bytes=40_000)
    return directory


def stored_in(directory):
    return {n: t for file in sorted(directory.glob("*.safetensors")) for n, t in load_file(str(file)).items()}


def test_eight_are_packed_in_one_the_first_lowest_and_come_back():
    assert pack(torch.tensor([[-8, -7, 0, 7, -8, -8, -8, 7]])).tolist() == [[0xF000F810 - 2**32]]
    every = torch.arange(-8, 8, dtype=torch.int8).repeat(3)[None, :45]
    assert torch.equal(unpack(pack(every), 45), every)


@pytest.mark.parametrize("shape", SHAPES)
def test_error_of_an_uncut_weight_is_half_a_step_and_a_searched_factor_is_never_worse(shape):
    weight = weight_of(shape)
    steps = {}
    for name, divisors in {"uncut": (7.0,), "theirs": (7.5,), "searched": DIVISORS}.items():
        stored, factors = quantise(weight, divisors=divisors)
        assert (int(stored.min()), int(stored.max())) >= (LOWEST, LOWEST)
        assert int(stored.max()) <= HIGHEST
        steps[name] = (dequantise(stored, factors) - weight).reshape(-1, GROUP), factors.float().reshape(-1, 1)
    error, factors = steps["uncut"]
    # The factor is rounded to bfloat16, so that the largest weight may lie 7 / 256 of a step beyond the last one.
    assert bool((error.abs() <= factors * (0.5 + 7 / 256)).all())
    power = {name: error.square().sum(dim=1) for name, (error, _) in steps.items()}
    assert bool((power["searched"] <= power["uncut"]).all())
    assert bool((power["searched"] <= power["theirs"]).all())
    # With the smallest factor the largest weight lies 9 steps from 0, and 7 are kept.
    error, factors = steps["searched"]
    assert bool((error.abs() <= factors * (2 + 9 / 256)).all())


def test_the_search_takes_a_sixth_of_the_error_of_normal_weights():
    weight = weight_of((256, 512))

    def lost(divisors):
        return float((dequantise(*quantise(weight, divisors=divisors)) - weight).square().sum() / weight.square().sum())

    assert lost(DIVISORS) == pytest.approx(0.0075, rel=0.02)
    assert lost((7.5,)) == pytest.approx(0.0090, rel=0.02)


def test_zeros_and_whole_steps_are_exact_and_a_second_time_changes_nothing():
    assert torch.equal(dequantise(*quantise(torch.zeros(2, 64))), torch.zeros(2, 64))
    once = dequantise(*quantise(weight_of((64, 256))))
    assert torch.equal(dequantise(*quantise(once)), once)


@pytest.mark.parametrize("shape", SHAPES)
def test_compressed_tensors_packs_and_reads_the_same(shape):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weight = weight_of(shape, 6)
    ours = {name.removeprefix("x.up_proj."): tensor for name, tensor in quantised([("x.up_proj.weight", weight)])}
    scheme = QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(num_bits=4, strategy="group", group_size=GROUP)
    )
    exact = dict(ours, weight_scale=ours["weight_scale"].float())
    read = PackedQuantizationCompressor.decompress(exact, scheme)["weight"]
    expected = dequantise(*quantise(weight))
    assert torch.equal(read, expected)
    # With the factors as they are stored it rounds the products to bfloat16.
    assert torch.equal(PackedQuantizationCompressor.decompress(ours, scheme)["weight"], expected.bfloat16())
    again = PackedQuantizationCompressor.compress(
        {"weight": expected, "weight_scale": ours["weight_scale"].float()}, scheme
    )
    assert torch.equal(again["weight_packed"], ours["weight_packed"])
    assert torch.equal(again["weight_shape"], ours["weight_shape"])


def test_a_release_packs_projections_and_keeps_the_rest(checkpoint, release):
    config = json.loads((release / "config.json").read_text())
    kind = quantisation(release / "config.json")
    assert config["quantization_config"]["format"] == "pack-quantized"
    assert config["torch_dtype"] == "bfloat16"
    stored, shapes = stored_in(release), tensor_shapes(PRESETS["smoke"])
    index = json.loads((release / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(stored)
    packed = {name.removesuffix("_packed") for name in stored if name.endswith("_packed")}
    assert packed == {
        name
        for name in shapes
        if ("_proj." in name or "query_key_value" in name or "attention.dense" in name)
        and (kind == "int4" or ".mlp.experts." not in name)
    }
    assert {name for name in stored if name not in shapes} == {
        f"{name}_{part}" for name in packed for part in ("packed", "scale", "shape")
    }
    before = dict(read_hf_directory(checkpoint)[1])
    for name in shapes.keys() - packed:
        assert torch.equal(stored[name], before[name] if ".mlp.gate." in name else before[name].bfloat16())
    assert stored[GATE].dtype == torch.float32
    for name in packed:
        assert [stored[f"{name}_{part}"].dtype for part in ("packed", "scale")] == [torch.int32, torch.bfloat16]


def test_compressed_tensors_and_vllm_read_the_config_alike(release):
    """Which module is 4-bit, by vLLM's own lookup, is what the file holds."""
    pytest.importorskip("vllm")
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig
    from vllm.model_executor.models.bailing_moe import BailingMoeV2ForCausalLM

    found = json.loads((release / "config.json").read_text())["quantization_config"]
    config = CompressedTensorsConfig.from_config(found)
    config.packed_modules_mapping = BailingMoeV2ForCausalLM.packed_modules_mapping
    linear, embedding = torch.nn.Linear(1, 1), torch.nn.Embedding(1, 1)

    def in_4_bits(name, module=linear):
        scheme = config.get_scheme_dict(module, name)
        return scheme is not None and (scheme["weights"].num_bits, scheme["format"]) == (4, "pack-quantized")

    layer = "model.layers.1"
    assert in_4_bits(f"{layer}.attention.query_key_value")
    assert in_4_bits(f"{layer}.attention.dense")
    assert in_4_bits("model.layers.0.mlp.gate_up_proj")
    assert in_4_bits(f"{layer}.mlp.shared_experts.gate_up_proj")
    assert in_4_bits(f"{layer}.mlp.experts.0.down_proj") == (quantisation(release / "config.json") == "int4")
    assert not in_4_bits(f"{layer}.mlp.gate")
    assert not in_4_bits("lm_head")
    assert not in_4_bits("model.word_embeddings", embedding)


def test_reading_gives_float32_weights_and_a_second_export_changes_nothing(release, tmp_path):
    kind = quantisation(release / "config.json")
    spec, tensors = read_hf_directory(release)
    read = dict(tensors)
    assert {name: tuple(tensor.shape) for name, tensor in read.items()} == dict(tensor_shapes(spec))
    stored = stored_in(release)
    name = "model.layers.0.attention.dense.weight"
    _, columns = stored[f"{name}_shape"].tolist()
    assert torch.equal(read[name], dequantise(unpack(stored[f"{name}_packed"], columns), stored[f"{name}_scale"]))
    copy = loadable(release, "cpu", tmp_path)
    # vLLM loads 4-bit linear layers on a CPU, experts it does not.
    assert (copy == release) == (kind == "int4-dense")
    assert loadable(release, "cuda", tmp_path) == release
    export(copy, tmp_path / "again", "ring-test", kind)
    twice = stored_in(tmp_path / "again")
    assert all(torch.equal(twice[name], stored[name]) for name in stored)


def test_a_model_without_experts_needs_no_gpu(release, tmp_path):
    config = json.loads((release / "config.json").read_text())
    assert has_quantised_experts(release / "config.json") == (quantisation(release / "config.json") == "int4")
    (tmp_path / "config.json").write_text(json.dumps(config | {"first_k_dense_replace": config["num_hidden_layers"]}))
    assert not has_quantised_experts(tmp_path / "config.json")


def test_what_cannot_be_read_written_or_served_is_told(release, tmp_path):
    kind = quantisation(release / "config.json")
    if kind == "int4":
        with pytest.raises(BadInput, match=r"4-bit experts.*--device cuda.*export MODEL --dtype int4-dense"):
            serve_command(release, ServeOptions())
    else:
        command, environment = serve_command(release, ServeOptions())
        assert "bfloat16" in command
        assert environment["VLLM_CPU_INT4_W4A8"] == "0"
    assert "bfloat16" in serve_command(release, ServeOptions(device="cuda"))[0]
    with pytest.raises(BadInput, match=r"x\.up_proj\.weight: 48 inputs are no whole number of groups of 32"):
        list(quantised([("x.up_proj.weight", torch.ones(32, 48))]))
    broken = tmp_path / "broken"
    export(release, broken, "ring-test", kind)
    stored = load_file(str(broken / "model.safetensors"))
    name = "model.layers.0.attention.dense.weight"
    for change, told in (
        ({f"{name}_scale": None}, rf"1 4-bit weights lack a part.*without {name}_scale"),
        ({f"{name}_packed": stored[f"{name}_packed"][:, 1:].contiguous()}, r"_packed is torch\.int32 \(64, 7\), not"),
        ({f"{name}_scale": stored[f"{name}_scale"][1:].contiguous()}, r"_scale has shape \(63, 2\)"),
    ):
        kept = {key: tensor for key, tensor in (stored | change).items() if tensor is not None}
        save_file(kept, str(broken / "model.safetensors"), metadata={"format": "pt"})
        with pytest.raises(BadInput, match=told):
            dict(read_hf_directory(broken)[1])
    config = json.loads((broken / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["symmetric"] = False
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="quantised by compressed-tensors"):
        read_hf_directory(broken)
