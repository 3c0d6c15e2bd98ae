from __future__ import annotations

import shlex

import pytest

from components.failures import BadInput
from components.release.commands import sglang_commands, vllm_commands
from components.release.server_command import ServeOptions, serve_command
from tests.components.release.random_model import write_random_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("release") / "model")


def test_vllms_own_parser_takes_the_commands_of_four_nodes(model):
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    options = ServeOptions(device="cuda", tensor_parallel=8, pipeline_parallel=4, nodes=4, yarn_factor=4.0, port=9000)
    lines = vllm_commands(model, options)
    assert len(lines) == 4
    parser = make_arg_parser(FlexibleArgumentParser())
    for rank, line in enumerate(lines):
        program, verb, *arguments = shlex.split(line)
        assert (program, verb) == ("vllm", "serve")
        parsed = parser.parse_args(arguments)
        validate_parsed_serve_args(parsed)
        engine = EngineArgs.from_cli_args(parsed)
        assert (engine.tensor_parallel_size, engine.pipeline_parallel_size) == (8, 4)
        assert (engine.nnodes, engine.node_rank, engine.master_addr) == (4, rank, "HEAD_ADDRESS")
        assert engine.hf_overrides["rope_parameters"]["factor"] == 4.0
        assert parsed.headless == (rank > 0)
        assert ("--port 9000" in line) == (rank == 0)


def test_one_node_needs_no_addresses(model):
    (vllm,) = vllm_commands(model, ServeOptions())
    (sglang,) = sglang_commands(model, ServeOptions())
    assert "nnodes" not in vllm + sglang
    assert "--dtype float32" in vllm
    assert "--dtype float32" in sglang
    assert "--host 127.0.0.1 --port 8000" in vllm


def test_sglang_on_four_nodes_as_in_the_model_card_of_ring_1t():
    lines = sglang_commands("/models/Ring-1T", ServeOptions(tensor_parallel=8, pipeline_parallel=4, nodes=4))
    assert len(lines) == 4
    assert "--tp-size 8 --pp-size 4 --nnodes 4 --node-rank 3 --dist-init-addr HEAD_ADDRESS:20000" in lines[3]
    assert "--dtype bfloat16" in lines[0]
    assert "--served-model-name Ring-1T" in lines[0]


def test_what_does_not_fit_is_told(model):
    with pytest.raises(BadInput, match="4 x 1 devices on 3 nodes"):
        vllm_commands(model, ServeOptions(tensor_parallel=4, nodes=3))
    with pytest.raises(BadInput, match="YaRN needs the model's own context"):
        vllm_commands("/models/absent", ServeOptions(yarn_factor=2.0))
    with pytest.raises(BadInput, match="--show"):
        serve_command(model, ServeOptions(device="cuda", tensor_parallel=8, nodes=2))
