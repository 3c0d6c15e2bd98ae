from __future__ import annotations

import json
import shutil
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.failures import BadInput
from components.model.fp8 import LARGEST, dequantise, quantise
from components.model.hf import read_hf_directory, tensor_shapes
from components.model.spec import PRESETS
from components.release.export import export, loadable
from components.release.server_command import ServeOptions, serve_command
from tests.components.release.random_model import write_random_model

SHAPES = [(128, 128), (256, 384), (130, 70), (1, 300)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture(scope="module")
def release(checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp("fp8") / "model"
    export(checkpoint, directory, "ring-test", "fp8", shard_bytes=40_000)
    return directory


def test_the_largest_of_each_block_is_exact_and_each_block_has_its_own_factor():
    weight = torch.zeros(200, 200)
    weight[0, 0], weight[0, 199], weight[199, 0] = 896.0, -0.5, 3.0
    stored, factors = quantise(weight)
    assert stored.dtype == torch.float8_e4m3fn
    assert torch.equal(factors, torch.tensor([[2.0, 0.5 / LARGEST], [3.0 / LARGEST, 1.0]]))
    assert torch.equal(dequantise(stored, factors)[[0, 0, 199], [0, 199, 0]], torch.tensor([896.0, -0.5, 3.0]))
    assert int((dequantise(stored, factors) != 0).sum()) == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_error_stays_below_half_a_step_of_e4m3(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(5)) * 0.02
    stored, factors = quantise(weight)
    error = (dequantise(stored, factors) - weight).abs()
    step = factors.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    # 3 bits of mantissa: 1/16 of a normal number, half of 2^-9 below 2^-6; then float32's own rounding.
    assert bool((error <= torch.maximum(weight.abs() / 16, step * 2**-10) * (1 + 1e-5)).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_factors_are_those_of_vllms_own_cast(shape):
    deep_gemm = pytest.importorskip("vllm.utils.deep_gemm")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    stored, factors = quantise(weight)
    theirs, scales = deep_gemm.per_block_cast_to_fp8(weight, [128, 128])
    assert torch.equal(factors, scales)
    different = stored.view(torch.uint8) != theirs.view(torch.uint8)
    # They multiply by 1 / factor, we divide: a value on the edge of two steps may fall to the other side.
    assert int(different.sum()) <= weight.numel() // 1000


def test_a_release_holds_projections_in_fp8_and_keeps_the_rest(checkpoint, release):
    config = json.loads((release / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "fp8"
    assert config["quantization_config"]["weight_block_size"] == [128, 128]
    assert config["torch_dtype"] == "bfloat16"
    files = sorted(release.glob("*.safetensors"))
    assert len(files) > 2
    stored = {name: tensor for file in files for name, tensor in load_file(str(file)).items()}
    index = json.loads((release / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(stored)
    shapes = tensor_shapes(PRESETS["smoke"])
    in_fp8 = {name for name, tensor in stored.items() if tensor.dtype == torch.float8_e4m3fn}
    assert in_fp8 == {
        name for name in shapes if "_proj." in name or "query_key_value" in name or "attention.dense" in name
    }
    assert {name for name in stored if name not in shapes} == {f"{name}_scale_inv" for name in in_fp8}
    before = dict(read_hf_directory(checkpoint)[1])
    for name in shapes.keys() - in_fp8:
        kept = before[name] if ".mlp.gate." in name else before[name].bfloat16()
        assert torch.equal(stored[name], kept)


def test_reading_gives_float32_weights_and_a_second_export_changes_nothing(release, tmp_path):
    spec, tensors = read_hf_directory(release)
    read = dict(tensors)
    assert {name: tuple(tensor.shape) for name, tensor in read.items()} == dict(tensor_shapes(spec))
    copy = loadable(release, "cpu", tmp_path)
    assert copy != release
    assert "quantization_config" not in json.loads((copy / "config.json").read_text())
    again = dict(read_hf_directory(copy)[1])
    assert all(torch.equal(again[name], read[name].float()) for name in read)
    assert loadable(release, "cuda", tmp_path) == release
    export(copy, tmp_path / "again", "ring-test", "fp8")
    twice = dict(read_hf_directory(tmp_path / "again")[1])
    assert all(torch.allclose(twice[name].float(), read[name].float(), rtol=1e-6, atol=0) for name in read)


def test_what_cannot_be_read_or_served_is_told(release, tmp_path, monkeypatch):
    for device in ("cpu", "cuda"):
        with pytest.raises(BadInput, match=r"blocks of 128, one device would have 64 of hidden_size.*--dtype bfloat16"):
            serve_command(release, ServeOptions(device=device))
    whole = shutil.copytree(release, tmp_path / "whole")
    path = next(whole.glob("**/config.json"))
    sizes = {"hidden_size": 256, "num_key_value_heads": 4, "head_dim": 64}
    sizes |= {"intermediate_size": 512, "moe_intermediate_size": 128}
    path.write_text(json.dumps(json.loads(path.read_text()) | sizes))
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        with nullcontext() if amx else pytest.raises(BadInput, match=r"need AMX.*export MODEL --dtype bfloat16"):
            serve_command(whole, ServeOptions())
    assert "bfloat16" in serve_command(whole, ServeOptions(device="cuda"))[0]
    with pytest.raises(BadInput, match=r"would have 64 of moe_intermediate_size.*or lower --tensor-parallel"):
        serve_command(whole, ServeOptions(device="cuda", tensor_parallel=2))
    with pytest.raises(BadInput, match=r"'fp4'.*float32, bfloat16, fp8"):
        export(release, tmp_path / "out", "ring-test", "fp4")
    broken = tmp_path / "broken"
    export(release, broken, "ring-test", "fp8")
    file = broken / "model.safetensors"
    stored = load_file(str(file))
    del stored["model.layers.0.attention.dense.weight_scale_inv"]
    save_file(stored, str(file), metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"1 FP8 weights or factors lack the other.*attention\.dense"):
        dict(read_hf_directory(broken)[1])
    config = json.loads((broken / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="quantised by awq"):
        read_hf_directory(broken)
