"""A real vLLM engine in this process beside the real trainer: parity, exchange, seeds, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from components.failures import BadInput, DeadlineExceeded, IntegrityError
from components.model.builder import build_model
from components.model.hf import INDEX, hf_state, write_hf_directory
from components.model.hf_config import config_json
from components.model.spec import PRESETS
from components.model.tokenizer import load_tokenizer
from components.rollout.engine import Engine
from components.rollout.exchange import checksum, pack
from components.rollout.types import SampleRequest, Sampling

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
SPEC = PRESETS["smoke"]
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=24, stop_token_ids=(3,))
DEADLINE_S = 300.0


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("nano")


@pytest.fixture(scope="module")
def engine(tokenizer):
    import llvmlite.binding  # noqa: F401 - the data filters load it; an engine must start beside it

    return Engine(config_json(SPEC, tokenizer, "float32"), "float32", 128, 32)


def weights_of(seed: int):
    model = build_model(SPEC, seed=seed)
    for bias in [b for layer in model.decoder.layers if hasattr(layer.mlp, "router") for b in [layer.mlp.router]]:
        bias.expert_bias.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    return model, {name: tensor.float().numpy().copy() for name, tensor in hf_state(model, SPEC)}


def publish(engine: Engine, version: int, weights) -> None:
    layouts, buffers = pack(weights)
    buffers[0].flags.writeable = False  # as Ray hands it out
    expected = checksum(layouts)
    assert engine.load_weights(version, expected, layouts, buffers) == (version, expected)


def requests(count: int, first: int = 0) -> list[SampleRequest]:
    rng = np.random.default_rng(5)
    prompts = [[int(token) for token in rng.integers(8, 100, 5 + i % 7)] for i in range(first + count)]
    return [SampleRequest(f"r{i}", prompts[i], seed=1000 + i) for i in range(first, first + count)]


def trainer_logprobs(model, prompt: list[int], tokens: list[int]) -> np.ndarray:
    ids = torch.tensor(prompt + tokens)
    with torch.no_grad():
        logged = torch.log_softmax(model.stream_logits(ids, [len(ids)]), -1)
    at = torch.arange(len(prompt) - 1, len(ids) - 1)
    return logged[at, ids[len(prompt) :]].numpy()


def test_nothing_is_admitted_before_weights_or_for_another_version(engine):
    if engine.version is None:
        with pytest.raises(IntegrityError, match="holds weights of version None"):
            engine.generate(requests(1), SAMPLING, 0, DEADLINE_S)
    _, weights = weights_of(1)
    publish(engine, 4, weights)
    with pytest.raises(IntegrityError, match="version 4, the request wants version 3"):
        engine.generate(requests(1), SAMPLING, 3, DEADLINE_S)
    layouts, buffers = pack(weights)
    with pytest.raises(IntegrityError, match="refused"):
        engine.load_weights(5, "0" * 32, layouts, buffers)
    assert engine.admitted() == (None, None)
    with pytest.raises(IntegrityError):
        engine.generate(requests(1), SAMPLING, 4, DEADLINE_S)


def test_trainer_and_engine_agree_and_a_reload_leaves_nothing_stale(engine):
    for version, seed in enumerate((1, 2, 1)):
        model, weights = weights_of(seed)
        publish(engine, version, weights)
        samples = engine.generate(requests(24), SAMPLING, version, DEADLINE_S)
        scored = engine.score([(s.prompt + s.tokens, len(s.prompt)) for s in samples], version, DEADLINE_S)
        for sample, scores in zip(samples, scored, strict=True):
            expected = trainer_logprobs(model, sample.prompt, sample.tokens)
            np.testing.assert_allclose(sample.logprobs, expected, atol=1e-5)
            np.testing.assert_allclose(scores, expected, atol=1e-5)
            assert sample.version == version
            assert (sample.finish == "stop") == (sample.tokens[-1] == 3)
        if version == 0:
            first = samples
    assert [(s.tokens, s.logprobs) for s in samples] == [(s.tokens, s.logprobs) for s in first]


def test_a_layer_after_the_last_is_neither_loaded_nor_in_the_way(engine, tokenizer, tmp_path):
    """vLLM 0.32 has no place for BailingMoeV2's MTP layer: a directory that has one draws as one without."""
    from vllm.model_executor.model_loader.weight_utils import filter_duplicate_safetensors_files as filtered

    spec = SPEC.model_copy(update={"num_nextn_predict_layers": 1})
    with_it = build_model(spec, seed=1)
    write_hf_directory(tmp_path, spec, hf_state(with_it, spec), tokenizer)
    assert engine.load_files(7, str(tmp_path)) == 7
    sample = engine.generate(requests(1), SAMPLING, 7, DEADLINE_S)[0]
    expected = trainer_logprobs(build_model(SPEC, seed=1), sample.prompt, sample.tokens)
    np.testing.assert_allclose(sample.logprobs, expected, atol=1e-5)
    files = [str(path) for path in tmp_path.glob("*.safetensors")]
    assert len(files) == 2
    assert filtered(files, str(tmp_path), INDEX) == [str(tmp_path / "model.safetensors")]


def test_a_request_draws_the_same_in_any_company(engine):
    publish(engine, 9, weights_of(1)[1])
    together = engine.generate(requests(16), SAMPLING, 9, DEADLINE_S)
    alone = engine.generate(requests(1, first=11), SAMPLING, 9, DEADLINE_S)
    assert alone[0].tokens == together[11].tokens
    assert len({tuple(sample.tokens) for sample in together}) > 12


def test_what_does_not_fit_is_named_and_a_deadline_leaves_the_engine_usable(engine):
    publish(engine, 10, weights_of(1)[1])
    long = SampleRequest("long", [9] * 120, 0)
    with pytest.raises(
        BadInput, match=r"request long: prompt of 120 tokens plus 24 new ones exceeds the context of 128"
    ):
        engine.generate([long], SAMPLING, 10, DEADLINE_S)
    with pytest.raises(DeadlineExceeded, match=r"finished 0 of 4 requests"):
        engine.generate(requests(4), SAMPLING, 10, 0.0)
    assert len(engine.generate(requests(2), SAMPLING, 10, DEADLINE_S)) == 2


def test_on_a_cpu_nothing_is_compiled_for_the_first_draw(engine):
    from torch._dynamo.utils import counters

    publish(engine, 11, weights_of(1)[1])
    assert engine.generate(requests(1), SAMPLING, 11, DEADLINE_S)
    assert not counters["frames"]


def test_a_sleeping_engine_admits_nothing_and_draws_the_same_when_awake(engine):
    publish(engine, 20, weights_of(1)[1])
    before = engine.generate(requests(6), SAMPLING, 20, DEADLINE_S)
    engine.sleep()
    with pytest.raises(IntegrityError, match="the engine sleeps"):
        engine.generate(requests(1), SAMPLING, 20, DEADLINE_S)
    engine.wake()
    assert engine.generate(requests(6), SAMPLING, 20, DEADLINE_S) == before
