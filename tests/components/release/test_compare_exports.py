"""A 4-bit export in the vLLM of this machine, against the same weights as float32; no Ray."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from components.failures import BadInput
from components.model.builder import build_model
from components.model.hf import load_hf_state, read_hf_directory
from components.release.compare_exports import MODULE, read_sequences
from components.release.export import export
from tests.components.release.random_model import write_random_model

ROOT = Path(__file__).parents[3]


def test_sequences_that_are_none_are_told(tmp_path):
    path = tmp_path / "sequences.json"
    for text, told in (("{", "not"), ('[["a", 1]]', "not"), ("[[[1, 2], 2]]", "sequence 0: a prompt of 2 in 2 tokens")):
        path.write_text(text)
        with pytest.raises(BadInput, match=told):
            read_sequences(path)
    path.write_text("[[[1, 2], 1]]")
    assert read_sequences(path) == [([1, 2], 1)]


def test_it_is_imported_without_ray():
    code = f"import sys, {MODULE}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


def trainer_logprobs(directory: Path, sequences: list) -> np.ndarray:
    spec, tensors = read_hf_directory(directory)
    model = build_model(spec)
    load_hf_state(model, spec, tensors)
    found = []
    for tokens, prompt in sequences:
        stream = torch.tensor(tokens)
        with torch.no_grad():
            logged = model.stream_logits(stream, [len(tokens)]).log_softmax(-1)
        found.append(logged[prompt - 1 : -1].gather(1, stream[prompt:, None]).squeeze(1).numpy())
    return np.concatenate(found)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_vllm_on_a_cpu_computes_4_bit_linear_layers_and_refuses_4_bit_experts(tmp_path):
    original = write_random_model(tmp_path / "original")
    for dtype in ("int4", "int4-dense"):
        export(original, tmp_path / dtype, "ring-test", dtype)
    export(tmp_path / "int4-dense", tmp_path / "same", "ring-test", "float32")
    draw = random.Random(3)
    sequences = [[[draw.randrange(5, 100) for _ in range(48)], 8] for _ in range(12)]
    (tmp_path / "sequences.json").write_text(json.dumps(sequences))
    asked = [sys.executable, "-m", MODULE, str(tmp_path / "same"), "--sequences", str(tmp_path / "sequences.json")]
    asked += [str(tmp_path / name) for name in ("int4-dense", "int4")] + ["--tolerance", "0.1"]
    ran = subprocess.run(asked, cwd=ROOT, timeout=850, capture_output=True, text=True)
    packed, experts = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 1
    assert packed["within"]
    assert packed["tokens"] == 12 * 40
    # bfloat16 activations move it a little; the weights are the 4-bit ones, which are further from the original's.
    rounded = np.abs(trainer_logprobs(original, sequences) - trainer_logprobs(tmp_path / "same", sequences)).mean()
    assert 0 < 3 * packed["mean_abs_dlogp"] < rounded
    assert "No WNA16 MoE backend supports the deployment configuration" in experts["failed"]
