"""The layer that predicts the token after the next: its values, targets, gradient, rest, files, and every layout."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import socket
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components.failures import BadInput
from components.model.architecture import preset_of
from components.model.builder import build_model, expert_biases, mtp_layers
from components.model.hf import INDEX, hf_state, load_hf_state, read_hf_directory, tensor_shapes, write_hf_directory
from components.model.importer import import_checkpoint
from components.model.layers import PackedLayout
from components.model.layout import UNDIVIDED, Layout
from components.model.shards import owned, pieces
from components.model.spec import PRESETS, LingSpec
from components.model.stream import WholeTensors
from components.model.tokenizer import load_tokenizer
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.release.export import export
from components.training.batches import micro_batch
from components.training.learner import Learner
from components.training.packing import shard
from components.training.parallel import run, token_logprobs
from components.training.types import LossResult, PolicySequence, Sequence
from tests.components.training.export import write_hf
from tests.components.training.points import load_point, save_point

pytestmark = pytest.mark.engine

MODEL = ModelConfig(preset="smoke", mtp_layers=1)
SPEC = PRESETS["smoke"].model_copy(update={"num_nextn_predict_layers": 1})
OPTIMISER = OptimiserConfig(lr=3e-3, beta2=0.95, clip_grad_norm=1e9)
WEIGHT = 0.3


def documents(count: int = 7, seed: int = 0) -> list[Sequence]:
    rng = np.random.default_rng(seed)
    return [Sequence(rng.integers(10, 112, n), np.arange(n) >= n // 4 + 1) for n in rng.integers(2, 40, count)]


def learner_of(weight: float, model: ModelConfig = MODEL, layout: Layout = UNDIVIDED, rank: int = 0, **execution):
    settings = layout.settings() | {"micro_batch_tokens": 64} | execution
    learner = Learner(rank, layout.world, model, ExecutionConfig(**settings), seed=1)
    learner.initialise(3)
    for number, bias in enumerate(expert_biases(learner.model)):
        bias.normal_(0, 0.05, generator=torch.Generator().manual_seed(number))
    learner.configure(OPTIMISER, 20, 1e-3, mtp_loss_weight=weight)
    return learner


def ahead_logprobs(learner: Learner, chosen: list[Sequence]) -> torch.Tensor:
    """Of the tokens after the next that count, documents in order."""
    found: list[torch.Tensor] = []
    batch = micro_batch(chosen, list(range(len(chosen))), "cpu", mtp=True)

    def work(batch, logits, kept):
        found.append(token_logprobs(learner.model, batch, logits, kept)[0][-batch.ahead :])

    with torch.no_grad():
        run(learner.model, [batch], work, train=False, mtp=True)
    return found[0]


class TestTargets:
    def test_a_target_has_two_tokens_before_it_in_its_own_document(self):
        tokens = [np.arange(100, 104), np.arange(110, 111), np.arange(120, 122), np.arange(130, 135)]
        masks = [[0, 1, 1, 1], [0], [0, 1], [0, 0, 0, 1, 1]]
        chosen = [Sequence(t, np.asarray(m, bool)) for t, m in zip(tokens, masks, strict=True)]
        batch = micro_batch(chosen, [0, 1, 2, 3], "cpu", mtp=True)
        stream = batch.tokens.tolist()
        ahead = batch.positions[-batch.ahead :].tolist()
        assert [stream[position] for position in ahead] == [100, 101, 131, 132]
        assert batch.targets[-batch.ahead :].tolist() == [102, 103, 133, 134]
        plain = micro_batch(chosen, [0, 1, 2, 3], "cpu")
        assert batch.positions[: -batch.ahead].tolist() == plain.positions.tolist()
        assert batch.targets[: -batch.ahead].tolist() == plain.targets.tolist()

    def test_neighbours_of_a_document_do_not_change_its_values(self):
        learner, chosen = learner_of(WEIGHT), documents()
        together = ahead_logprobs(learner, chosen)
        alone = [ahead_logprobs(learner, [each]) for each in chosen if each.loss_mask[2:].any()]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def reference(learner: Learner, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probs [tokens - 1, vocabulary] as BailingMoeV2MTPLayer computes them for one document: the next token's
    embedding and the hidden state behind the final norm, each normed, side by side through eh_proj, one sparse layer, a
    norm, the LM head. The sparse layer runs as the only one of another model."""
    weights = {name: tensor.clone() for name, tensor in hf_state(learner.model, SPEC)}
    mtp = {name.removeprefix(SPEC.mtp_prefix): w for name, w in weights.items() if name.startswith(SPEC.mtp_prefix)}

    def norm(x, weight):
        return weight * x * (x.square().mean(-1, keepdim=True) + SPEC.rms_norm_eps).rsqrt()

    hidden = learner.model.run(tokens, [len(tokens)], None, head=False)[:-1]
    embedded = weights["model.word_embeddings.weight"][tokens[1:]]
    both = torch.cat([norm(embedded, mtp["enorm.weight"]), norm(hidden, mtp["hnorm.weight"])], -1)
    alone = SPEC.without_mtp().model_copy(update={"num_hidden_layers": 1, "first_k_dense_replace": 0})
    one = build_model(alone)
    given = weights | {f"model.layers.0.{name}": w for name, w in mtp.items()}
    given["model.norm.weight"] = mtp["final_layernorm.weight"]
    load_hf_state(one, alone, {name: given[name] for name in tensor_shapes(alone)})
    one._positions, one._with_head = None, True
    packed = PackedLayout.of([len(tokens) - 1], alone)
    projected = (both @ mtp["eh_proj.weight"].t()).unsqueeze(1)
    logits = one(None, None, None, decoder_input=projected, packed_seq_params=packed)
    return torch.log_softmax(logits, -1)


@torch.no_grad()
def test_the_layer_computes_what_ling_publishes():
    learner = learner_of(WEIGHT)
    for layer in mtp_layers(learner.model):
        for norm in (layer.enorm, layer.hnorm, layer.final_layernorm):
            norm.weight.normal_(1.0, 0.2)
    tokens = documents(1, seed=4)[0].tokens
    mask = np.arange(len(tokens)) >= 2
    ours = ahead_logprobs(learner, [Sequence(tokens, mask)])
    stream = torch.as_tensor(tokens)
    expected = reference(learner, stream)[:-1].gather(1, stream[2:].unsqueeze(1)).squeeze(1)
    assert torch.allclose(ours, expected, atol=2e-5)


def loss_of(learner: Learner, chosen: list[Sequence]) -> float:
    learner._update = lambda loss: (loss, 0.0)
    metrics = learner.train_tokens(chosen, 64)
    del learner._update
    return metrics["grad_norm"]


def test_the_gradient_is_that_of_both_losses_and_reaches_the_whole_model():
    """Against differences along it, of the layer and of all the rest: nothing is detached."""
    learner, chosen = learner_of(WEIGHT), documents()
    loss_of(learner, chosen)
    named = dict(learner.model.named_parameters())
    gradient = {name: parameter.grad.clone() for name, parameter in named.items()}
    for own in (True, False):
        part = {name: g for name, g in gradient.items() if name.startswith("mtp.") == own}
        slope = sum(float(g.square().sum()) for g in part.values()) ** 0.5
        around = []
        for sign in (1, -1):
            for name, g in part.items():
                named[name].data.add_(g, alpha=sign * 2e-3 / slope)
            around.append(loss_of(learner, chosen))
            for name, g in part.items():
                named[name].data.add_(g, alpha=-sign * 2e-3 / slope)
        assert (around[0] - around[1]) / 4e-3 == pytest.approx(slope, rel=0.02), own
    half = learner_of(WEIGHT / 2)
    loss_of(half, chosen)
    assert not torch.allclose(
        half.model.embedding.word_embeddings.weight.grad, gradient["embedding.word_embeddings.weight"]
    )


def test_it_learns_and_says_so():
    learner = learner_of(1.0)
    counting = [Sequence(np.arange(start, start + 24), np.arange(24) > 0) for start in range(20, 80, 5)]
    first = learner.train_tokens(counting, 128)
    for _ in range(25):
        last = learner.train_tokens(counting, 128)
    assert first["mtp_loss"] > 4
    assert last["mtp_loss"] < first["mtp_loss"] / 2
    assert last["loss"] < first["loss"] / 2


def test_parts_of_logits_and_layers_again_change_nothing():
    whole, parts = learner_of(WEIGHT), learner_of(WEIGHT, recompute=True, logit_rows=9)
    ours, theirs = (learner.train_tokens(documents(), 64) for learner in (whole, parts))
    assert theirs["mtp_loss"] == pytest.approx(ours["mtp_loss"], rel=1e-5)
    assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-5)
    assert theirs["expert_load_max"] == ours["expert_load_max"]


class TestAtRest:
    """Without a weight the layer stays as it is, bit for bit, and the model trains as one that has none."""

    def policy(self, learner: Learner) -> None:
        chosen = [replace(s, loss_mask=s.loss_mask) for s in documents() if s.loss_mask.any()]
        rollouts = []
        for sequence, (old, _) in zip(chosen, learner.logprobs(chosen), strict=True):
            ones = np.ones(len(old), np.float32)
            rollouts.append(PolicySequence(sequence.tokens, sequence.loss_mask, old, old, None, ones, ones / 50))
        loss = lambda t: LossResult(-(t.weights * (t.logprobs - t.old_logprobs).exp() * t.advantages).sum(), {}, {})  # noqa: E731
        learner.policy_step(rollouts, loss)

    def pairs(self, learner: Learner) -> None:
        learner.configure(OPTIMISER, 20, 0.0, reward_head=True)
        learner.train_pairs([(s.tokens, s.tokens[::-1].copy()) for s in documents()], 7)

    def tokens(self, learner: Learner) -> None:
        assert "mtp_loss" not in learner.train_tokens(documents(), 64)

    @pytest.mark.parametrize("step", ["tokens", "policy", "pairs"])
    def test_a_step(self, step: str):
        with_it, without = learner_of(0.0), learner_of(0.0, ModelConfig(preset="smoke"))
        before = {name: tensor.clone() for name, tensor in hf_state(with_it.model, SPEC)}
        for learner in (with_it, without):
            getattr(self, step)(learner)
        after, plain = dict(hf_state(with_it.model, SPEC)), dict(hf_state(without.model, without.spec))
        assert plain.keys() == tensor_shapes(without.spec).keys()
        for name, tensor in after.items():
            resting = name.startswith(SPEC.mtp_prefix)
            assert torch.equal(tensor, before[name] if resting else plain[name]), name

    def test_a_weight_without_a_layer_is_refused(self):
        with pytest.raises(BadInput, match="no MTP layer"):
            learner_of(WEIGHT, ModelConfig(preset="smoke"))


class TestFiles:
    @pytest.fixture(scope="class")
    def model(self):
        return learner_of(WEIGHT).model

    @pytest.fixture(scope="class")
    def directory(self, model, tmp_path_factory) -> Path:
        path = tmp_path_factory.mktemp("mtp")
        write_hf_directory(path, SPEC, hf_state(model, SPEC), load_tokenizer("nano"), shard_bytes=150_000)
        return path

    def test_names_are_inclusion_ais(self):
        names = set(tensor_shapes(SPEC)) - set(tensor_shapes(SPEC.without_mtp()))
        own = {name.removeprefix("model.layers.2.") for name in names}
        assert {"enorm.weight", "hnorm.weight", "final_layernorm.weight", "eh_proj.weight"} < own
        assert {"attention.query_key_value.weight", "mlp.gate.expert_bias", "mlp.experts.7.down_proj.weight"} < own
        assert sum(int(np.prod(tensor_shapes(SPEC)[name])) for name in names) == SPEC.mtp_parameters()

    def test_they_are_kept_bit_for_bit_in_files_of_their_own(self, model, directory):
        assert json.loads((directory / "config.json").read_text())["num_nextn_predict_layers"] == 1
        named = json.loads((directory / INDEX).read_text())["weight_map"]
        assert not [name for name in named if name.startswith(SPEC.mtp_prefix)]
        assert len(list(directory.glob("mtp-*-of-*.safetensors"))) > 1
        spec, tensors = read_hf_directory(directory)
        assert spec == SPEC
        read = dict(tensors)
        assert all(torch.equal(read[name], tensor) for name, tensor in hf_state(model, SPEC))
        plain, tensors = read_hf_directory(directory, mtp=False)
        assert (plain, {name for name, _ in tensors}) == (SPEC.without_mtp(), set(named))

    def test_an_import_reads_them_from_among_the_others(self, directory, tmp_path):
        """As inclusionAI's base models have them."""
        theirs = tmp_path / "theirs"
        shutil.copytree(directory, theirs)
        from safetensors import safe_open

        index = json.loads((theirs / INDEX).read_text())
        for number, path in enumerate(sorted(theirs.glob("mtp*.safetensors"))):
            path = path.rename(theirs / f"model-9000{number}-of-90002.safetensors")
            with safe_open(str(path), framework="pt") as file:
                index["weight_map"] |= dict.fromkeys(file.keys(), path.name)
        (theirs / INDEX).write_text(json.dumps(index))
        counted = import_checkpoint(str(theirs), SPEC, "nano", tmp_path / "kept", tmp_path)
        assert counted["tensors"] == len(tensor_shapes(SPEC))
        assert set(dict(read_hf_directory(tmp_path / "kept")[1])) == set(tensor_shapes(SPEC))
        import_checkpoint(str(theirs), SPEC.without_mtp(), "nano", tmp_path / "without", tmp_path)
        assert read_hf_directory(tmp_path / "without")[0] == SPEC.without_mtp()
        assert not list((tmp_path / "without").glob("mtp*"))

    def test_a_promise_that_the_files_do_not_keep_names_the_way_out(self, directory, tmp_path):
        shutil.copytree(directory, tmp_path / "x", ignore=shutil.ignore_patterns("mtp*"))
        with pytest.raises(BadInput, match=r"set model\.mtp_layers to 0"):
            import_checkpoint(str(tmp_path / "x"), SPEC, "nano", tmp_path / "y", tmp_path)

    @pytest.mark.parametrize("dtype", ["bfloat16", "fp8", "int4"])
    def test_releases_have_them(self, directory, tmp_path, dtype):
        exported = export(directory, tmp_path / dtype, "released", dtype)
        spec, tensors = read_hf_directory(tmp_path / dtype)
        assert {name: tuple(t.shape) for name, t in tensors} == dict(tensor_shapes(spec))
        assert spec == SPEC
        assert exported.parameters == SPEC.without_mtp().parameter_count()

    def test_the_preset_of_a_base_is_found_whether_it_has_one_or_not(self):
        assert preset_of(SPEC, "here") == preset_of(SPEC.without_mtp(), "here") == "smoke"
        with pytest.raises(ValueError, match="less than or equal to 1"):
            LingSpec.model_validate(SPEC.model_dump() | {"num_nextn_predict_layers": 2})


LAYOUTS = {
    "dp": Layout(2),
    "dp-stretches": Layout(2),  # with a distributed optimiser
    "tp": Layout(2, tensor=2),
    "cp": Layout(2, context=2),
    "tp-ep": Layout(2, tensor=2, expert=2),
    "dp-ep": Layout(2, expert=2),
}
NANO = ModelConfig(preset="nano", mtp_layers=1)
NANO_SPEC = PRESETS["nano"].model_copy(update={"num_nextn_predict_layers": 1})


def steps(learner: Learner, layout: Layout, rank: int, place: Path) -> dict:
    """A step of both losses, its gradient, a resume point, an export, and the step after."""
    chosen = documents(11, seed=2)
    mine = [chosen[i] for i in shard([len(d.tokens) for d in chosen], layout.data)[layout.place(rank).data]]
    learner.load_hf(place / "start")
    learner.configure(OPTIMISER, 20, 1e-3, mtp_loss_weight=WEIGHT)
    metrics = [learner.train_tokens(mine, 64)]
    view = learner.optimiser.view
    held = owned(pieces(learner.model, NANO_SPEC, lambda tensor: view("grad", tensor)))
    grads = {(p.name, p.starts): p.read().clone().numpy() for p in held}
    save_point(learner, place / "resume")
    write_hf(learner, place / "export")
    sent = [name for name, value in WholeTensors(learner.model) if value is not None]
    load_point(learner, place / "resume")
    metrics.append(learner.train_tokens(mine, 64))
    return {"metrics": metrics, "grads": grads, "sent": sent}


def rank_main(rank: int, port: int, root: str) -> None:
    torch.set_num_threads(1)
    for name, layout in LAYOUTS.items():
        place = Path(root, name)
        try:
            divided = name == "dp-stretches"
            execution = ExecutionConfig(**layout.settings(), micro_batch_tokens=64, distributed_optimiser=divided)
            learner = Learner(rank, layout.world, NANO, execution, seed=1)
            learner.connect("127.0.0.1", port)
            result: object = steps(learner, layout, rank, place)
        except BaseException:
            result = traceback.format_exc()
        (place / f"{rank}.pickle").write_bytes(pickle.dumps(result))
        if isinstance(result, str):
            return


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, dict]:
    """All layouts on two gloo processes, and one process."""
    root = tmp_path_factory.mktemp("mtp-layouts")
    learner = learner_of(WEIGHT, NANO)
    write_hf(learner, root / "start")
    alone = steps(learner, UNDIVIDED, 0, root)
    for name in LAYOUTS:
        (root / name).mkdir()
        (root / name / "start").symlink_to(root / "start")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["components.training.learner"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=rank_main, args=(rank, port, str(root)), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
        if process.is_alive():
            process.kill()
    return root, alone


@pytest.mark.parametrize("name", [*LAYOUTS])
def test_a_layout_takes_the_steps_of_one_process(ran, name):
    root, alone = ran
    seen = [pickle.loads((root / name / f"{rank}.pickle").read_bytes()) for rank in range(2)]
    assert all(isinstance(each, dict) for each in seen), seen
    for ours, *theirs in zip(alone["metrics"], *(each["metrics"] for each in seen), strict=True):
        for key in ours.keys() - {"seconds", "fill"}:
            assert theirs[0][key] == theirs[1][key] == pytest.approx(ours[key], rel=2e-4), key
    for grads in (each["grads"] for each in seen):
        for (tensor, starts), value in grads.items():
            whole = np.zeros(tensor_shapes(NANO_SPEC)[tensor], np.float32)
            for (other, place), block in alone["grads"].items():
                if other == tensor:
                    whole[tuple(slice(s, s + n) for s, n in zip(place, block.shape, strict=True))] = block
            mine = whole[tuple(slice(s, s + n) for s, n in zip(starts, value.shape, strict=True))]
            assert np.abs(value - mine).max() < 3e-6, tensor
    assert {t for each in seen for t, _ in each["grads"]} == {t for t, _ in alone["grads"]}
    assert seen[0]["sent"] == alone["sent"] == [*tensor_shapes(NANO_SPEC.without_mtp())]
    first, second = (dict(read_hf_directory(place / "export")[1]) for place in (root, root / name))
    assert first.keys() == second.keys() == tensor_shapes(NANO_SPEC).keys()
    assert all(torch.allclose(first[key], second[key], atol=1e-3) for key in first)


def test_stages_of_layers_are_refused_before_anything_is_built():
    with pytest.raises(BadInput, match=r"execution\.pipeline_parallel.*set model\.mtp_layers to 0"):
        Layout(2, pipeline=2).check(NANO_SPEC)
