"""One step under every layout on gloo processes, against one process: loss, gradients, log-probs, rewards, checkpoints.

All layouts start from one loaded checkpoint. Two and four processes are forked once from a server that has imported
torch and megatron, run every layout one after another, and leave files that the tests read.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import socket
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from components.failures import BadInput
from components.model.hf import hf_state, read_hf_directory
from components.model.layout import UNDIVIDED, Layout
from components.model.shards import owned, pieces
from components.model.spec import PRESETS
from components.model.stream import WholeTensors
from components.model.wire import WeightShards, pack_pieces, unpack
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.training.learner import Learner
from components.training.packing import shard
from components.training.types import LossResult, PolicySequence, PolicyTokens, Sequence
from tests.components.training.export import write_hf
from tests.components.training.points import load_point, save_point

pytestmark = pytest.mark.engine

MODEL = ModelConfig(preset="nano")
SPEC = PRESETS["nano"]
OPTIMISER = OptimiserConfig(lr=3e-3, beta2=0.95, clip_grad_norm=1e9)  # gradients as they are
TWO = {
    "dp": Layout(2),
    "tp": Layout(2, tensor=2),
    "ep": Layout(2, expert=2),
    "tp-ep": Layout(2, tensor=2, expert=2),
    "pp": Layout(2, pipeline=2),
    "cp": Layout(2, context=2),
}
FOUR = {
    "tp-pp": Layout(4, tensor=2, pipeline=2),
    "dp-ep": Layout(4, expert=4),
    "tp-cp-ep": Layout(4, tensor=2, context=2, expert=4),
    "dp-tp-ep": Layout(4, tensor=2, expert=2),
    "dp-pp-ep": Layout(4, pipeline=2, expert=2),
}
# float32 sums in another order; gradients here are up to 0.3, rewards and log-probs up to 10.
GRADIENT, VALUE = 3e-6, 3e-5


@dataclass
class Seen:
    """What one rank saw. grads: HF block -> gradient, of the blocks it sends. start, after: what it sends, (layout,
    buffer), before and after the steps. streamed, everywhere: what WholeTensors gave it, for one rank and for all."""

    metrics: list[dict[str, float]]
    logprobs: list
    scores: np.ndarray
    grads: dict
    start: tuple
    after: tuple
    streamed: dict | None = None
    everywhere: dict | None = None


def sequences(count: int = 9, seed: int = 0) -> list[Sequence]:
    rng = np.random.default_rng(seed)
    return [Sequence(rng.integers(10, 112, n), np.arange(n) >= n // 3) for n in rng.integers(8, 60, count)]


def rollouts() -> list[PolicySequence]:
    rng = np.random.default_rng(7)
    out = []
    for sequence in sequences(6, seed=3):
        n = int(sequence.loss_mask.sum())
        old, noise = rng.normal(-4, 1, n).astype(np.float32), rng.normal(0, 0.01, n).astype(np.float32)
        weights = np.full(n, 1 / (6 * n), np.float32)
        advantages = np.full(n, rng.normal(), np.float32)
        out.append(PolicySequence(sequence.tokens, sequence.loss_mask, old + noise, old, None, advantages, weights))
    return out


def whole_responses(tokens: PolicyTokens) -> LossResult:
    """One ratio per response, as GSPO has it: right only where a rank sees all of a response's tokens."""
    count = int(tokens.response.max()) + 1
    size = torch.zeros(count).index_add(0, tokens.response, torch.ones_like(tokens.logprobs))
    log_ratio = torch.zeros(count).index_add(0, tokens.response, tokens.logprobs - tokens.old_logprobs) / size
    loss = -(tokens.weights * tokens.advantages * log_ratio.exp()[tokens.response]).sum()
    sums = {"responses": torch.tensor(float(count)), "entropy": tokens.entropy.sum()}
    return LossResult(loss, sums, {"ratio": log_ratio.exp().max()})


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(2)
    return [(rng.integers(40, 112, rng.integers(9, 30)), rng.integers(40, 112, 12)) for _ in range(7)]


MICRO_BATCH = 160  # several micro-batches, so that a pipeline has something to overlap


def learner_of(layout: Layout, rank: int, seed: int = 1) -> Learner:
    return Learner(
        rank, layout.world, MODEL, ExecutionConfig(**layout.settings(), micro_batch_tokens=MICRO_BATCH), seed
    )


def gradients(learner: Learner) -> dict:
    """(name, starts) -> reduced gradient, of the blocks this rank sends."""
    optimiser = learner.optimiser
    found = pieces(learner.model, SPEC, lambda tensor: optimiser.view("grad", tensor))
    return {(p.name, p.starts): p.read().clone().numpy() for p in owned(found)}


def steps(learner: Learner, layout: Layout, rank: int, place: Path) -> Seen:
    """One step of each kind, from one checkpoint each time, then a resume point and an export."""
    data = layout.place(rank).data

    def mine(items, size):
        return [items[i] for i in shard([size(item) for item in items], layout.data)[data]]

    documents = mine(sequences(), lambda s: len(s.tokens))
    ranked = mine(pairs(), lambda p: len(p[0]) + len(p[1]))
    learner.load_hf(place / "start")
    learner.configure(OPTIMISER, 20, 1e-3, reward_head=True)
    metrics = [learner.train_pairs(ranked, len(pairs()))]
    scores = learner.score([chosen for chosen, _ in ranked])
    learner.load_hf(place / "start")
    layout_of_start, buffer = learner.shard()
    start = (layout_of_start, buffer.copy())
    logprobs = learner.logprobs(documents)
    learner.configure(OPTIMISER, 20, 0.0)
    # All sequences for the first replica: the others must take part with nothing.
    metrics.append(learner.policy_step(rollouts() if data == 0 else [], whole_responses))
    learner.load_hf(place / "start")
    learner.configure(OPTIMISER, 20, 1e-3)
    metrics.append(learner.train_tokens(documents, 128))
    after, buffer = learner.shard()
    seen = Seen(metrics, logprobs, scores, gradients(learner), start, (after, buffer.copy()))
    save_point(learner, place / "resume")
    metrics.append(learner.train_tokens(documents, 128))
    return seen


def rank_main(rank: int, world: int, port: int, root: str, layouts: dict[str, Layout]) -> None:
    """Body of one process: every layout in turn, what it saw in `<layout>/<rank>.pickle`."""
    torch.set_num_threads(1)
    for name, layout in layouts.items():
        place = Path(root, name)
        try:
            learner = learner_of(layout, rank)
            learner.connect("127.0.0.1", port)
            seen = steps(learner, layout, rank, place)
            learner.load_hf(place / "start")
            stream = WholeTensors(learner.model)
            seen.streamed = {tensor: value.clone().numpy() for tensor, value in stream if value is not None}
            seen.everywhere = {tensor: value.clone().numpy() for tensor, value in WholeTensors(learner.model, True)}
            write_hf(learner, place / "export")
            # From the resume point of one process: the next step under this layout, and as bitwise as its own.
            load_point(learner, place / "one")
            seen.metrics.append(learner.train_tokens(_share(layout, rank), 128))
            load_point(learner, place / "resume")
            seen.metrics.append(learner.train_tokens(_share(layout, rank), 128))
            result: object = seen
        except BaseException:
            result = traceback.format_exc()
        (place / f"{rank}.part").write_bytes(pickle.dumps(result))
        (place / f"{rank}.part").rename(place / f"{rank}.pickle")
        if isinstance(result, str):
            return


def _share(layout: Layout, rank: int) -> list[Sequence]:
    documents = sequences()
    return [documents[i] for i in shard([len(d.tokens) for d in documents], layout.data)[layout.place(rank).data]]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> tuple[Path, Seen, dict]:
    """(directory, what one process saw, its state after the step)."""
    place = tmp_path_factory.mktemp("one")
    learner = learner_of(UNDIVIDED, 0)
    learner.initialise(3)
    for router in (layer.mlp.router for layer in learner.model.decoder.layers[1:]):
        router.expert_bias.normal_(0, 0.05, generator=torch.Generator().manual_seed(5))
    write_hf(learner, place / "start")
    seen = steps(learner, UNDIVIDED, 0, place)
    load_point(learner, place / "resume")
    return place, seen, {name: tensor.clone() for name, tensor in hf_state(learner.model, SPEC)}


def _run(root: Path, start: Path, layouts: dict[str, Layout], world: int) -> None:
    for name in layouts:
        (root / name).mkdir()
        (root / name / "start").symlink_to(start / "start")
        (root / name / "one").symlink_to(start / "resume")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["components.training.learner"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        context.Process(target=rank_main, args=(rank, world, port, str(root), layouts), daemon=True)
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(900)
        if process.is_alive():
            process.kill()


@pytest.fixture(scope="module")
def ran(one, tmp_path_factory) -> Path:
    """All layouts of two and of four processes."""
    root = tmp_path_factory.mktemp("layouts")
    _run(root, one[0], TWO, 2)
    _run(root, one[0], FOUR, 4)
    return root


def results(ran: Path, name: str) -> tuple[Layout, list[Seen]]:
    layout = (TWO | FOUR)[name]
    found = []
    for rank in range(layout.world):
        path = ran / name / f"{rank}.pickle"
        assert path.is_file(), f"rank {rank} never finished {name}"
        seen = pickle.loads(path.read_bytes())
        assert isinstance(seen, Seen), f"rank {rank}: {seen}"
        found.append(seen)
    return layout, found


@pytest.mark.parametrize("name", [*TWO, *FOUR])
def test_a_layout_takes_the_steps_of_one_process(ran, one, name):
    """Pairs, policy loss, cross entropy and the step after it: losses, counts, gradients, on every rank alike."""
    _, seen = results(ran, name)
    _, expected, _ = one
    for ours, *theirs in zip(expected.metrics, *(rank.metrics for rank in seen), strict=False):
        for key in ours.keys() - {"seconds", "fill", "grad_norm"}:
            assert len({metrics[key] for metrics in theirs}) == 1, key
            assert theirs[0][key] == pytest.approx(ours[key], rel=2e-4, abs=1e-6), key
        assert theirs[0]["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-4)
    grads: dict = {}
    for rank in seen:
        assert not grads.keys() & rank.grads.keys()
        grads |= rank.grads
    whole: dict[str, np.ndarray] = {}
    for (tensor, starts), value in grads.items():
        target = whole.setdefault(tensor, np.full(tensor_shape(one, tensor), np.nan, np.float32))
        target[tuple(slice(s, s + n) for s, n in zip(starts, value.shape, strict=True))] = value
    reference = _joined(expected.grads)
    assert whole.keys() == reference.keys()
    for tensor, value in whole.items():
        np.testing.assert_allclose(value, reference[tensor], atol=GRADIENT, rtol=1e-3, err_msg=tensor)


@pytest.mark.parametrize("name", [*TWO, *FOUR])
def test_logprobs_and_rewards_come_from_the_ranks_that_speak(ran, one, name):
    layout, seen = results(ran, name)
    _, expected, _ = one
    documents = [shard([len(d.tokens) for d in sequences()], replicas) for replicas in (layout.data, 1)]
    ranked = [shard([len(a) + len(b) for a, b in pairs()], replicas) for replicas in (layout.data, 1)]
    known = dict(zip(documents[1][0], expected.logprobs, strict=True))
    scores = dict(zip(ranked[1][0], expected.scores, strict=True))
    for replica, rank in enumerate(layout.speakers()):
        for index, (logprobs, entropy) in zip(documents[0][replica], seen[rank].logprobs, strict=True):
            np.testing.assert_allclose(logprobs, known[index][0], atol=VALUE)
            np.testing.assert_allclose(entropy, known[index][1], atol=VALUE)
        np.testing.assert_allclose(seen[rank].scores, [scores[i] for i in ranked[0][replica]], atol=VALUE)


@pytest.mark.parametrize("name", [*TWO, *FOUR])
def test_every_weight_is_sent_once_and_arrives_whole(ran, one, name):
    """The shards of all ranks, and the stream to the first, are the checkpoint they loaded, bit for bit."""
    _, seen = results(ran, name)
    shards = WeightShards(tuple(s.start[0] for s in seen), tuple(s.start[1] for s in seen))
    whole = dict(shards.items())
    assert len(shards) == len(whole) == len(one[2])
    assert seen[0].streamed.keys() == whole.keys()
    assert not any(rank.streamed for rank in seen[1:])
    for tensor, value in read_hf_directory(one[0] / "start")[1]:
        np.testing.assert_array_equal(whole[tensor], value.numpy(), err_msg=tensor)
        np.testing.assert_array_equal(seen[0].streamed[tensor], value.numpy(), err_msg=tensor)
        for rank in seen:
            np.testing.assert_array_equal(rank.everywhere[tensor], value.numpy(), err_msg=tensor)
    assert max(part.bytes for part in shards.layouts) < 0.75 * sum(part.bytes for part in shards.layouts)


@pytest.mark.parametrize("name", [*TWO, *FOUR])
def test_checkpoints_reshard(ran, one, name):
    """The layout goes on from one process's, one process from the layout's; its own next step repeats bitwise."""
    _, seen = results(ran, name)
    *_, third, own, from_one, again = seen[0].metrics
    assert from_one["loss"] == pytest.approx(one[1].metrics[3]["loss"], rel=1e-5)
    assert again["loss"] == own["loss"]
    assert again["grad_norm"] == own["grad_norm"]
    assert third["loss"] != own["loss"]
    back = learner_of(UNDIVIDED, 0)
    load_point(back, ran / name / "resume")
    sent = dict(unpack([s.after[0] for s in seen], [s.after[1] for s in seen]))
    for tensor, value in hf_state(back.model, SPEC):
        np.testing.assert_array_equal(value.detach().numpy(), sent[tensor], err_msg=tensor)


@pytest.mark.parametrize("name", TWO | FOUR)
def test_every_rank_exports_its_share(ran, one, name):
    layout, _ = results(ran, name)
    export = ran / name / "export"
    index = json.loads((export / "model.safetensors.index.json").read_text())
    spec, tensors = read_hf_directory(export)
    written = dict(tensors)
    assert spec == SPEC
    assert written.keys() == one[2].keys() == index["weight_map"].keys()
    for tensor, value in read_hf_directory(one[0] / "start")[1]:
        assert torch.equal(written[tensor], value), tensor
    files = sorted(export.glob("*.safetensors"))
    assert {path.name for path in files} == set(index["weight_map"].values())
    assert [path.name for path in files] == [
        f"model-{n:05d}-of-{layout.world:05d}.safetensors" for n in range(1, layout.world + 1)
    ]
    sizes = [path.stat().st_size for path in files]
    if layout.pipeline == 1:  # else embedding and head, half of this model, are each of one stage
        assert max(sizes) < 2.1 * sum(sizes) / len(sizes)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(2, tensor=4), "2 execution.learners cannot be divided"),
        (Layout(4, tensor=4), "2 key-value heads cannot be divided by tensor_parallel = 4"),
        (Layout(3, pipeline=3), "4 layers cannot be divided by pipeline_parallel = 3"),
        (Layout(3, expert=3), "16 experts cannot be divided by expert_parallel = 3"),
        (Layout(2, expert=4), "2 learners of a pipeline stage cannot be divided by expert_parallel = 4"),
        (Layout(3, context=3), "4 attention heads of a rank cannot be divided by context_parallel = 3"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_anything_starts(layout, message):
    with pytest.raises(BadInput, match=message):
        layout.check(SPEC)


def test_places_follow_megatrons_order():
    layout = Layout(16, tensor=2, context=2, pipeline=2, expert=4)
    assert layout.data == 2
    places = [layout.place(rank) for rank in range(16)]
    assert [p.tensor for p in places[:4]] == [0, 1, 0, 1]
    assert [p.context for p in places[:4]] == [0, 0, 1, 1]
    assert [p.pipeline for p in places] == [0] * 8 + [1] * 8
    assert [p.expert for p in places[:8]] == [0, 1, 2, 3] * 2
    assert layout.speakers() == [8, 12]


def test_a_packed_shard_reuses_its_buffer(one):
    learner = learner_of(UNDIVIDED, 0)
    learner.load_hf(one[0] / "start")
    layout, buffer = learner.shard()
    again, same = learner.shard()
    assert again == layout
    assert same is buffer
    assert pack_pieces(owned(pieces(learner.model, SPEC)))[0].checksum == layout.checksum


def tensor_shape(one, name: str) -> tuple[int, ...]:
    return tuple(one[2][name].shape)


def _joined(grads: dict) -> dict[str, np.ndarray]:
    whole: dict[str, list[tuple[tuple[int, ...], np.ndarray]]] = {}
    for (name, starts), value in grads.items():
        whole.setdefault(name, []).append((starts, value))
    return {name: np.concatenate([v for _, v in sorted(parts, key=lambda p: p[0])]) for name, parts in whole.items()}
