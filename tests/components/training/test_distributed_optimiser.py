"""The distributed optimiser against the undivided one, on gloo processes: parameters, moments, memory, resume points.

Four processes, then two, are forked from a server that has imported torch and megatron. Under each layout they train
the same steps with whole and with divided moments and leave resume points, which other layouts take up.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import pickle
import socket
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from components.model.layout import UNDIVIDED, Layout
from components.model.memory import Method, learner_memory
from components.model.shards import Piece, tensor_shapes
from components.model.spec import PRESETS
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.training import parallel
from components.training.learner import Learner
from components.training.packing import shard
from components.training.stretches import ROW, own_blocks
from components.training.types import Sequence
from tests.components.training.export import write_hf
from tests.components.training.points import load_point, save_point

pytestmark = pytest.mark.engine

MODEL, SPEC = ModelConfig(preset="nano"), PRESETS["nano"]
SHAPES = tensor_shapes(SPEC)
CLIPPING = OptimiserConfig(lr=3e-3, beta2=0.95, weight_decay=0.1, clip_grad_norm=0.1)  # gradients' norms are above 1
FOUR = {
    "data": Layout(4),
    "experts over all": Layout(4, expert=4),
    "context, experts over two": Layout(4, context=2, expert=2),
    "tensor": Layout(4, tensor=2),
    "pipeline": Layout(4, pipeline=2),
}
TWO = {"two": Layout(2)}
LAYOUTS = FOUR | TWO
REWARDED = ("tensor", "pipeline", "two")


@dataclass
class Seen:
    """What a rank saw. metrics: of the steps with whole, then with divided moments. again: the step after the divided
    one's own resume point. moments, predicted: bytes. read: values that it took from a point, by kind."""

    metrics: list[list[dict[str, float]]]
    again: dict[str, float]
    moments: int
    predicted: float
    read: dict[str, int]


def documents(layout: Layout, rank: int) -> list[Sequence]:
    rng = np.random.default_rng(0)
    found = [Sequence(rng.integers(10, 112, n), np.arange(n) >= n // 3) for n in rng.integers(8, 40, 6)]
    mine = shard([len(d.tokens) for d in found], layout.data)[layout.place(rank).data]
    return [found[i] for i in mine]


def learner_of(layout: Layout, rank: int, distributed: bool, **more) -> Learner:
    execution = ExecutionConfig(**layout.settings(), distributed_optimiser=distributed, **more)
    return Learner(rank, layout.world, MODEL, execution, 1)


def train(learner: Learner, layout: Layout, rank: int, root: Path, offloads: bool) -> list[dict[str, float]]:
    learner.load_hf(root / "start")
    learner.configure(CLIPPING, 20, 1e-3)
    metrics = []
    for _ in range(3):
        metrics.append(learner.train_tokens(documents(layout, rank), 64))
        if offloads:
            learner.offload()
            learner.onload()
    return metrics


def steps(name: str, layout: Layout, rank: int, port: int, root: Path) -> Seen:
    metrics = []
    for distributed in (False, True):
        learner = learner_of(layout, rank, distributed)
        learner.connect("127.0.0.1", port)
        metrics.append(train(learner, layout, rank, root, distributed))
        save_point(learner, root / f"{name} {distributed}")
        metrics[-1].append(learner.train_tokens(documents(layout, rank), 64))
    own = learner.optimiser
    method = Method("divided", distributed=True)
    predicted = learner_memory(SPEC, layout, method, layout.place(rank).pipeline, 512, 1).moments
    # Whole moments of one process are divided, and divided ones of this layout are taken up whole.
    for distributed, source in ((True, "one"), (False, f"{name} True"), (True, f"{name} False")):
        learner = learner_of(layout, rank, distributed)
        load_point(learner, root / source)
        save_point(learner, root / f"{name} {distributed} of {source}")
    load_point(learner, root / f"{name} True")
    again = learner.train_tokens(documents(layout, rank), 64)
    read = load_point(learner, root / "one").values
    if name in REWARDED:
        rewards(name, learner, root)
    return Seen(metrics, again, own.first.nbytes + own.second.nbytes, predicted, read)


def rewards(name: str, learner: Learner, root: Path) -> None:
    """A reward model's step, its point, and the same point once more."""
    learner.load_hf(root / "start")
    learner.configure(CLIPPING, 20, 0.0, reward_head=True)
    pairs = [(np.arange(10, 30), np.arange(40, 55)), (np.arange(60, 75), np.arange(20, 38))]
    learner.train_pairs(pairs, 2 * learner.layout.data)
    save_point(learner, root / f"{name} reward")
    learner.configure(CLIPPING, 20, 0.0, reward_head=True)
    load_point(learner, root / f"{name} reward")
    save_point(learner, root / f"{name} reward again")


def half(rank: int, root: Path) -> dict[str, tuple[int, int]]:
    """bfloat16 weights with float32 copies: whole, divided, and divided with reduce-scatter. Returns how many float32
    copies and how many moments this rank has."""
    found = {}
    for name in ("whole", "divided", "scattered"):
        parallel.SCATTERING = ("gloo",) if name == "scattered" else ("nccl",)
        learner = learner_of(TWO["two"], rank, name != "whole", learner_dtype="bfloat16")
        train(learner, TWO["two"], rank, root, offloads=False)
        save_point(learner, root / f"half {name}")
        weights = [parameter.clone() for parameter in learner.model.parameters()]
        other = learner_of(TWO["two"], rank, name != "whole", learner_dtype="bfloat16")
        load_point(other, root / f"half {name}")
        assert all(torch.equal(a, b) for a, b in zip(weights, other.model.parameters(), strict=True))
        torch.save(weights, root / f"half {name} {rank}.pt")
        found[name] = (learner.optimiser.master.numel(), learner.optimiser.first.numel())
    return found


def rank_main(rank: int, world: int, port: int, root: Path, layouts: dict[str, Layout]) -> None:
    torch.set_num_threads(1)
    seen: object
    try:
        seen = {name: steps(name, layout, rank, port, root) for name, layout in layouts.items()}
        if world == 2:
            # Divided moments of four processes, taken up by two.
            for name in FOUR:
                learner = learner_of(TWO["two"], rank, True)
                load_point(learner, root / f"{name} True")
                save_point(learner, root / f"two True of {name} True")
            seen["half"] = half(rank, root)
    except BaseException:
        seen = traceback.format_exc()
    (root / f"{world}-{rank}.part").write_bytes(pickle.dumps(seen))
    (root / f"{world}-{rank}.part").rename(root / f"{world}-{rank}.pickle")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Everything that one, four and two processes left."""
    place = tmp_path_factory.mktemp("distributed")
    one = learner_of(UNDIVIDED, 0, True)  # alone it is the undivided optimiser
    one.initialise(3)
    write_hf(one, place / "start")
    train(one, UNDIVIDED, 0, place, offloads=False)
    save_point(one, place / "one")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["components.training.learner"])
    for world, layouts in ((4, FOUR), (2, TWO)):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        arguments = [(rank, world, port, place, layouts) for rank in range(world)]
        ranks = [context.Process(target=rank_main, args=each, daemon=True) for each in arguments]
        for process in ranks:
            process.start()
        deadline = time.monotonic() + 600
        while any(process.is_alive() for process in ranks):
            failed = [path for path in place.glob("*.pickle") if isinstance(pickle.loads(path.read_bytes()), str)]
            if failed or time.monotonic() > deadline:
                for process in ranks:
                    process.kill()
            time.sleep(0.1)
    return place


def seen_by(root: Path, name: str) -> list:
    world = LAYOUTS[name].world if name in LAYOUTS else 2
    found = []
    for rank in range(world):
        path = root / f"{world}-{rank}.pickle"
        assert path.is_file(), f"rank {rank} of {world} never finished"
        seen = pickle.loads(path.read_bytes())
        assert isinstance(seen, dict), f"rank {rank} of {world}: {seen}"
        found.append(seen[name])
    return found


def blocks_of(point: Path, path: str | None = None) -> Iterator[tuple[dict, np.ndarray]]:
    """(entry of the index, values) of every block, or of those of one file, as any reader of safetensors sees them."""
    files: dict[str, dict] = {}
    for entry in json.loads((point / "index.json").read_text())["blocks"]:
        if path in (None, entry["path"]):
            if entry["path"] not in files:
                files[entry["path"]] = load_file(str(point / entry["path"]))
            key = f"{entry['moment']}/{entry['name']}/{','.join(map(str, entry['starts']))}"
            yield entry, files[entry["path"]][key].numpy()


@functools.cache
def whole(point: Path) -> dict[tuple[str, str], np.ndarray]:
    """A resume point put together; every value is in it exactly once."""
    tensors: dict[tuple[str, str], np.ndarray] = {}
    for entry, block in blocks_of(point):
        name = (entry["moment"], entry["name"])
        shape = SHAPES.get(entry["name"], (1, SPEC.hidden_size))
        target = tensors.setdefault(name, np.full(shape, np.nan, np.float32))
        place = tuple(slice(s, s + n) for s, n in zip(entry["starts"], block.shape, strict=True))
        assert np.isnan(target[place]).all(), f"{name} is there twice"
        target[place] = block
    assert not any(np.isnan(tensor).any() for tensor in tensors.values())
    return tensors


def same(root: Path, one: str, other: str) -> None:
    first, second = whole(root / one), whole(root / other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name], err_msg=str(name))


@pytest.mark.parametrize("name", LAYOUTS)
def test_divided_moments_take_the_steps_of_whole_ones(root, name):
    for rank in seen_by(root, name):
        for ours, theirs in zip(*rank.metrics, strict=True):
            for key in ours.keys() - {"seconds"}:
                # The norm is a float64 sum in another order; clipping takes a float32 of it.
                assert theirs[key] == pytest.approx(ours[key], rel=1e-12), key
            assert ours["grad_norm"] > CLIPPING.clip_grad_norm
    same(root, f"{name} True", f"{name} False")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_rank_holds_and_writes_and_reads_its_stretch_of_the_moments_and_no_more(root, name):
    layout, seen = LAYOUTS[name], seen_by(root, name)
    for rank in seen:
        # Stretches are padded to rows.
        assert rank.predicted <= rank.moments <= rank.predicted + 8 * 8 * ROW
        assert rank.read["first"] == rank.read["second"] <= rank.moments // 8
        assert rank.read["first"] >= rank.predicted // 8 - 8 * ROW
    stages, whole = range(layout.pipeline), Method("whole")
    undivided = [learner_memory(SPEC, layout, whole, stage, 512, 1).moments for stage in stages]
    for number, rank in enumerate(seen):
        assert rank.moments < 0.9 * undivided[layout.place(number).pipeline]
        blocks = blocks_of(root / f"{name} True", f"rank-{number:05d}.safetensors")
        written = sum(block.nbytes for entry, block in blocks if entry["moment"] != "master")
        # One of the tensor parallel ranks with the same norms and routers writes them.
        assert 0.98 * rank.predicted <= written <= rank.moments


@pytest.mark.parametrize("name", LAYOUTS)
def test_points_with_divided_and_whole_moments_are_taken_up_from_each_other_bit_for_bit(root, name):
    same(root, f"{name} True of one", "one")
    same(root, f"{name} False of {name} True", f"{name} True")
    same(root, f"{name} True of {name} False", f"{name} False")
    for rank in seen_by(root, name):
        assert rank.again["loss"] == rank.metrics[1][-1]["loss"]
        assert rank.again["grad_norm"] == rank.metrics[1][-1]["grad_norm"]


@pytest.mark.parametrize("name", REWARDED)
def test_a_reward_models_point_is_taken_up_bit_for_bit(root, name):
    assert ("second", "reward_head.weight") in whole(root / f"{name} reward")
    same(root, f"{name} reward again", f"{name} reward")


@pytest.mark.parametrize("name", FOUR)
def test_another_number_of_processes_takes_up_divided_moments_bit_for_bit(root, name, tmp_path):
    same(root, f"two True of {name} True", f"{name} True")
    back = learner_of(UNDIVIDED, 0, False)
    load_point(back, root / f"{name} True")
    save_point(back, tmp_path / "one")
    same(root, str(tmp_path / "one"), f"{name} True")


def test_float32_copies_of_bfloat16_weights_are_divided_too(root):
    """All but the head, which stays in float32. Also with reduce-scatter, which NCCL gets."""
    head = SPEC.vocab_size * SPEC.hidden_size
    for rank, found in enumerate(seen_by(root, "half")):
        count = found["whole"][1]
        assert found["whole"][0] == count
        assert found["divided"] == found["scattered"]
        assert found["divided"] == pytest.approx(((count - head) / 2 + head, count / 2), abs=8 * ROW)
        weights = [torch.load(root / f"half {name} {rank}.pt") for name in ("whole", "divided", "scattered")]
        assert {weight.dtype for weight in weights[0]} == {torch.bfloat16, torch.float32}
        for ours, *theirs in zip(*weights, strict=True):
            assert all(torch.equal(ours, other) for other in theirs)
    same(root, "half divided", "half whole")
    same(root, "half scattered", "half whole")


def test_a_stretch_of_a_strided_block_is_rectangles_that_cover_it_once():
    """Two key-value groups of three heads and two more, as in fused attention; cut anywhere."""
    flat = torch.arange(7 + 2 * 5 * 4 * 3, dtype=torch.float32)
    outline = torch.empty(len(flat), device="meta")[7:].view(2, 5, 4, 3)[:, :3]
    block = flat[7:].view(2, 5, 4, 3)[:, :3].reshape(24, 3)
    piece = Piece("q", (48, 3), (24, 0), (24, 3), outline)
    for size in (1, 2, 10, 50):
        rebuilt = torch.full((24, 3), torch.nan)
        for start in range(0, len(flat), size):
            own = slice(start, min(start + size, len(flat)))
            for part in own_blocks(piece, own, flat[own]):
                rows, columns = (slice(s, s + n) for s, n in zip(part.starts, part.sizes, strict=True))
                target = rebuilt[rows.start - 24 : rows.stop - 24, columns]
                assert torch.isnan(target).all()
                target.copy_(part.read())
        assert torch.equal(rebuilt, block)
