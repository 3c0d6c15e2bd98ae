"""Export, parity arithmetic, card and the sanity of what is served; the servers themselves are in test_serve.py."""

from __future__ import annotations

import json
import math
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.artifacts.local import LocalContext
from components.evaluation.runner import evaluate
from components.failures import BadInput, Diverged, InfrastructureError
from components.model.hf import read_hf_directory
from components.recipe.evaluation import EvaluationConfig
from components.release.card import CardFacts, render_card
from components.release.export import export
from components.release.parity import compare_logprobs, require_parity
from components.release.serve import check_port
from components.release.server_command import ServeOptions, model_directory, serve_command
from tests.components.evaluation.fakes import CODEC, ExactScorer, KnownEngines, item
from tests.components.release.random_model import write_random_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("checkpoint") / "model")


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return dict(read_hf_directory(directory)[1])


def test_float32_release_is_bit_exact_sharded_and_complete(checkpoint, tmp_path):
    exported = export(checkpoint, tmp_path / "model", "ring-test", shard_bytes=200_000)
    assert exported.shards >= 2
    before, after = tensors(checkpoint), tensors(tmp_path / "model")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(before)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == ["BailingMoeV2ForCausalLM"]
    assert config["ringflow_release"] == "ring-test"
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "model" / name).is_file()


def test_bfloat16_release_rounds_all_but_the_router(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "model", "ring-test", "bfloat16")
    before = tensors(checkpoint)
    for name, tensor in tensors(tmp_path / "model").items():
        assert torch.equal(tensor, before[name] if ".mlp.gate." in name else before[name].bfloat16())
        assert tensor.dtype == (torch.float32 if ".mlp.gate." in name else torch.bfloat16)


def test_a_release_of_broken_weights_is_refused(checkpoint, tmp_path):
    broken = write_random_model(tmp_path / "broken")
    weights = load_file(str(broken / "model.safetensors"))
    weights["lm_head.weight"][3, 5] = math.nan
    save_file(weights, str(broken / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lm_head\.weight holds NaN"):
        export(broken, tmp_path / "out", "ring-test")
    with pytest.raises(BadInput, match="not empty"):
        export(checkpoint, broken, "ring-test")


def test_parity_finds_the_worst_token_and_refuses():
    parity = compare_logprobs([[-1.0, -2.0], [-3.0, -4.0, -5.0]], [[-1.0, -2.0], [-3.0, -4.25, -5.0]], 1e-5)
    assert (parity.max_abs_dlogp, parity.mean_abs_dlogp, parity.tokens) == (0.25, 0.05, 5)
    assert (parity.worst_sequence, parity.worst_position) == (1, 1)
    with pytest.raises(Diverged, match=r"not released.*0\.25.*sequence 1, response token 1.*tolerance 1e-05"):
        require_parity(parity, "float32")
    require_parity(replace(parity, tolerance=0.25), "float32")
    # one token in many may be off by ten tolerances, not by more, and not two in a hundred
    steady = [[-1.0] * 300]
    for moved, difference, within in ((1, 0.9, True), (1, 1.1, False), (6, 0.9, False)):
        other = [[-1.0 - difference] * moved + [-1.0] * (300 - moved)]
        assert compare_logprobs(steady, other, 0.1).within is within
    with pytest.raises(Diverged):
        require_parity(compare_logprobs([[-1.0]], [[math.nan]], 1.0), "float32")
    for trainer, released in (([], []), ([[-1.0]], [[-1.0, -1.0]])):
        with pytest.raises(InfrastructureError, match="same response tokens"):
            compare_logprobs(trainer, released, 1.0)


def test_card_states_data_scores_contamination_and_parity(checkpoint, tmp_path):
    exported = export(checkpoint, tmp_path / "model", "ring-test")
    config = EvaluationConfig(samples=2, max_new_tokens=16)
    items = {"sums": [item(number) for number in range(8)]}
    stages = {
        stage: evaluate(
            KnownEngines(right), CODEC, items, config, ExactScorer(), LocalContext(tmp_path / stage, stage, quiet=True)
        )
        for stage, right in (("sft", lambda _: False), ("rlvr-1", lambda _: True))
    }
    facts = CardFacts(
        name="ring-test",
        alias="released",
        licence="apache-2.0",
        preset="smoke",
        exported=exported,
        parity=compare_logprobs([[-1.0, -2.0]], [[-1.0, -2.000001]], 1e-5),
        architecture=[("layers", 2)],
        sources=[{"uri": "s3://b/a|b.jsonl", "sha256": "f" * 64, "licence": "", "records": 1234, "split": "sft"}],
        decontamination={"counts": {"sft": {"records": 10, "kept": 7, "removed": 3, "review": 1}, "semantic": {}}},
        evaluations=stages,
        artifacts={"model": ("a" * 64, "s3://b/model")},
        picture="stages.png",
    )
    card = render_card(facts)
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "| rlvr-1 | 100.0 [67.6, 100.0] +100.0" in card
    assert "| sft | 1,234 | s3://b/a\\|b.jsonl | none stated | ffffffffffffffff |" in card
    assert "| sft | 10 | 7 | 3 | 1 |" in card
    assert "largest difference\n1.00e-06" in card
    assert "ringflow serve models:/ring-test@released" in card
    assert f"{exported.parameters[0]:,} parameters" in card
    assert "embedding" not in card.split("## Contamination")[1].split("##")[0]
    assert "{{" not in card


def test_serve_command_is_loopback_and_runs_no_code_of_the_model(checkpoint, monkeypatch):
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)  # an engine of this process sets it
    command, environment = serve_command(checkpoint.parent, ServeOptions(port=8123, threads=1))
    line = " ".join(command)
    assert f"serve {checkpoint} --host 127.0.0.1 --port 8123" in line
    assert "trust-remote-code" not in line
    assert "--dtype float32" in line  # vLLM's `auto` would run float32 weights in bfloat16
    assert (environment["OMP_NUM_THREADS"], environment["TORCHDYNAMO_DISABLE"]) == ("1", "1")
    assert "TORCHDYNAMO_DISABLE" not in serve_command(checkpoint, ServeOptions(device="cuda"))[1]


def test_what_cannot_be_served_is_named(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"no config\.json"):
        model_directory(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"no tokenizer\.json"):
        model_directory(tmp_path)
    monkeypatch.delenv("SERVE_KEY", raising=False)
    with pytest.raises(BadInput, match="SERVE_KEY: the environment variable with the API key is empty"):
        serve_command(checkpoint, ServeOptions(api_key_env="SERVE_KEY"))


def test_a_taken_port_names_its_holder():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(
            BadInput, match=rf"cannot listen on 127\.0\.0\.1:{port}: .* by process \d+ \(.*another port"
        ):
            check_port("127.0.0.1", port)
