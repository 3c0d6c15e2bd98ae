"""The memory model, and the volumes of the cost model, against real models: every rank of a grid of layouts is built on
a process group that carries nothing; its tensors and the bytes it would send are counted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from components.failures import BadInput
from components.model.accelerators import ACCELERATORS, parse_cluster
from components.model.cost import step_time
from components.model.layout import Layout
from components.model.memory import (
    Method,
    attention_scores,
    layer_activations,
    learner_memory,
    mtp_activations,
    rank_parameters,
    today,
)
from components.model.spec import PRESETS
from components.recipe.execution import ExecutionConfig

TODAY = today(ExecutionConfig())
HALF = Method("bfloat16", "bfloat16")
GRID = [
    *(Layout(1), Layout(2), Layout(2, tensor=2), Layout(2, context=2)),
    *(Layout(4, tensor=2, pipeline=2), Layout(4, tensor=2, context=2), Layout(4, expert=4)),
    *(Layout(8, tensor=2, context=2, expert=8), Layout(8, tensor=2, pipeline=4), Layout(8, pipeline=2, expert=4)),
]
IN_HALF = [Layout(1), Layout(4, tensor=2, pipeline=2), Layout(4, expert=4)]

MTP = PRESETS["nano"].model_copy(update={"num_nextn_predict_layers": 1})
SPECS = PRESETS | {"mtp": MTP}
BUILT = [("nano", layout, "float32") for layout in GRID] + [("nano", layout, "bfloat16") for layout in IN_HALF]
BUILT += [("mtp", layout, "float32") for layout in (Layout(2, tensor=2), Layout(4, tensor=2, context=2))]
BUILT += [("mtp", Layout(4, tensor=2, expert=4), "bfloat16")]

# One process plays every rank: torch's fake process group lets megatron build its part of the model, and moves nothing.
COUNT = """
import gc, json, sys
from contextlib import nullcontext
import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from components.model import builder, process_groups
from components.model.layout import Layout
from components.model.shards import pieces
from components.model.spec import PRESETS
from components.recipe.training import OptimiserConfig
from components.training.optimiser import FlatAdamW
from components.training.parallel import EXPERT, Ranks
from megatron.core import parallel_state

gc.freeze()  # what imports made is not looked through again


def allocated():
    gc.collect()
    tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


class Sent(TorchDispatchMode):
    # Bytes that this rank sends by collectives of n ranks, each at its least.
    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            kind = func._opname
            given, group = (args[0], args[1]) if kind == "allreduce_" else ([args[1]], args[2])
            n = dist.ProcessGroup.unbox(group).size()
            share = {"_allgather_base_": n - 1, "_reduce_scatter_base_": (n - 1) / n, "alltoall_base_": (n - 1) / n,
                     "allreduce_": 2 * (n - 1) / n}[kind]
            self.bytes += share * sum(t.numel() * t.element_size() for t in given)
        return func(*args, **(kwargs or {}))


sent = []
found = []
specs = PRESETS | {"mtp": PRESETS["nano"].model_copy(update={"num_nextn_predict_layers": 1})}
for name, settings, dtype in json.loads(sys.argv[1]):
    layout, spec, half = Layout(**settings), specs[name], dtype == "bfloat16"
    for rank in range(layout.world):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.world)
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tensor, pipeline_model_parallel_size=layout.pipeline,
            context_parallel_size=layout.context, expert_model_parallel_size=layout.expert,
            expert_tensor_parallel_size=1, create_gloo_process_groups=False)
        process_groups._remember(layout)
        before = allocated()
        model = builder.build_model(spec, dtype=getattr(torch, dtype), layout=layout)
        optimiser = FlatAdamW(model.parameters(), OptimiserConfig(lr=1e-3), 1, Ranks(layout, rank, "cpu").kind)
        held = [p for p in pieces(model, spec) if not p.name.endswith("expert_bias")]
        expert = sum(p.view.numel() for p in held if ".experts." in p.name)
        found.append({"rank": rank, "dense": sum(p.view.numel() for p in held) - expert, "expert": expert,
                      "bytes": allocated() - before})
        if not half and layout.world > 1 and layout.expert == layout.pipeline == 1 and rank == 0:
            for parameter in model.parameters():
                parameter.data.normal_(0, 0.02)
            with Sent() as forward:
                positions = torch.arange(512 // layout.context)
                if spec.num_nextn_predict_layers:
                    positions = torch.cat([positions, positions])
                ahead = 512 // layout.context if spec.num_nextn_predict_layers else None
                out = model.run(torch.arange(512) % 100, [512], positions, head=False, ahead=ahead)
            with Sent() as backward:
                out.sum().backward()
            with Sent() as reduced:
                Ranks(layout, rank, "cpu").reduce(optimiser, torch.zeros(0))
            sent.append([forward.bytes, backward.bytes, reduced.bytes])
            del out
        del model, optimiser, held
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
process_groups._initialised = None
saved = {}
for name, dtype in [(name, dtype) for name in ("nano", "smoke", "mtp") for dtype in ("float32", "bfloat16")]:
    spec, stored = specs[name], {}
    model = builder.build_model(spec, dtype=getattr(torch, dtype), seed=0)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            stored[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    for backends in (("default", "plain") if dtype == "float32" else ("default",)):
        stored.clear()
        plain = sdpa_kernel(SDPBackend.MATH) if backends == "plain" else nullcontext()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), plain:
            positions, ahead = (torch.arange(1024) % 512, 512) if name == "mtp" else (None, None)
            out = model.run(torch.arange(512) % spec.vocab_size, [256, 256], positions, head=False, ahead=ahead)
        total = sum(tensor.untyped_storage().nbytes() for tensor in stored.values()) / 512
        saved[f"{name} {dtype} {backends}"] = total
print(json.dumps({"ranks": found, "saved": saved, "sent": sent}))
"""


@pytest.fixture(scope="module")
def counted() -> dict:
    fields = Layout.__dataclass_fields__
    settings = [(name, {key: getattr(x, key) for key in fields}, dtype) for name, x, dtype in BUILT]
    done = subprocess.run(
        [sys.executable, "-c", COUNT, json.dumps(settings)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_parameters_of_every_rank_are_those_its_shards_hold(counted: dict) -> None:
    expected = [
        {"rank": rank, "dense": own.dense, "expert": own.expert}
        for name, layout, _ in BUILT
        for rank in range(layout.world)
        for own in [rank_parameters(SPECS[name], layout, layout.place(rank).pipeline)]
    ]
    assert [{key: row[key] for key in ("rank", "dense", "expert")} for row in counted["ranks"]] == expected


def test_weights_gradients_and_moments_are_the_bytes_torch_allocates(counted: dict) -> None:
    rows = iter(counted["ranks"])
    for name, layout, dtype in BUILT:
        method = TODAY if dtype == "float32" else HALF
        for rank in range(layout.world):
            stage = layout.place(rank).pipeline
            memory = learner_memory(SPECS[name], layout, method, stage, 512, 4)
            expected = memory.weights + memory.gradients + memory.moments
            assert next(rows)["bytes"] == pytest.approx(expected, rel=0.003), (layout, rank, method.name)


def test_volumes_are_the_bytes_that_collectives_are_given(counted: dict) -> None:
    """Forward and backward exactly. Gradients within 1 %: a plan leaves out norms and routers over tensor ranks."""
    layouts = [(n, x) for n, x, kind in BUILT if kind == "float32" and x.world > 1 and x.expert == x.pipeline == 1]
    assert len(layouts) == len(counted["sent"]) == 6
    for (name, layout), (forward, backward, reduced) in zip(layouts, counted["sent"], strict=True):
        options = (SPECS[name], layout, TODAY, parse_cluster("2xH100"), 512 * layout.data, 512, 512)
        alone, trained = step_time(*options, train=False).sent, step_time(*options).sent
        assert sum(alone.values()) == forward, layout
        assert sum(trained.values()) - trained["gradients"] == forward + backward, layout
        assert trained["gradients"] == pytest.approx(reduced, rel=0.01), layout


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["nano", "smoke", "mtp"])
def test_activations_are_the_tensors_a_forward_pass_saves(counted: dict, name: str, dtype: str) -> None:
    spec, width = SPECS[name], 4 if dtype == "float32" else 2
    layers = range(spec.num_hidden_layers + spec.num_nextn_predict_layers)
    expected = sum(layer_activations(spec, spec.is_dense(layer), width) for layer in layers)
    expected += mtp_activations(spec, width) + 4 * spec.hidden_size  # the last norm's
    assert counted["saved"][f"{name} {dtype} default"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", ["nano", "smoke"])
def test_torchs_plain_attention_saves_every_score(counted: dict, name: str) -> None:
    """What float32 with grouped queries runs on a GPU, made to run here."""
    spec, saved = PRESETS[name], counted["saved"]
    more = saved[f"{name} float32 plain"] - saved[f"{name} float32 default"]
    assert more == pytest.approx(spec.num_hidden_layers * attention_scores(spec, 4, 256), rel=0.001)
    assert attention_scores(spec, 2, 256) == 0


@pytest.mark.parametrize("name", ["ring-mini-2.0", "ring-flash-2.0", "ring-1t"])
def test_the_ranks_of_one_replica_hold_the_model_once(name: str) -> None:
    spec = PRESETS[name]
    biases = (spec.num_hidden_layers - spec.first_k_dense_replace) * spec.num_experts
    assert rank_parameters(spec, Layout(), 0).total + biases == spec.parameter_count()[0]
    layout = Layout(32, tensor=4, pipeline=4, expert=8)
    stages = [rank_parameters(spec, layout, stage) for stage in range(4)]
    assert sum(own.expert for own in stages) * 8 == rank_parameters(spec, Layout(), 0).expert


def test_a_distributed_optimiser_divides_moments_and_nothing_else() -> None:
    spec, layout = PRESETS["ring-1t"], Layout(512, tensor=8, pipeline=4, expert=32)
    for method, bytes_each in ((TODAY, 8), (HALF, 12)):
        whole, divided = (
            learner_memory(spec, layout, replace(method, distributed=distributed), 1, 65_536, 8)
            for distributed in (False, True)
        )
        own = rank_parameters(spec, layout, 1)
        assert whole.moments == bytes_each * own.total
        assert divided.moments == bytes_each * (own.dense / 16 + own.expert / 4)
        assert replace(divided, moments=whole.moments) == whole


def test_the_head_is_float32_and_its_own_master_copy() -> None:
    spec, layout = PRESETS["ring-mini-2.0"], Layout(2, pipeline=2)
    own, head = rank_parameters(spec, layout, 1), spec.vocab_size * spec.hidden_size
    memory = learner_memory(spec, layout, HALF, 1, 4096, 2)
    assert (own.head, rank_parameters(spec, layout, 0).head) == (head, 0)
    assert memory.weights == 2 * (own.total - head) + 4 * head
    assert memory.moments == 12 * (own.total - head) + 8 * head


def test_logits_in_parts_and_layers_again_take_less_at_a_time() -> None:
    spec, layout = PRESETS["ring-mini-2.0"], Layout()
    whole, parts, again = (
        learner_memory(spec, layout, replace(HALF, head_rows=rows, recompute=recompute), 0, 65_536, 2)
        for rows, recompute in ((None, False), (4096, False), (4096, True))
    )
    head = spec.vocab_size * spec.hidden_size
    assert whole.working == 16 * 65_536 * spec.vocab_size
    assert parts.working == 16 * 4096 * spec.vocab_size + 4 * head
    assert parts.activations == whole.activations > 20 * again.activations
    # Without the head the backward pass of a layer is what counts: its activations once more, and its gradients.
    middle = learner_memory(spec, Layout(4, pipeline=4), replace(HALF, recompute=True), 1, 65_536, 8)
    assert (
        middle.working
        == 65_536 * layer_activations(spec, False, 2) + 2 * rank_parameters(spec, Layout(4, pipeline=4), 1).total / 5
    )


def test_a_cluster_is_a_count_and_a_name() -> None:
    cluster = parse_cluster("64xH100")
    assert (cluster.devices, cluster.accelerator.memory) == (64, 80e9)
    assert cluster.speed(8) > cluster.speed(16) == 50e9
    assert all(device.source for device in ACCELERATORS.values())
    for wrong in ("H100", "0xH100", "64xH1000", "-1xH100", "64 H100"):
        with pytest.raises(BadInput, match=r"COUNTxNAME.*H200"):
            parse_cluster(wrong)
