"""The GPU checks, rehearsed on the CPU: what they find on a GPU stands in docs/gpu.md."""

from __future__ import annotations

import math

import pytest
import torch
from typer.testing import CliRunner

from components.failures import BadInput
from flows import bench
from flows.bench import Check
from flows.cli.app import app


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BadInput, match=r"torch sees no GPU.*rehearsal"):
        bench.measure("gpu")
    with pytest.raises(BadInput, match="no part is called 'lerner'"):
        bench.measure("gpu", part="lerner")


def test_releases_that_are_not_there_are_not_passed_over(tmp_path):
    for exports in ("", str(tmp_path)):
        with pytest.raises(BadInput, match=r"none of bfloat16, fp8, int4 is here.*ringflow export"):
            bench.measure("gpu", part="released", device="cpu", exports=exports)


def test_what_could_not_be_measured_has_not_passed():
    assert Check(1.0, 1.0).passed
    assert not Check(math.nan, 1.0).passed
    assert not Check(1.1, 1.0).passed


@pytest.mark.engine
def test_a_learner_passes_on_the_cpu():
    found = bench.measure("gpu", part="learner", device="cpu")["checks"]
    assert len(found) == 14
    assert [name for name, check in found.items() if not check["passed"]] == []


@pytest.mark.engine
def test_the_checks_of_fused_layers_pass_on_local_ones():
    """Transformer Engine needs a GPU; the MTP layer's checks are the real ones."""
    found = bench.measure("gpu", part="fused", device="cpu")["checks"]
    assert len(found) == 11
    assert [name for name, check in found.items() if not check["passed"]] == []


@pytest.mark.engine
def test_a_part_that_fails_is_a_failed_check_and_the_exit_code(tmp_path):
    (tmp_path / "fp8").mkdir()
    arguments = ["bench", "gpu", "-o", "device=cpu", "-o", "part=released", "-o", f"exports={tmp_path}"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 1
    assert "released fp8:" in run.output
    assert "FAILED" in run.output
